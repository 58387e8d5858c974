// For the kernels of k-means: the problem of a block, and sums over blocks and warps.
#pragma once

#include <type_traits>

#include "common/report.h"
#include "common/sums.h"
#include "common/threads.h"
#include "kmeans/kmeans_cuda.h"

namespace pydream {

// The problem of a tile, a centre or another running number; `first` selects the entry of the table
// with the first number of each problem.
__device__ inline int64_t problem_of(const KmeansOnDevice& k, int64_t number,
                                     int64_t ProblemEntry::* first) {
  int64_t low = 0, high = k.problems;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (k.table[middle].*first <= number ? low : high) = middle;
  }
  return low;
}

// The samples of a tile.
struct TileRows {
  int64_t problem, begin, end;
};

__device__ inline TileRows rows_of(const KmeansOnDevice& k, int64_t tile) {
  const int64_t problem = problem_of(k, tile, &ProblemEntry::first_tile);
  const ProblemEntry& entry = k.table[problem];
  const int64_t begin = entry.first_row + (tile - entry.first_tile) * kTileRows;
  return {problem, begin, min(begin + kTileRows, k.table[problem + 1].first_row)};
}

// One value of row `row` of the samples.
template <class T>
__device__ float sample(const KmeansOnDevice& k, int64_t row, int64_t d) {
  return widen(static_cast<const T*>(k.x.data)[row * k.x.dim + d]);
}

// |x - c|^2 by a warp, returned to every lane.
template <class T>
__device__ float warp_distance(const KmeansOnDevice& k, int64_t row, const float* centre) {
  float sum = 0.0f;
  for (int64_t d = threadIdx.x % 32; d < k.x.dim; d += 32) {
    const float difference = sample<T>(k, row, d) - centre[d];
    sum += difference * difference;
  }
  return warp_sum(sum);
}

// The sum over the lanes of value number `lane`, of 32 that each lane has: to the bit that of
// warp_sum, with a fifth of the exchanges. A lane has 2 * kDistance sums over fewer lanes so far.
template <int kDistance = 16>
__device__ float sum_of_lane(float (&value)[32]) {
  const bool upper = threadIdx.x & static_cast<unsigned>(kDistance);
#pragma unroll
  for (int i = 0; i < kDistance; ++i) {
    const float given = upper ? value[i] : value[i + kDistance];
    const float kept = upper ? value[i + kDistance] : value[i];
    value[i] = kept + __shfl_xor_sync(kAllLanes, given, kDistance);
  }
  if constexpr (kDistance > 1) return sum_of_lane<kDistance / 2>(value);
  return value[0];
}

// The largest of one value per lane, returned to every lane.
__device__ inline float warp_max(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// The largest of one value per thread of a block of whole warps, none of them negative, returned to
// every thread. The content of `shared` [warps] is overwritten.
__device__ inline float block_max(float value, float* shared) {
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) value = fmaxf(value, shared[warp]);
  return value;
}

// The terms of 16 bits, float16 or bfloat16, that a centre is split into for samples of a type.
template <class T>
using ExactTerm = std::conditional_t<std::is_same_v<T, BFloat16>, BFloat16, Half>;
template <class T>
constexpr int kExactTerms = std::is_same_v<T, BFloat16> ? 3 : 2;

// The power of two by which numbers up to the one of these bits come to lie just below 2^15, within
// float16; at most 2^62, so that the inverse of a product of two such powers is a normal number.
__device__ inline float scale_for(uint32_t largest) {
  const int exponent = static_cast<int>(largest >> 23) - 126;  // largest < 2^exponent
  return __uint_as_float(static_cast<uint32_t>(min(15 - exponent, 62) + 127) << 23);
}

constexpr size_t kSumBytes = kWarps * sizeof(double);

inline dim3 blocks(int64_t count) { return dim3(static_cast<unsigned>(count)); }

// 1 / unit: the number of units in the value 1.
__device__ inline double units(const KmeansOnDevice& k, int64_t problem) {
  const int64_t count = k.table[problem + 1].first_row - k.table[problem].first_row;
  int bits = 0;
  while ((int64_t{1} << bits) < count) ++bits;
  const int exponent = static_cast<int>(k.largest[problem] >> 23) - 126;  // largest < 2^exponent
  return ldexp(1.0, 61 - bits - exponent);
}

// One value of a sample in units, as sums have it.
template <class T>
__device__ unsigned long long in_units(const KmeansOnDevice& k, int64_t row, int64_t d,
                                       double scale) {
  return static_cast<unsigned long long>(__double2ll_rn(sample<T>(k, row, d) * scale));
}

// Instantiates a call for the type T of the samples.
#define PYDREAM_BY_TYPE(type, ...) \
  switch (type) {                  \
    case Dtype::float16: {         \
      using T = Half;              \
      __VA_ARGS__;                 \
      break;                       \
    }                              \
    case Dtype::bfloat16: {        \
      using T = BFloat16;          \
      __VA_ARGS__;                 \
      break;                       \
    }                              \
    default: {                     \
      using T = float;             \
      __VA_ARGS__;                 \
    }                              \
  }

// Finds every sample's nearest centre, into `next`: by the format of the tensor cores if `fast`
// (assign_cuda.cu), else by float32 distances (exact_cuda.cu).
void assign_cuda(const KmeansOnDevice& k, CudaStream stream);
void assign_exact_cuda(const KmeansOnDevice& k, CudaStream stream);

// Updates labels, sums and members by the assignment (move_cuda.cu).
void move_cuda(const KmeansOnDevice& k, CudaStream stream);

// Gives each centre without samples the sample farthest from its own (fill_cuda.cu).
void fill_cuda(const KmeansOnDevice& k, CudaStream stream);

}  // namespace pydream
