// What host code says of CUDA, without CUDA's headers.
#pragma once

struct CUstream_st;

namespace pydream {

using CudaStream = CUstream_st*;  // cudaStream_t

}  // namespace pydream
