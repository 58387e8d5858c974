// Calls of the CUDA runtime by host code: errors as exceptions, and the current device.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace pydream {

// Whether a call succeeded. CUDA keeps the last error for cudaGetLastError, so an error handled
// here is cleared; otherwise the next launch, which asks for it, would be blamed.
inline bool succeeded(cudaError_t status) {
  if (status == cudaSuccess) return true;
  cudaGetLastError();
  return false;
}

inline void check_cuda(cudaError_t status, const char* what) {
  if (!succeeded(status)) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

// Makes a device current, and restores the previous one at the end.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (device_ != before_) check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  }
  // Only if it changed: cudaSetDevice alone creates a context on a device.
  ~DeviceGuard() {
    if (device_ != before_) succeeded(cudaSetDevice(before_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_;
  int before_ = 0;
};

}  // namespace pydream
