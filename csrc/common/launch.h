// All that a .cu file uses of CUDA: launches, shared memory, casts. The tests substitute a header
// of the same name, with which the kernels run on the CPU (tests/cuda_on_cpu).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "common/guard.h"
#include "common/half.h"

namespace pydream {

// Runs a kernel on a stream, and throws if the launch fails. `shared` is in bytes, at most the 99
// KiB of every architecture since 8.0.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, Arguments... arguments) {
  if (shared > 48 * 1024) {  // more than the default must be requested
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)),
               "cudaFuncSetAttribute");
  }
  kernel<<<grid, block, shared, stream>>>(arguments...);
  check_cuda(cudaGetLastError(), "kernel launch");
}

// Multiprocessors of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  return count;
}

// The block's dynamic shared memory, aligned to 16 bytes.
template <class T>
__device__ inline T* shared_memory() {
  extern __shared__ __align__(16) unsigned char pydream_shared[];
  return reinterpret_cast<T*>(pydream_shared);
}

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(Half value) { return __half2float(__ushort_as_half(value.bits)); }
__device__ inline float widen(BFloat16 value) { return to_float(value); }

// Rounded to nearest, ties to even, as PyTorch casts.
__device__ inline void narrow(float value, float* to) { *to = value; }
__device__ inline void narrow(float value, Half* to) {
  to->bits = __half_as_ushort(__float2half_rn(value));
}
__device__ inline void narrow(float value, BFloat16* to) {
  to->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

}  // namespace pydream
