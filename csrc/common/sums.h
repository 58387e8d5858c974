// Sums over a warp and over a block, always in the same order.
#pragma once

#include <cstdint>

#include "common/launch.h"
#include "common/threads.h"

namespace pydream {

// The sum of one value per lane, returned to every lane.
template <class T>
__device__ T warp_sum(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// The sum of one value per thread of a block of whole warps, returned to every thread. The content
// of `shared` [warps] is overwritten.
__device__ inline double block_sum(double value, double* shared) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0.0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += shared[warp];
  return total;
}

}  // namespace pydream
