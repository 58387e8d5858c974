// Cropping on a CUDA device, for bindings_cuda.cpp.
#pragma once

#include "common/faults.h"
#include "common/stream.h"
#include "crop/crop.h"
#include "crop/crop_kernel.h"

namespace pydream {

// CropResize with pointers to device memory.
struct CropOnDevice {
  CropResize task;          // its images are on the device, or null; its boxes are unused
  Image first;              // if images is null: the first image of a batch of equal ones
  int64_t image_stride;     // bytes from one image of the batch to the next
  const void* boxes;        // [P, 4] int32 or int64
  const void* image_index;  // [P] int32 or int64, or null
  bool wide_boxes;          // int64
  bool wide_index;          // int64
  Faults faults;
};

// Like crop_resize_cpu, but `images` is one batch [N, H, W, C], or a table of Image rows, int64 [N,
// 4], on the device; boxes and image_index are int32 or int64. A patch with a bad box or image
// index becomes zeros, and is reported.
void crop_resize_cuda(const View& images, const View& boxes, const View& image_index,
                      const View& flip, std::pair<int64_t, int64_t> size, const Scaling& scaling,
                      const View& out, const Launch& where);

}  // namespace pydream
