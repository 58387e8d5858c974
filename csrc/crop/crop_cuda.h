// Cropping on a CUDA device, as bindings_cuda.cpp calls it.
#pragma once

#include "common/faults.h"
#include "common/stream.h"
#include "crop/crop.h"
#include "crop/crop_kernel.h"

namespace pydream {

// What CropResize says, in terms of device memory.
struct CropOnDevice {
  CropResize task;          // its images are on the device, or null; its boxes are not used
  Image first;              // where images is null: the first of a batch of equal ones
  int64_t image_stride;     // and the bytes from one to the next
  const void* boxes;        // [P, 4] int32 or int64
  const void* image_index;  // [P] int32 or int64, or null
  bool wide_boxes;          // int64
  bool wide_index;          // int64
  Faults faults;
};

// As crop_resize_cpu, but `images` is one batch [N, H, W, C], or a table of Image rows, int64 [N,
// 4] on the device; boxes and image_index are int32 or int64. A patch of a bad box or image index
// is all zeros, and reported.
void crop_resize_cuda(const View& images, const View& boxes, const View& image_index,
                      const View& flip, std::pair<int64_t, int64_t> size, const Scaling& scaling,
                      const View& out, const Launch& where);

}  // namespace pydream
