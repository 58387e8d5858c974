// log p(label) of rows of logits, compiled once per instruction set.
//
// Shapes: logits [R, K] with contiguous columns, scores [R]. Presumes: a row fits the second-level
// cache (K up to some 10^5), because it is read twice: for its maximum, and for the sum of
// exponentials. Any K is right. Limit: one read of the logits from memory; from cache, arithmetic
// (AVX-512: 11 instructions for each vector of logits).
//
// The label's own column stays out of the sum, so that a score near zero (a confident observer)
// keeps its relative accuracy: log p = -log1p(sum of the others).
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/simd.h"
#include "score/score.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

// a > b ? a : b, so b if either is NaN. GCC finds the processor's instruction for this only in some
// places.
inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xFFFF, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

inline float largest_lane(Floats v) {
  float lane[kWidth];
  store(lane, v);
  for (int64_t half = kWidth / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i)
      lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  }
  return lane[0];
}

// The same vector with -inf in one lane; a lane outside of it changes nothing.
inline Floats without_lane(Floats values, int64_t lane) {
  static constexpr uint32_t kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Words skipped =
      reinterpret_cast<Words>(load_as<Words>(kLanes) == (static_cast<uint32_t>(lane) - Words{}));
  return skipped ? splat(-kInfinity) : values;
}

// sum + exp(x) for x <= 0; 0 where exp(x) is not a normal number, NaN for NaN. The polynomials are
// of degree 5, minimax for the relative error, below 1e-7 before rounding.
#if defined(__AVX512F__)
// exp(x) = 2^floor(z) * 2^f, z = x * log2(e), f in [0, 1). The rounding of z makes the relative
// error grow to 3e-7 at exp(-7) and 3e-6 at exp(-75), which is little against the maximum's own
// term, 1. The form below has no such error, but takes an eighth more time.
inline Floats add_exp(Floats sum, Floats x) {
  const Floats z = x * splat(0x1.715476p+0f);
  const Floats f = _mm512_maskz_reduce_ps(0xFFFF, z, _MM_FROUND_TO_NEG_INF);
  Floats p = splat(0x1.ec320ap-10f);
  p = multiply_add(p, f, splat(0x1.26900ep-7f));
  p = multiply_add(p, f, splat(0x1.c95446p-5f));
  p = multiply_add(p, f, splat(0x1.ebd5a8p-3f));
  p = multiply_add(p, f, splat(0x1.62e4f6p-1f));
  p = multiply_add(p, f, splat(0x1.fffffep-1f));
  return sum + Floats(_mm512_maskz_scalef_ps(0xFFFF, p, z));
}
#else
// exp(x) = 2^n * exp(r), |r| <= ln(2) / 2, n in -127 .. 0.
inline Floats add_exp(Floats sum, Floats x) {
  x = larger(splat(-88.0f), x);  // n = -127 there, and the bits of the scale are 0: +0
  // The constant leaves n + 127 in the low bits of the rounded product.
  const Floats shifter = splat(0x1.8p23f + 127.0f);
  const Floats shifted = multiply_add(x, splat(0x1.715476p+0f), shifter);
  const Floats n = shifted - shifter;
#if defined(__FMA__)
  const Floats r = multiply_add(n, splat(-0x1.62e430p-1f), x);  // error of 1.9e-9 * |n|
#else
  Floats r = x - n * splat(0x1.62e400p-1f);  // short enough for an exact product
  r = r - n * splat(0x1.7f7d1cp-20f);
#endif
  Floats p = splat(0x1.0fa7d8p-7f);
  p = multiply_add(p, r, splat(0x1.573ad0p-5f));
  p = multiply_add(p, r, splat(0x1.555a6ep-3f));
  p = multiply_add(p, r, splat(0x1.fffdc4p-2f));
  p = multiply_add(p, r, splat(0x1.fffff6p-1f));
  p = multiply_add(p, r, splat(1.0f));
  return multiply_add(p, as_floats(as_words(shifted) << 23), sum);
}
#endif

// The maximum of a row; may ignore NaN.
template <class T>
float row_maximum(const T* row, int64_t classes) {
  if (classes < kWidth) return largest_lane(load_partial(row, classes));
  Floats best[4];
  best[0] = load(row + classes - kWidth);  // the rest, overlapping the next vectors
  best[1] = best[2] = best[3] = best[0];
  int64_t k = 0;
  for (; k + 4 * kWidth <= classes; k += 4 * kWidth) {
    for (int i = 0; i < 4; ++i) best[i] = larger(best[i], load(row + k + i * kWidth));
  }
  for (; k + kWidth <= classes; k += kWidth) best[0] = larger(best[0], load(row + k));
  return largest_lane(larger(larger(best[0], best[1]), larger(best[2], best[3])));
}

// Adds exp(logit - maximum) of whole vectors to the sum. Partial sums of at most 16 vectors keep
// the rounding errors of long rows small. Data `ahead`, in a later row, is prefetched: a row of
// 1000 takes 0.18 us instead of 0.27, because the processor's own prefetching ends at a page.
template <class T>
void add_vectors(const T* row, int64_t vectors, int64_t ahead, Floats maximum, Floats& sum) {
  while (vectors > 0) {
    const int64_t block = vectors < 64 ? vectors : 64;
    Floats part[4] = {};
    int64_t v = 0;
    for (; v + 4 <= block; v += 4) {
      for (int i = 0; i < 4; ++i) {
        __builtin_prefetch(row + (v + i) * kWidth + ahead);
        part[i] = add_exp(part[i], load(row + (v + i) * kWidth) - maximum);
      }
    }
    for (; v < block; ++v) part[0] = add_exp(part[0], load(row + v * kWidth) - maximum);
    sum += (part[0] + part[1]) + (part[2] + part[3]);
    row += block * kWidth;
    vectors -= block;
  }
}

// log p = difference - log(others + exp(difference)), where the difference is the label's logit
// minus the maximum, and the others are the sum of exponentials without the label's.
inline float score_of(float maximum, double difference, float others) {
  if (!std::isfinite(maximum)) return std::numeric_limits<float>::quiet_NaN();
  if (difference == 0.0) return 0.0f - std::log1p(others);
  return static_cast<float>(difference -
                            std::log(others + std::exp(static_cast<float>(difference))));
}

template <class T>
float score_row(const T* row, int64_t classes, int64_t ahead, int64_t label, float maximum) {
  const int64_t vectors = classes / kWidth;
  const int64_t label_vector = label / kWidth;
  const int64_t before = label_vector < vectors ? label_vector : vectors;
  const Floats m = splat(maximum);
  Floats sum = {};
  add_vectors(row, before, ahead, m, sum);
  if (before < vectors) {
    const T* from = row + label_vector * kWidth;
    sum = add_exp(sum, without_lane(load(from), label % kWidth) - m);
    add_vectors(from + kWidth, vectors - before - 1, ahead, m, sum);
  }
  const int64_t rest = classes - vectors * kWidth;
  if (rest > 0) {
    const Floats last = load_partial(row + vectors * kWidth, rest);
    sum = add_exp(sum, without_lane(last, label - vectors * kWidth) - m);
  }
  const double difference = static_cast<double>(to_float(row[label])) - maximum;
  return score_of(maximum, difference, sum_lanes(sum));
}

template <class T>
void score_typed(const Logits& logits, const int64_t* labels, int64_t rows_per_label, int64_t begin,
                 int64_t end, float* scores) {
  const T* data = static_cast<const T*>(logits.data);
  int64_t image = begin / rows_per_label;
  int64_t next_image = (image + 1) * rows_per_label;
  // The next row's maximum is found before this row is summed, so that the sum need not wait for
  // it.
  float maximum = row_maximum(data + begin * logits.stride, logits.classes);
  for (int64_t r = begin; r < end; ++r) {
    if (r == next_image) {
      ++image;
      next_image += rows_per_label;
    }
    const T* row = data + r * logits.stride;
    const float next = r + 1 < end ? row_maximum(row + logits.stride, logits.classes) : 0.0f;
    scores[r] = score_row(row, logits.classes, 2 * logits.stride, labels[image], maximum);
    maximum = next;
  }
}

void score_rows(const Logits& logits, const int64_t* labels, int64_t rows_per_label, int64_t begin,
                int64_t end, float* scores) {
  switch (logits.type) {
    case Dtype::float32:
      return score_typed<float>(logits, labels, rows_per_label, begin, end, scores);
    case Dtype::float16:
      return score_typed<Half>(logits, labels, rows_per_label, begin, end, scores);
    case Dtype::bfloat16:
      return score_typed<BFloat16>(logits, labels, rows_per_label, begin, end, scores);
    default:
      return;  // there are no other types
  }
}

}  // namespace

extern const ScoreKernels score_kernels_table;
const ScoreKernels score_kernels_table = {score_rows};

}  // namespace PYDREAM_ISA
}  // namespace pydream
