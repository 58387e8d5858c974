// DSA's augmentations on a CUDA device, as bindings_cuda.cpp calls them.
#pragma once

#include "augment/augment.h"
#include "common/stream.h"

namespace pydream {

// `adjoint`: of the linear part, with respect to the images.
void diff_augment_cuda(const Augment& task, bool adjoint, int device, CudaStream stream);

}  // namespace pydream
