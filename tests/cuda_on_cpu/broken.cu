// Kernels with the mistakes that kernels have, each beside what would be right.
#include <map>

#include "broken.h"
#include "common/matrix.h"

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

// Copies the two halves to shared memory, a group each, and waits for all but the last kLeft
// groups. With 1, right: both halves become the first one, reversed.
template <int kLeft>
__global__ void copies(int* values, int count) {
  int* shared = pydream::shared_memory<int>();
  const int i = static_cast<int>(threadIdx.x), half = count / 2;
  for (int begin = 0; begin < count; begin += half) {
    if (4 * i < half) pydream::copy_async(shared + begin + 4 * i, values + begin + 4 * i);
    pydream::commit_copies();
  }
  pydream::await_copies<kLeft>();
  __syncthreads();
  values[i] = shared[half - 1 - i % half];
}

// As `reverse`, but what is read is copied over before all have read it.
__global__ void copy_over_what_is_read(int* values, int count) {
  int* shared = pydream::shared_memory<int>();
  const int i = static_cast<int>(threadIdx.x);
  shared[i] = values[i];
  __syncthreads();
  const int read = shared[count - 1 - i];
  if (4 * i < count) pydream::copy_async(shared + 4 * i, values + count - 4 - 4 * i);
  pydream::commit_copies();
  pydream::await_copies<0>();
  __syncthreads();
  values[i] = read;
}

__global__ void copy_beyond(int* values, int) {
  pydream::copy_async(pydream::shared_memory<int>(), values + 4 * threadIdx.x);
}

__global__ void copy_askew(int* values, int) {
  pydream::copy_async(pydream::shared_memory<int>(), values + 1);
}

// Right with kBarrier and 0: the halves of 32 values, exchanged by each warp as tiles of 8 x 4.
template <bool kBarrier, int kSkip>
__global__ void tiles(int* values, int) {
  uint32_t* shared = pydream::shared_memory<uint32_t>();
  const unsigned i = threadIdx.x;
  shared[i] = static_cast<uint32_t>(values[i]);
  if (kBarrier) __syncthreads();
  uint32_t words[4];
  pydream::load_tiles(words, shared + i % 16 * 4 + kSkip);
  values[i] = static_cast<int>(words[i < 32 ? 1 : 0]);
}

__global__ void tiles_of_global_memory(int* values, int) {
  uint32_t words[4];
  pydream::load_tiles(words, reinterpret_cast<uint32_t*>(values));
}

__global__ void tiles_by_some(int* values, int count) {
  uint32_t words[4];
  if (values[threadIdx.x] == count - 1) return;
  pydream::load_tiles(words, pydream::shared_memory<uint32_t>());
}

// Right: every lane gets the lanes of its warp with multiples of 3.
__global__ void vote(int* values, int) {
  const int i = static_cast<int>(threadIdx.x);
  values[i] = static_cast<int>(__ballot_sync(0xFFFFFFFFu, values[i] % 3 == 0));
}

__global__ void vote_of_some(int* values, int) {
  const int i = static_cast<int>(threadIdx.x);
  if (values[i] % 3 == 0) values[i] = static_cast<int>(__ballot_sync(0xFFFFFFFFu, 1));
}

// Each kernel by its name.
using Kernel = void (*)(int*, int);
const std::map<std::string, Kernel> kKernels = {
    {"reverse", reverse},
    {"missing_barrier", missing_barrier},
    {"missing_barrier_behind", missing_barrier_behind},
    {"off_by_one", off_by_one},
    {"shared_overrun", shared_overrun},
    {"barrier_for_some", barrier_for_some},
    {"lane_missing", lane_missing},
    {"unset_shared", unset_shared},
    {"warp_sum", warp_sum},
    {"copies", copies<1>},
    {"copies_not_waited_for", copies<2>},
    {"copy_over_what_is_read", copy_over_what_is_read},
    {"copy_beyond", copy_beyond},
    {"copy_askew", copy_askew},
    {"tiles", tiles<true, 0>},
    {"tiles_missing_barrier", tiles<false, 0>},
    {"tiles_askew", tiles<true, 1>},
    {"tiles_overrun", tiles<true, 4>},
    {"tiles_of_global_memory", tiles_of_global_memory},
    {"tiles_by_some", tiles_by_some},
    {"vote", vote},
    {"vote_of_some", vote_of_some},
};

}  // namespace

void run(const std::string& name, int* values, int count) {
  pydream::launch(kKernels.at(name), dim3(1), dim3(static_cast<unsigned>(count)),
                  count * sizeof(int), nullptr, values, count);
}

}  // namespace broken
