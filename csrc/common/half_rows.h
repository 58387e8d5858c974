// Rows of 16-bit values widened to float32 and narrowed back, in loops that compilers turn into
// vectors. Included by a *_kernel.cpp inside its namespace of the instruction set, behind
// common/half.h.

template <class T>
static inline void widen(const T* from, int64_t count, float* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

template <class T>
static inline void narrow(const float* __restrict from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) from_float(from[i], to + i);
}
