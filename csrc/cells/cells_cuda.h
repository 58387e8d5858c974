// Matched cells on a CUDA device, as bindings_cuda.cpp calls them.
#pragma once

#include "cells/cells.h"
#include "common/stream.h"

namespace pydream {

// Fills out [P, C, n rows, n columns] with the cells of `size` (height, width) that match anchors
// [P, C, H, W], float32, both less 1/2. Memory to work in: turned [P, C, W, n rows], float32, and
// tables [2, length, 4], of 32-bit words, length at least twice a side of a cell and once the same
// side of an anchor.
void match_cells_cuda(const View& anchors, std::pair<int64_t, int64_t> size, const View& turned,
                      const View& tables, const View& out, const Launch& where);

}  // namespace pydream
