// For headers shared by C++ and CUDA.
#pragma once

#include <limits>

#ifdef __CUDACC__
#define PYDREAM_HOST_DEVICE __host__ __device__
#else
#define PYDREAM_HOST_DEVICE
#endif

namespace pydream {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace pydream
