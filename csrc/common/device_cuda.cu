#include "common/device.h"
#include "common/launch.h"

namespace pydream {
namespace {

__global__ void any_kernel() {}

}  // namespace

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

bool carries(int device) {
  try {
    const DeviceGuard guard(device);
    cudaFuncAttributes attributes;
    const bool found = cudaFuncGetAttributes(&attributes, any_kernel) == cudaSuccess;
    cudaGetLastError();  // a missing architecture is an answer, not an error to be kept
    return found;
  } catch (const std::runtime_error&) {
    return false;
  }
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

}  // namespace pydream
