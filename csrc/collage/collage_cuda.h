// Collages on a CUDA device, as bindings_cuda.cpp calls it.
#pragma once

#include "collage/collage.h"
#include "common/stream.h"

namespace pydream {

// Fills images [C, n, ch, S, S] from patches [C, n * f^2, ch, h, w], both contiguous, f = factor.
void collage_cuda(const View& patches, int64_t factor, const View& images, const Launch& where);

}  // namespace pydream
