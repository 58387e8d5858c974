// Multi-formation on a CUDA device, for bindings_cuda.cpp.
#pragma once

#include "common/stream.h"
#include "formation/formation.h"

namespace pydream {

void multi_formation_cuda(const View& images, int64_t factor, float padding, const View& result,
                          const Launch& where);

void multi_formation_backward_cuda(const View& gradient, int64_t factor, const View& images,
                                   const Launch& where);

}  // namespace pydream
