// log p(label) of rows of logits, compiled once per instruction set.
//
// Shapes: logits [R, K] with contiguous columns, scores [R]. Any K; a row should fit the
// second-level cache (K up to some 10^5), as it is walked twice: once for its maximum,
// once for the sum of exponentials. Limit: one read of the logits from memory; from
// cache, arithmetic (13 vector instructions for each vector of logits).
//
// The label's own column stays out of the sum, so that a score near zero (a sure
// observer) keeps its relative accuracy: log p = -log1p(sum of the others).
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/half.h"
#include "score/score.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace pydream {
namespace PYDREAM_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kWidth = 16;
#elif defined(__AVX2__)
constexpr int64_t kWidth = 8;
#else
constexpr int64_t kWidth = 4;
#endif

typedef float Floats __attribute__((vector_size(kWidth * 4)));
typedef uint32_t Words __attribute__((vector_size(kWidth * 4)));
typedef uint16_t Shorts __attribute__((vector_size(kWidth * 2)));

inline Floats splat(float value) { return value - Floats{}; }

inline Floats as_floats(Words bits) { return reinterpret_cast<Floats>(bits); }
inline Words as_words(Floats values) { return reinterpret_cast<Words>(values); }

// a * b + c. Spelled out: in standard C++ the compiler may not fuse the two by itself.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// The larger; where one is NaN, b. (The very rule of the processor's own instruction.)
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

template <class Vector, class T>
inline Vector load_bits(const T* from) {
  Vector bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

inline Floats load(const float* from) { return load_bits<Floats>(from); }

inline Floats load(const BFloat16* from) {
  return as_floats(__builtin_convertvector(load_bits<Shorts>(from), Words) << 16);
}

inline Floats load(const Half* from) {
#if defined(__AVX512F__)
  // Masked, with a full mask: GCC 12 calls the plain one's unset operand uninitialised.
  return _mm512_maskz_cvtph_ps(0xFFFF, load_bits<__m256i>(from));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(load_bits<__m128i>(from));
#else
  // to_float(Half) in vectors: the comparisons give words of all ones.
  const Words half = __builtin_convertvector(load_bits<Shorts>(from), Words);
  const Words magnitude = (half & 0x7FFFu) << 13;
  const Words special = reinterpret_cast<Words>(magnitude >= 0x0F800000u);
  const Words subnormal = reinterpret_cast<Words>(magnitude < 0x00800000u);
  const Words rebias = magnitude + (112u << 23);
  const Words small = as_words(as_floats(rebias + (1u << 23)) - splat(0x1p-14f));
  const Words bits = (subnormal & small) | (~subnormal & (rebias + (special & (112u << 23))));
  return as_floats(bits | ((half & 0x8000u) << 16));
#endif
}

inline void set_minus_infinity(float& value) { value = -std::numeric_limits<float>::infinity(); }
inline void set_minus_infinity(Half& value) { value.bits = 0xFC00u; }
inline void set_minus_infinity(BFloat16& value) { value.bits = 0xFF80u; }

// sum + exp(x) for x <= 0, to 1e-7 of the exponential; 0 below -87.68, NaN for NaN.
// exp(x) = 2^n * exp(r), |r| <= ln(2) / 2, n in -127 .. 0; exp(r) by a polynomial of
// degree 6, minimax for the relative error (4e-9 before rounding).
inline Floats add_exp(Floats sum, Floats x) {
  x = larger(splat(-88.0f), x);  // n = -127 there, and the scale's bits are 0: +0
  // The constant leaves n + 127 in the low bits of the rounded product.
  const Floats shifter = splat(0x1.8p23f + 127.0f);
  const Floats shifted = multiply_add(x, splat(0x1.715476p+0f), shifter);
  const Floats n = shifted - shifter;
#if defined(__FMA__)
  const Floats r = multiply_add(n, splat(-0x1.62e430p-1f), x);  // off by 1.9e-9 * |n|
#else
  Floats r = x - n * splat(0x1.62e400p-1f);  // short enough for an exact product
  r = r - n * splat(0x1.7f7d1cp-20f);
#endif
  Floats p = splat(0x1.6a23d0p-10f);
  p = multiply_add(p, r, splat(0x1.123a20p-7f));
  p = multiply_add(p, r, splat(0x1.5558f2p-5f));
  p = multiply_add(p, r, splat(0x1.555492p-3f));
  p = multiply_add(p, r, splat(0x1.fffffcp-2f));
  p = multiply_add(p, r, splat(1.0f));
  p = multiply_add(p, r, splat(1.0f));
  return multiply_add(p, as_floats(as_words(shifted) << 23), sum);
}

// The largest of a row, which may pass over NaN.
template <class T>
float row_maximum(const T* row, int64_t classes) {
  Floats best[4];
  T padded[kWidth];
  if (classes < kWidth) {
    for (T& each : padded) set_minus_infinity(each);
    std::memcpy(padded, row, classes * sizeof(T));
    best[0] = load(padded);
  } else {
    best[0] = load(row + classes - kWidth);  // the rest, overlapping what comes
    best[1] = best[2] = best[3] = best[0];
    int64_t k = 0;
    for (; k + 4 * kWidth <= classes; k += 4 * kWidth) {
      for (int i = 0; i < 4; ++i) best[i] = larger(best[i], load(row + k + i * kWidth));
    }
    for (; k + kWidth <= classes; k += kWidth) best[0] = larger(best[0], load(row + k));
    best[0] = larger(larger(best[0], best[1]), larger(best[2], best[3]));
  }
  float maximum = best[0][0];
  for (int64_t i = 1; i < kWidth; ++i) maximum = best[0][i] > maximum ? best[0][i] : maximum;
  return maximum;
}

// Adds exp(logit - maximum) of whole vectors to the sum. Sums of at most 16 vectors each
// are formed first, so that the rounding of long rows does not pile up.
template <class T>
void add_vectors(const T* row, int64_t vectors, Floats maximum, Floats& sum) {
  while (vectors > 0) {
    const int64_t block = vectors < 64 ? vectors : 64;
    Floats part[4] = {};
    int64_t v = 0;
    for (; v + 4 <= block; v += 4) {
      for (int i = 0; i < 4; ++i) {
        part[i] = add_exp(part[i], load(row + (v + i) * kWidth) - maximum);
      }
    }
    for (; v < block; ++v) part[0] = add_exp(part[0], load(row + v * kWidth) - maximum);
    sum += (part[0] + part[1]) + (part[2] + part[3]);
    row += block * kWidth;
    vectors -= block;
  }
}

// The same for up to one vector, without the logit at `skip`.
template <class T>
void add_partial(const T* from, int64_t count, int64_t skip, Floats maximum, Floats& sum) {
  T padded[kWidth];
  for (T& each : padded) set_minus_infinity(each);
  std::memcpy(padded, from, count * sizeof(T));
  if (skip >= 0 && skip < count) set_minus_infinity(padded[skip]);
  sum = add_exp(sum, load(padded) - maximum);
}

template <class T>
float score_row(const T* row, int64_t classes, int64_t label) {
  const float maximum = row_maximum(row, classes);
  if (!std::isfinite(maximum)) return std::numeric_limits<float>::quiet_NaN();
  const int64_t vectors = classes / kWidth;
  const int64_t label_vector = label / kWidth;
  const Floats m = splat(maximum);
  Floats sum = {};
  if (label_vector < vectors) {
    add_vectors(row, label_vector, m, sum);
    add_partial(row + label_vector * kWidth, kWidth, label % kWidth, m, sum);
    add_vectors(row + (label_vector + 1) * kWidth, vectors - label_vector - 1, m, sum);
  } else {
    add_vectors(row, vectors, m, sum);
  }
  if (vectors * kWidth < classes) {
    add_partial(row + vectors * kWidth, classes - vectors * kWidth, label - vectors * kWidth, m,
                sum);
  }
  double others = 0.0;
  for (int64_t i = 0; i < kWidth; ++i) others += sum[i];
  const double difference = static_cast<double>(to_float(row[label])) - maximum;
  if (difference == 0.0) return 0.0f - std::log1p(static_cast<float>(others));
  return static_cast<float>(difference - std::log(others + std::exp(difference)));
}

template <class T>
void score_typed(const Logits& logits, const int64_t* labels, int64_t rows_per_label, int64_t begin,
                 int64_t end, float* scores) {
  const T* data = static_cast<const T*>(logits.data);
  for (int64_t r = begin; r < end; ++r) {
    scores[r] = score_row(data + r * logits.stride, logits.classes, labels[r / rows_per_label]);
  }
}

}  // namespace

void score_rows(const Logits& logits, const int64_t* labels, int64_t rows_per_label, int64_t begin,
                int64_t end, float* scores) {
  switch (logits.type) {
    case LogitType::float32:
      return score_typed<float>(logits, labels, rows_per_label, begin, end, scores);
    case LogitType::float16:
      return score_typed<Half>(logits, labels, rows_per_label, begin, end, scores);
    case LogitType::bfloat16:
      return score_typed<BFloat16>(logits, labels, rows_per_label, begin, end, scores);
  }
}

}  // namespace PYDREAM_ISA
}  // namespace pydream
