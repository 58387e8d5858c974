// What host code says of CUDA, without CUDA's headers.
#pragma once

struct CUstream_st;

namespace pydream {

using CudaStream = CUstream_st*;  // cudaStream_t

// Where kernels count the bad values that they find (common/faults.h).
using Faults = unsigned long long*;

// Where a call of CUDA kernels runs: pydream.ops._dispatch.Launch.
struct Launch {
  Faults faults;
  int device;
  CudaStream stream;
};

}  // namespace pydream
