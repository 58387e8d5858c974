// The vector kernel of crop_resize, compiled once per instruction set.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/view.h"
#include "crop/crop.h"

namespace pydream {

struct CropResize {
  const Image* images;  // [N], or null: images lie `batch_step` bytes one behind the other
  Image batch;          // the first of these
  int64_t batch_step;
  const Box* boxes;            // [P]
  const int64_t* image_index;  // [P], or null: patch p comes from image p / patches_per_image
  const bool* flip;            // [P], or null
  int64_t num_images;
  int64_t num_patches;
  int64_t patches_per_image;
  int64_t channels;  // 1 to 4
  int64_t height, width;
  int64_t canvas_height, canvas_width;
  float scale[4];  // an output value is scale[c] * byte + shift[c]
  float shift[4];
  Dtype dtype;
  bool channels_last;
  void* out;  // [P, C, canvas_height, canvas_width], or [P, canvas_height, canvas_width, C]

  int64_t image_of(int64_t patch) const {
    return image_index != nullptr ? image_index[patch] : patch / patches_per_image;
  }

  Image image(int64_t index) const {
    if (images != nullptr) return images[index];
    return {batch.address + index * batch_step, batch.height, batch.width, batch.row_stride};
  }
};

// Scale and shift that map a byte's value to the output, for each channel.
using Scaling = std::pair<std::vector<float>, std::vector<float>>;

// The part of a task shared by all devices: patches of `size` (height, width), from num_images
// images, on the canvases of out [P, C, canvas_height, canvas_width].
inline CropResize crop_task(int64_t num_images, const View& flip, std::pair<int64_t, int64_t> size,
                            const Scaling& scaling, const View& out) {
  CropResize task{};
  task.flip = flip.as<const bool>();
  task.num_images = num_images;
  task.num_patches = out.shape[0];
  task.patches_per_image = num_images > 0 ? out.shape[0] / num_images : 1;
  task.channels = out.shape[1];
  task.height = size.first;
  task.width = size.second;
  task.canvas_height = out.shape[2];
  task.canvas_width = out.shape[3];
  for (int64_t c = 0; c < task.channels; ++c) {
    task.scale[c] = scaling.first.at(static_cast<size_t>(c));
    task.shift[c] = scaling.second.at(static_cast<size_t>(c));
  }
  task.dtype = out.dtype;
  task.channels_last =
      out.stride[1] == 1;  // with one channel or one pixel, both layouts are the same
  task.out = out.data;
  return task;
}

// Memory of the calling thread, aligned to 64 bytes, valid until its next call; zeroed when
// allocated.
float* thread_scratch(int64_t floats);

// One per instruction set, from crop_kernel.cpp: makes patches [begin, end). Boxes and indices must
// have been checked.
struct CropKernels {
  void (*crop_resize)(const CropResize& task, int64_t begin, int64_t end);
};

}  // namespace pydream
