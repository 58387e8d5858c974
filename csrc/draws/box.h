// Boxes within an image, and their random draw.
//
// `static`: the vector kernels include this header once per instruction set, and the linker must
// never substitute the code for another processor.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/philox.h"

namespace pydream {

// In pixels.
struct Box {
  int64_t top;
  int64_t left;
  int64_t height;
  int64_t width;
};

struct BoxRange {
  double scale_low, scale_high;  // share of the image's area
  double ratio_low, ratio_high;  // width by height
};

constexpr uint32_t kBoxTries = 10;

PYDREAM_HOST_DEVICE static inline int64_t at_least_one(double rounded) {
  return rounded < 1.0 ? 1 : static_cast<int64_t>(rounded);
}

// The box after all tries have failed: the largest central one whose ratio is within bounds.
PYDREAM_HOST_DEVICE static inline Box central_box(int64_t height, int64_t width,
                                                  const BoxRange& range) {
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  int64_t h = height;
  int64_t w = width;
  if (ratio < range.ratio_low) {
    h = at_least_one(rint(static_cast<double>(width) / range.ratio_low));
  } else if (ratio > range.ratio_high) {
    w = at_least_one(rint(static_cast<double>(height) * range.ratio_high));
  }
  return {(height - h) / 2, (width - w) / 2, h, w};
}

// One box of RandomResizedCrop's distribution. One Philox call per try, with counter
// (id, crop, try): word 0 is the area, 1 the ratio, 2 the top, 3 the left. Compiled without
// contraction of products and sums, so that the reference in PyTorch draws the same boxes.
PYDREAM_HOST_DEVICE static inline Box random_box(uint64_t seed, int64_t id, uint32_t crop,
                                                 int64_t height, int64_t width,
                                                 const BoxRange& range) {
  const double image_area = static_cast<double>(height) * static_cast<double>(width);
  const double log_low = log(range.ratio_low);
  const double log_high = log(range.ratio_high);
  for (uint32_t attempt = 0; attempt < kBoxTries; ++attempt) {
    const uint64_t identity = static_cast<uint64_t>(id);
    const Philox4 random =
        philox4x32(seed, static_cast<uint32_t>(identity), static_cast<uint32_t>(identity >> 32),
                   crop, (static_cast<uint32_t>(Stream::crop_box) << 16) | attempt);
    const double share =
        range.scale_low + (range.scale_high - range.scale_low) * unit_interval(random.word[0]);
    const double area = image_area * share;
    const double ratio = exp(log_low + (log_high - log_low) * unit_interval(random.word[1]));
    const double w = rint(sqrt(area * ratio));
    const double h = rint(sqrt(area / ratio));
    if (w < 1.0 || h < 1.0 || w > static_cast<double>(width) || h > static_cast<double>(height)) {
      continue;
    }
    const int64_t box_height = static_cast<int64_t>(h);
    const int64_t box_width = static_cast<int64_t>(w);
    return {below(random.word[2], height - box_height + 1),
            below(random.word[3], width - box_width + 1), box_height, box_width};
  }
  return central_box(height, width, range);
}

}  // namespace pydream
