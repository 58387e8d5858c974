// Stands in for csrc/common/launch.h: CUDA's execution model on one thread of a CPU.
//
// The threads of a block are fibers. Each runs until a barrier, a warp operation or its end; then
// the next one does, in an order that can be chosen, so that a missing barrier gives another result
// in some order. Blocks follow each other. Shared memory is as long as asked for, to the byte, and
// full of NaN at first. Threads that wait for what cannot come end the launch with an error. The
// bytes of an asynchronous copy come when its thread waits for them; until then its place is full
// of NaN, so that a wait for too few copies shows, and a copy over what others still read.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "common/half.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using cudaStream_t = struct CUstream_st*;

namespace cuda_on_cpu {

enum class Order { forward, backward, shuffled };
void set_order(Order order);

// Runs `thread` for every thread of every block.
void run(dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread);

void barrier();
void* shared_memory();
bool is_shared(const void* address);
// Gives `bits` to the warp; returns, when all of its lanes have come, those of lane (own ^
// distance).
uint64_t exchange(unsigned mask, uint64_t bits, int distance);
// The lanes of `mask` whose predicate holds, when all of them have come.
unsigned vote(unsigned mask, bool predicate);
// Gives up to kGift bytes to the whole warp; returns when all of its 32 lanes have come.
constexpr size_t kGift = 32;
void give(const void* mine, size_t size);
// What a lane gave, until the next but one time.
const void* given(unsigned lane);

// Copies of kCopied bytes, by the thread that calls: into the group that the next close_copies
// closes. Of the closed groups, the last `left` need not have come after await_copies.
constexpr size_t kCopied = 16;
void copy_later(void* to, const void* from);
void close_copies();
void await_copies(unsigned left);

}  // namespace cuda_on_cpu

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { cuda_on_cpu::barrier(); }
inline void __threadfence() {}
inline void __threadfence_system() {}  // fibers of one thread see what each other wrote

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = cuda_on_cpu::exchange(mask, bits, distance);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return __shfl_xor_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cuda_on_cpu::vote(mask, predicate != 0);
}

inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask ? 1 : 0;
}

inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0 ? 1 : 0;
}

inline void __syncwarp() { __ballot_sync(0xFFFFFFFFu, 0); }

inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline uint32_t __float_as_uint(float value) { return pydream::float_bits(value); }
inline float __uint_as_float(uint32_t bits) { return pydream::bits_float(bits); }
inline long long __double2ll_rn(double value) { return std::llrint(value); }

inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31u));
}

template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to = before + value;
  return before;
}

template <class T>
T atomicExch(T* to, T value) {
  const T before = *to;
  *to = value;
  return before;
}

template <class T>
T atomicMax(T* to, T value) {
  const T before = *to;
  *to = std::max(before, value);
  return before;
}

template <class T>
T atomicMin(T* to, T value) {
  const T before = *to;
  *to = std::min(before, value);
  return before;
}

namespace pydream {

using std::isfinite;
using std::isnan;
using std::max;
using std::min;

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    if (device != 0) throw std::runtime_error("there is one device, 0");
  }
};

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t,
            Arguments... arguments) {
  cuda_on_cpu::run(grid, block, shared, [&] { kernel(arguments...); });
}

inline int multiprocessors() { return 1; }

template <class T>
T* shared_memory() {
  return static_cast<T*>(cuda_on_cpu::shared_memory());
}

inline float widen(float value) { return value; }
inline float widen(Half value) { return to_float(value); }
inline float widen(BFloat16 value) { return to_float(value); }

inline void narrow(float value, float* to) { *to = value; }
void narrow(float value, Half* to);
void narrow(float value, BFloat16* to);

}  // namespace pydream
