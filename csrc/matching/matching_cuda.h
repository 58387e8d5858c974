// Distances of gradients on a CUDA device, for bindings_cuda.cpp.
#pragma once

#include "common/stream.h"
#include "matching/matching.h"

namespace pydream {

// Number of 32-bit words that the layers take as working memory.
int64_t matching_words(const std::vector<Layer>& layers, Metric metric);

// Fills the gradients of the layers, and the first word of the workspace with the value, float32.
// The words must be 0 before, but for l2 of any value, and aligned to 8 bytes.
void gradient_distance_cuda(const std::vector<Layer>& layers, Metric metric, const View& workspace,
                            const Launch& where);

}  // namespace pydream
