// Distances of gradients on a CUDA device, as bindings_cuda.cpp calls them.
#pragma once

#include "common/stream.h"
#include "matching/matching.h"

namespace pydream {

// How many blocks of the kernel the layers take: as many sums are kept in `partial`.
int64_t matching_blocks(const std::vector<Layer>& layers, Metric metric);

// Fills value [] and the gradients of the layers. Working memory: partial [blocks] and distance
// [layers] of float64; finished [1] of int32, which is 0.
void gradient_distance_cuda(const std::vector<Layer>& layers, Metric metric, const View& partial,
                            const View& distance, const View& finished, const View& value,
                            const Launch& where);

}  // namespace pydream
