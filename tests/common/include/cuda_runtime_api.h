// Stands in for the header of CUDA's runtime: two devices, and the last error kept as CUDA keeps
// it, until it is asked for. The calls are those that csrc/common/guard.h makes.
#pragma once

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidDevice = 101 };

inline cudaError_t last_error = cudaSuccess;
inline int current_device = 0;

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid device ordinal";
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device > 1) return last_error = cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
