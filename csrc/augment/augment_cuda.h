// DSA's augmentations on a CUDA device, for bindings_cuda.cpp.
#pragma once

#include "augment/augment.h"
#include "common/stream.h"

namespace pydream {

// Like diff_augment_cpu.
void diff_augment_cuda(const View& x, const View& parameters, const View& result, bool adjoint,
                       const Launch& where);

}  // namespace pydream
