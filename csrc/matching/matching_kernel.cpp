// Distances of gradients and their derivatives in one pass, compiled once per instruction set.
//
// Shapes: spans of some thousand values, or rows [R, K], of two lists; a third is written.
// Presumes: spans short enough for float32 sums in each lane (kBlock values); rows of both lists
// that fit the second-level cache (K up to some 10^5), because they are read twice.
// Limit: bandwidth, the three lists once; without a derivative, two.
#include <cmath>

#include "common/simd.h"
#include "matching/matching.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

constexpr int64_t kBlock = 4096;  // values summed in float32 before the sum is added in float64
constexpr int64_t kChains = 4;

inline Floats magnitude(Floats values) {
  const Ints bits = reinterpret_cast<Ints>(values) & 0x7FFFFFFF;
  return reinterpret_cast<Floats>(bits);
}

// The squares or magnitudes of differences, and their derivatives.
struct Squared {
  static Floats value(Floats difference) { return difference * difference; }
  static Floats slope(Floats difference) { return difference + difference; }
  static float value(float difference) { return difference * difference; }
  static float slope(float difference) { return 2.0f * difference; }
};

struct Absolute {
  static Floats value(Floats difference) { return magnitude(difference); }
  static Floats slope(Floats difference) {
    const Floats one = splat(1.0f);
    const Floats zero = {};
    return difference > zero ? one : (difference < zero ? -one : zero);
  }
  static float value(float difference) { return std::fabs(difference); }
  static float slope(float difference) {
    return static_cast<float>((difference > 0.0f) - (difference < 0.0f));
  }
};

template <class Kind>
double differences(const float* x, const float* y, float* gradient, int64_t count, float scale) {
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Floats sum[kChains] = {};
    int64_t i = begin;
    for (; i + kChains * kWidth <= end; i += kChains * kWidth) {
#pragma GCC unroll 4
      for (int64_t chain = 0; chain < kChains; ++chain) {
        const int64_t at = i + chain * kWidth;
        const Floats difference = load(x + at) - load(y + at);
        sum[chain] += Kind::value(difference);
        if (gradient != nullptr) store(gradient + at, Kind::slope(difference) * splat(scale));
      }
    }
    double rest = 0.0;
    for (; i < end; ++i) {
      rest += static_cast<double>(Kind::value(x[i] - y[i]));
      if (gradient != nullptr) gradient[i] = Kind::slope(x[i] - y[i]) * scale;
    }
    total += sum_lanes_in_double((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
  }
  return total;
}

struct Products {
  double xx, xy, yy;
};

Products products(const float* x, const float* y, int64_t count) {
  Products total = {};
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Floats xx[2] = {}, xy[2] = {}, yy[2] = {};
    int64_t i = begin;
    for (; i + 2 * kWidth <= end; i += 2 * kWidth) {
#pragma GCC unroll 2
      for (int64_t chain = 0; chain < 2; ++chain) {
        const Floats a = load(x + i + chain * kWidth), b = load(y + i + chain * kWidth);
        xx[chain] += a * a;
        xy[chain] += a * b;
        yy[chain] += b * b;
      }
    }
    for (; i < end; ++i) {
      const double a = x[i], b = y[i];
      total.xx += a * a;
      total.xy += a * b;
      total.yy += b * b;
    }
    total.xx += sum_lanes_in_double(xx[0] + xx[1]);
    total.xy += sum_lanes_in_double(xy[0] + xy[1]);
    total.yy += sum_lanes_in_double(yy[0] + yy[1]);
  }
  return total;
}

// 1 - <x, y> / (|x| |y| + floor) and, if wanted, its derivative a * x + b * y.
double cosine_row(const float* x, const float* y, float* gradient, int64_t count) {
  const Products p = products(x, y, count);
  const double length_x = std::sqrt(p.xx), length_y = std::sqrt(p.yy);
  const double below = length_x * length_y + kCosineFloor;
  if (gradient != nullptr) {
    const double turned = length_x > 0.0 ? p.xy * length_y / (length_x * below * below) : 0.0;
    const float a = static_cast<float>(turned), b = static_cast<float>(-1.0 / below);
    int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) {
      store(gradient + i, splat(a) * load(x + i) + splat(b) * load(y + i));
    }
    for (; i < count; ++i) gradient[i] = a * x[i] + b * y[i];
  }
  return 1.0 - p.xy / below;
}

// Calls work(x, y, gradient, count) on float32 pieces of `piece` values each; 16-bit values are
// widened before, and narrowed after.
template <class T, class Work>
double in_pieces(const Span& span, int64_t count, int64_t piece, const Work& work) {
  const T* x = static_cast<const T*>(span.synthetic);
  const T* y = static_cast<const T*>(span.real);
  T* gradient = static_cast<T*>(span.gradient);
  if constexpr (sizeof(T) == 4) {
    double total = 0.0;
    for (int64_t i = 0; i < count; i += piece) {
      const int64_t here = i + piece < count ? piece : count - i;
      total += work(x + i, y + i, gradient == nullptr ? nullptr : gradient + i, here);
    }
    return total;
  } else {
    float* scratch = new float[static_cast<size_t>(3 * piece)];
    double total = 0.0;
    for (int64_t i = 0; i < count; i += piece) {
      const int64_t here = i + piece < count ? piece : count - i;
      widen(x + i, here, scratch);
      widen(y + i, here, scratch + piece);
      float* slope = gradient == nullptr ? nullptr : scratch + 2 * piece;
      total += work(scratch, scratch + piece, slope, here);
      if (slope != nullptr) narrow(slope, here, gradient + i);
    }
    delete[] scratch;
    return total;
  }
}

template <class Work>
double by_type(const Span& span, int64_t count, int64_t piece, const Work& work) {
  switch (span.type) {
    case Dtype::float16:
      return in_pieces<Half>(span, count, piece, work);
    case Dtype::bfloat16:
      return in_pieces<BFloat16>(span, count, piece, work);
    default:
      return in_pieces<float>(span, count, piece, work);
  }
}

template <class Kind>
double differences_of(const Span& span, float scale) {
  return by_type(span, span.count, kBlock,
                 [scale](const float* x, const float* y, float* gradient, int64_t count) {
                   return differences<Kind>(x, y, gradient, count, scale);
                 });
}

double squared(const Span& span, float scale) { return differences_of<Squared>(span, scale); }

double absolute(const Span& span, float scale) { return differences_of<Absolute>(span, scale); }

double cosine(const Span& span) {
  return by_type(span, span.count * span.columns, span.columns, cosine_row);
}

template <class T>
void multiply_values(T* values, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) from_float(to_float(values[i]) * factor, values + i);
}

void multiply(void* values, Dtype type, int64_t count, float factor) {
  switch (type) {
    case Dtype::float16:
      return multiply_values(static_cast<Half*>(values), count, factor);
    case Dtype::bfloat16:
      return multiply_values(static_cast<BFloat16*>(values), count, factor);
    default:
      return multiply_values(static_cast<float*>(values), count, factor);
  }
}

}  // namespace

extern const MatchingKernels matching_kernels_table;
const MatchingKernels matching_kernels_table = {squared, absolute, cosine, multiply};

}  // namespace PYDREAM_ISA
}  // namespace pydream
