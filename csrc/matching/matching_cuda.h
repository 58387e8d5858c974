// Distances of gradients on a CUDA device, for bindings_cuda.cpp.
#pragma once

#include "common/stream.h"
#include "matching/matching.h"

namespace pydream {

// Number of blocks that the layers take, and of the sums in `partial`.
int64_t matching_blocks(const std::vector<Layer>& layers, Metric metric);

// Fills value [] and the gradients of the layers. Working memory: partial [blocks] and distance
// [layers] of float64; finished [1] of int32, which must be 0.
void gradient_distance_cuda(const std::vector<Layer>& layers, Metric metric, const View& partial,
                            const View& distance, const View& finished, const View& value,
                            const Launch& where);

}  // namespace pydream
