// CUDA in the signatures of host code, without CUDA's headers.
#pragma once

struct CUstream_st;

namespace pydream {

using CudaStream = CUstream_st*;  // cudaStream_t

// Memory in which kernels count bad values (common/faults.h).
using Faults = unsigned long long*;

// Device and stream of a call of CUDA kernels: pydream.ops._dispatch.Launch.
struct Launch {
  Faults faults;
  int device;
  CudaStream stream;
};

}  // namespace pydream
