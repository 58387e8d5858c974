// What the modules with CUDA kernels share: pydream._C, and the one that the tests run on the CPU.
#pragma once

#include <pybind11/pybind11.h>

namespace pydream {

// Adds the entries of the CUDA kernels.
void bind_cuda(pybind11::module_& m);

}  // namespace pydream
