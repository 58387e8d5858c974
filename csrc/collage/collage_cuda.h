// Collages on a CUDA device, as bindings_cuda.cpp calls it.
#pragma once

#include "collage/collage.h"
#include "common/stream.h"

namespace pydream {

void collage_cuda(const Collage& shape, int64_t element, const void* patches, void* images,
                  int device, CudaStream stream);

}  // namespace pydream
