// Matched cells on the CPU, as bindings.cpp calls them. Errors name the arguments of pydream.ops.
#pragma once

#include "cells/cells.h"
#include "crop/crop_kernel.h"

namespace pydream {

// Fills out [P, C, n rows, n columns] with the cells of `size` (height, width) that match crops of
// `enlarged` (height, width). Images, boxes and image_index are those of crop_resize_cpu, as are
// the errors.
void matched_cells_cpu(const std::vector<View>& images, const View& boxes, const View& image_index,
                       std::pair<int64_t, int64_t> size, std::pair<int64_t, int64_t> enlarged,
                       const View& out, int threads);

// One per instruction set, from cells_kernel.cpp.
struct CellsKernels {
  // Values that the scratch memory of `match` holds.
  int64_t (*scratch)(const Fit& rows, const Fit& columns);
  // Makes a plane of a cell, [rows.pixels, columns.pixels] of `dtype`, from a plane of its anchor
  // [rows.to, columns.to], both less 1/2. Vectors may read a register behind the anchor.
  void (*match)(const Fit& rows, const Fit& columns, const float* anchor, Dtype dtype, void* out,
                float* scratch);
};

}  // namespace pydream
