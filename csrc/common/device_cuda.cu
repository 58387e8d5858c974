#include "common/device.h"
#include "common/launch.h"

namespace pydream {
namespace {

__global__ void any_kernel() {}

}  // namespace

int device_count() {
  int count = 0;
  return succeeded(cudaGetDeviceCount(&count)) ? count : 0;
}

bool has_code_for(int device) {
  try {
    const DeviceGuard guard(device);
    cudaFuncAttributes attributes;
    return succeeded(cudaFuncGetAttributes(&attributes, any_kernel));
  } catch (const std::runtime_error&) {
    return false;
  }
}

int driver_version() {
  int version = 0;
  return succeeded(cudaDriverGetVersion(&version)) ? version : 0;
}

int runtime_version() {
  int version = 0;
  return succeeded(cudaRuntimeGetVersion(&version)) ? version : 0;
}

}  // namespace pydream
