// Kernels with the mistakes that kernels have, each beside what would be right.
#include "broken.h"
#include "common/launch.h"

namespace broken {
namespace {

// Right: reverses the values through shared memory.
__global__ void reverse(int* values, int count) {
  int* shared = pydream::shared_memory<int>();
  const int i = static_cast<int>(threadIdx.x);
  shared[i] = values[i];
  __syncthreads();
  values[i] = shared[count - 1 - i];
}

__global__ void missing_barrier(int* values, int count) {
  int* shared = pydream::shared_memory<int>();
  const int i = static_cast<int>(threadIdx.x);
  shared[i] = values[i];
  values[i] = shared[count - 1 - i];
}

// The neighbour has written where threads run upwards, and only there.
__global__ void missing_barrier_behind(int* values, int) {
  int* shared = pydream::shared_memory<int>();
  const int i = static_cast<int>(threadIdx.x);
  shared[i] = values[i];
  values[i] = shared[i > 0 ? i - 1 : 0];
}

__global__ void off_by_one(int* values, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i + 1 <= count) values[i + 1] = i;
}

__global__ void shared_overrun(int* values, int count) {
  int* shared = pydream::shared_memory<int>();
  const int i = static_cast<int>(threadIdx.x);
  shared[i + 1] = values[i];
  __syncthreads();
  values[i] = shared[count - i];
}

__global__ void barrier_for_some(int* values, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < count / 2) __syncthreads();
  values[i] = i;
}

__global__ void lane_missing(int* values, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i == count - 1) return;
  values[i] = __shfl_xor_sync(0xFFFFFFFFu, i, 1);
}

__global__ void unset_shared(int* values, int) {
  values[threadIdx.x] = pydream::shared_memory<int>()[threadIdx.x];
}

// Right: every lane gets the sum of its warp.
__global__ void warp_sum(int* values, int) {
  int sum = values[threadIdx.x];
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
  }
  values[threadIdx.x] = sum;
}

}  // namespace

void run(const std::string& name, int* values, int count) {
  void (*kernel)(int*, int) = nullptr;
  if (name == "reverse") kernel = reverse;
  if (name == "missing_barrier") kernel = missing_barrier;
  if (name == "missing_barrier_behind") kernel = missing_barrier_behind;
  if (name == "off_by_one") kernel = off_by_one;
  if (name == "shared_overrun") kernel = shared_overrun;
  if (name == "barrier_for_some") kernel = barrier_for_some;
  if (name == "lane_missing") kernel = lane_missing;
  if (name == "unset_shared") kernel = unset_shared;
  if (name == "warp_sum") kernel = warp_sum;
  pydream::launch(kernel, dim3(1), dim3(static_cast<unsigned>(count)), count * sizeof(int), nullptr,
                  values, count);
}

}  // namespace broken
