// Rows of 16-bit values widened to float32 and narrowed back, in loops that compilers turn into
// vectors. Included by a *_kernel.cpp inside its namespace of the instruction set, behind
// common/half.h.

template <class T>
static inline void widen(const T* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

static inline uint16_t narrow_bits(float value, const BFloat16*) {
  const uint32_t bits = float_bits(value);
  if (value != value) return 0x7FC0u;
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

static inline uint16_t narrow_bits(float value, const Half*) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and more
  if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by an addition
    const uint32_t rounded = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
    return static_cast<uint16_t>(sign | rounded);
  }
  const uint32_t shifted = magnitude - (112u << 23);
  return static_cast<uint16_t>(sign | (shifted + 0xFFFu + (shifted >> 13 & 1u)) >> 13);
}

template <class T>
static inline void narrow(const float* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) to[i].bits = narrow_bits(from[i], to);
}
