// Matched cells on a CUDA device, as bindings_cuda.cpp calls them.
#pragma once

#include "cells/cells.h"
#include "common/stream.h"

namespace pydream {

// Fills out [P, C, n rows, n columns] with the cells of `size` (height, width) that match anchors
// [P, C, H, W], float32, both less 1/2. The anchors are written over. Memory to work in: half
// [P, C, n rows, W] and turned [P, C, W, n rows], float32; factors [2, longest, 4], float64,
// longest at least as many as rows and columns of a cell.
void match_cells_cuda(const View& anchors, std::pair<int64_t, int64_t> size, const View& half,
                      const View& turned, const View& factors, const View& out,
                      const Launch& where);

}  // namespace pydream
