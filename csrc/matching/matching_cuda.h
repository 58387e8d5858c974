// Distances of gradients on a CUDA device, as bindings_cuda.cpp calls them.
#pragma once

#include "common/stream.h"
#include "matching/matching.h"

namespace pydream {

// How many blocks of the kernel the layers take: as many sums are kept in `partial`.
int64_t matching_blocks(const std::vector<Layer>& layers, Metric metric);

struct MatchingMemory {
  double* partial;         // [blocks]
  double* distance;        // [layers]
  unsigned int* finished;  // [1], 0
  float* value;            // []
};

// Fills `value` and the gradients.
void gradient_distance_cuda(const std::vector<Layer>& layers, Metric metric,
                            const MatchingMemory& memory, int device, CudaStream stream);

}  // namespace pydream
