// Prints the error of each failing call, and what it leaves for the next launch to find.
#include <cstdio>
#include <stdexcept>

#include "common/guard.h"

namespace {

template <class Call>
void attempt(const char* what, Call call) {
  try {
    call();
    std::printf("%s: none", what);
  } catch (const std::runtime_error& error) {
    std::printf("%s", error.what());
  }
  std::printf(", device %d, left: %s\n", current_device, cudaGetErrorString(cudaGetLastError()));
}

}  // namespace

int main() {
  attempt("call", [] { pydream::check_cuda(cudaSetDevice(7), "call"); });
  attempt("question", [] { pydream::succeeded(cudaSetDevice(7)); });
  attempt("no such device", [] { const pydream::DeviceGuard guard(7); });
  attempt("other device", [] {
    const pydream::DeviceGuard guard(1);
    if (current_device != 1) throw std::runtime_error("it was not made current");
  });
  attempt("device that goes", [] {
    current_device = 7;
    const pydream::DeviceGuard guard(1);  // there is no way back
  });
}
