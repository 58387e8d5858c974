// The inner loops of k-means, compiled once per instruction set.
//
// Scores: a panel holds two vectors of centres, [D, 2 * kWidth]. One value of each of kRows rows is
// broadcast and multiplied with both, so kRows * 2 sums stay in registers. The rows are read in
// place, the panel from the second-level cache (D = 2048: 256 KiB of 2 MiB).
// Presumes: D up to 8000 for that; beyond, panels come from the third-level cache, at 10 bytes a
// cycle.
// Limit: the multiply-adds, N * k * D; 294 GFLOP/s on two cores of a Xeon with AVX-512 where
// torch's matrix product (MKL) reaches 226, for 5000 x 2048 by 128. Partial sums of 256 dimensions
// bound the rounding (score_slack).
#include "kmeans/kmeans_kernel.h"

#include <limits>

#include "common/simd.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 12;    // 24 sums, 2 vectors of the panel, 1 broadcast: of 32 registers
constexpr int kFewRows = 4;  // to 6 points at a time: 24 sums, 4 rows, 1 point
#elif defined(__AVX2__)
constexpr int kRows = 6;  // 12 sums, of 16 registers
constexpr int kFewRows = 2;
#else
constexpr int kRows = 6;
constexpr int kFewRows = 2;
#endif
constexpr int64_t kColumns = 2 * kWidth;
constexpr int64_t kPart = 256;
static_assert(kRows <= kMostRows && kColumns <= kMostColumns);

// Products of kCount rows with a panel: [kCount][2].
template <int kCount>
inline void products(const float* const* rows, int64_t dim, const float* panel,
                     Floats (&total)[kCount][2]) {
  const float* row[kCount];
  for (int r = 0; r < kCount; ++r) {
    row[r] = rows[r];
    total[r][0] = total[r][1] = Floats{};
  }
  for (int64_t begin = 0; begin < dim; begin += kPart) {
    const int64_t end = begin + kPart < dim ? begin + kPart : dim;
    Floats sum[kCount][2] = {};
    for (int64_t d = begin; d < end; ++d) {
      const Floats left = load(panel + d * kColumns);
      const Floats right = load(panel + d * kColumns + kWidth);
#pragma GCC unroll 12
      for (int r = 0; r < kCount; ++r) {
        const Floats value = splat(row[r][d]);
        sum[r][0] = multiply_add(value, left, sum[r][0]);
        sum[r][1] = multiply_add(value, right, sum[r][1]);
      }
    }
    for (int r = 0; r < kCount; ++r) {
      total[r][0] += sum[r][0];
      total[r][1] += sum[r][1];
    }
  }
}

inline void take(Floats score, Ints centre, Minimum* minimum) {
  const Floats best = load(minimum->best);
  const Floats second = load(minimum->second);
  const Ints at = load(minimum->centre);
  const Ints wins = (score < best) | ((score == best) & (centre < at));
  const Floats loser = wins ? best : score;
  store(minimum->best, wins ? score : best);
  store(minimum->second, loser < second ? loser : second);
  store(minimum->centre, wins ? centre : at);
}

template <int kCount>
void score_rows(const float* const* rows, int64_t dim, const Panel& panel, Minimum* const* minima) {
  Floats total[kCount][2];
  products<kCount>(rows, dim, panel.values, total);
  for (int r = 0; r < kCount; ++r) {
    for (int half = 0; half < 2; ++half) {
      const int64_t at = half * kWidth;
      take(load(panel.bias + at) - total[r][half], load(panel.centre + at), minima[r]);
    }
  }
}

template <int kCount>
void score_rows_out(const float* const* rows, int64_t dim, const Panel& panel, float* scores) {
  Floats total[kCount][2];
  products<kCount>(rows, dim, panel.values, total);
  for (int r = 0; r < kCount; ++r) {
    for (int half = 0; half < 2; ++half) {
      const int64_t at = half * kWidth;
      store(scores + r * kColumns + at, load(panel.bias + at) - total[r][half]);
    }
  }
}

// A group of rows that is not full has its own function: kRest rows or fewer.
template <int kRest>
void score_rest(const float* const* rows, int64_t count, int64_t dim, const Panel& panel,
                Minimum* const* minima) {
  if constexpr (kRest > 0) {
    if (count == kRest) return score_rows<kRest>(rows, dim, panel, minima);
    score_rest<kRest - 1>(rows, count, dim, panel, minima);
  }
}

void score(const float* const* rows, int64_t count, int64_t dim, const Panel& panel,
           Minimum* const* minima) {
  int64_t r = 0;
  for (; r + kRows <= count; r += kRows) score_rows<kRows>(rows + r, dim, panel, minima + r);
  score_rest<kRows - 1>(rows + r, count - r, dim, panel, minima + r);
}

void score_all(const float* const* rows, int64_t count, int64_t dim, const Panel& panel,
               float* scores) {
  int64_t r = 0;
  for (; r + kRows <= count; r += kRows) {
    score_rows_out<kRows>(rows + r, dim, panel, scores + r * kColumns);
  }
  for (; r < count; ++r) score_rows_out<1>(rows + r, dim, panel, scores + r * kColumns);
}

void clear(Minimum* minimum) {
  for (int64_t lane = 0; lane < kWidth; ++lane) {
    minimum->best[lane] = minimum->second[lane] = kInfinity;
    minimum->centre[lane] = std::numeric_limits<int32_t>::max();
  }
}

Nearest reduce(const Minimum& minimum) {
  int64_t winner = 0;
  for (int64_t lane = 1; lane < kWidth; ++lane) {
    if (minimum.best[lane] < minimum.best[winner] ||
        (minimum.best[lane] == minimum.best[winner] &&
         minimum.centre[lane] < minimum.centre[winner])) {
      winner = lane;
    }
  }
  float second = kInfinity;
  for (int64_t lane = 0; lane < kWidth; ++lane) {
    const float other = lane == winner ? minimum.second[lane] : minimum.best[lane];
    if (other < second) second = other;
  }
  return {minimum.best[winner], minimum.centre[winner], second};
}

float distance(const float* x, const float* point, int64_t dim) {
  Floats sum[4] = {};
  int64_t d = 0;
  for (; d + 4 * kWidth <= dim; d += 4 * kWidth) {
#pragma GCC unroll 4
    for (int chain = 0; chain < 4; ++chain) {
      const Floats difference = load(x + d + chain * kWidth) - load(point + d + chain * kWidth);
      sum[chain] = multiply_add(difference, difference, sum[chain]);
    }
  }
  float rest = 0.0f;
  for (; d < dim; ++d) rest += (x[d] - point[d]) * (x[d] - point[d]);
  return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

// Several rows at a time, so that each vector of a point is loaded once for all of them.
template <int kSome, int kPoints>
void distances_of(const float* const* rows, const float* const* points, int64_t dim, int64_t stride,
                  float* squared) {
  Floats sum[kSome][kPoints] = {};
  int64_t d = 0;
  for (; d + kWidth <= dim; d += kWidth) {
    Floats value[kSome];
    for (int r = 0; r < kSome; ++r) value[r] = load(rows[r] + d);
#pragma GCC unroll 6
    for (int p = 0; p < kPoints; ++p) {
      const Floats point = load(points[p] + d);
#pragma GCC unroll 4
      for (int r = 0; r < kSome; ++r) {
        const Floats difference = value[r] - point;
        sum[r][p] = multiply_add(difference, difference, sum[r][p]);
      }
    }
  }
  for (int r = 0; r < kSome; ++r) {
    for (int p = 0; p < kPoints; ++p) {
      float rest = 0.0f;
      for (int64_t at = d; at < dim; ++at) {
        rest += (rows[r][at] - points[p][at]) * (rows[r][at] - points[p][at]);
      }
      squared[r * stride + p] = sum_lanes(sum[r][p]) + rest;
    }
  }
}

template <int kPoints>
void distances_to(const float* const* rows, int64_t count, const float* const* points, int64_t dim,
                  int64_t stride, float* squared) {
  int64_t r = 0;
  for (; r + kFewRows <= count; r += kFewRows) {
    distances_of<kFewRows, kPoints>(rows + r, points, dim, stride, squared + r * stride);
  }
  for (; r < count; ++r) {
    distances_of<1, kPoints>(rows + r, points, dim, stride, squared + r * stride);
  }
}

void distances(const float* const* rows, int64_t count, const float* const* points,
               int64_t num_points, int64_t dim, float* squared) {
  for (int64_t p = 0; p < num_points;) {
    const int64_t left = num_points - p;
    if (left >= 6) {
      distances_to<6>(rows, count, points + p, dim, num_points, squared + p);
      p += 6;
    } else if (left >= 3) {
      distances_to<3>(rows, count, points + p, dim, num_points, squared + p);
      p += 3;
    } else {
      distances_to<1>(rows, count, points + p, dim, num_points, squared + p);
      p += 1;
    }
  }
}

void accumulate(const float* x, double sign, int64_t dim, double* sum) {
  for (int64_t d = 0; d < dim; ++d) sum[d] += sign * static_cast<double>(x[d]);
}

template <class T>
const float* widen_row(const T* row, int64_t dim, float* scratch) {
  for (int64_t d = 0; d < dim; ++d) scratch[d] = to_float(row[d]);
  return scratch;
}

const float* widen(const Samples& samples, int64_t index, float* scratch) {
  const int64_t at = index * samples.dim;
  switch (samples.type) {
    case Dtype::float16:
      return widen_row(static_cast<const Half*>(samples.data) + at, samples.dim, scratch);
    case Dtype::bfloat16:
      return widen_row(static_cast<const BFloat16*>(samples.data) + at, samples.dim, scratch);
    default:
      return static_cast<const float*>(samples.data) + at;
  }
}

}  // namespace

extern const KmeansKernels kmeans_kernels_table;
const KmeansKernels kmeans_kernels_table = {kRows,  kColumns, clear,     score,      score_all,
                                            reduce, distance, distances, accumulate, widen};

}  // namespace PYDREAM_ISA
}  // namespace pydream
