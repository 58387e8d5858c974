// Multi-formation on a CUDA device, as bindings_cuda.cpp calls it.
#pragma once

#include "common/stream.h"
#include "formation/formation.h"

namespace pydream {

void multi_formation_cuda(const Formation& shape, float padding, const void* images, void* result,
                          int device, CudaStream stream);

void multi_formation_backward_cuda(const Formation& shape, const void* gradient, void* images,
                                   int device, CudaStream stream);

}  // namespace pydream
