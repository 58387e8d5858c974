// What cropping computes, for CPU and CUDA alike: where boxes fall, and which source
// pixels weigh how much in an output pixel.
//
// `static`: the vector kernels include this once per instruction set, and the linker
// must never put the copy for one processor where another one runs.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/philox.h"

namespace pydream {

struct Box {
  int64_t top;
  int64_t left;
  int64_t height;
  int64_t width;
};

// One decoded image, its pixels' channels interleaved: uint8 [height, width, C], the
// pixels of a row contiguous. The fields lie as in a row of the int64 table that Python passes.
struct Image {
  int64_t address;
  int64_t height;
  int64_t width;
  int64_t row_stride;  // bytes
};

struct BoxRange {
  double scale_low, scale_high;  // share of the image's area
  double ratio_low, ratio_high;  // width by height
};

constexpr uint32_t kBoxTries = 10;

PYDREAM_HOST_DEVICE static inline int64_t at_least_one(double rounded) {
  return rounded < 1.0 ? 1 : static_cast<int64_t>(rounded);
}

// The box when no try fitted: the largest one in the middle whose ratio is within bounds.
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

// One box of RandomResizedCrop's distribution. One Philox call a try, counter (id, crop,
// try): word 0 the area, 1 the ratio, 2 the top, 3 the left. Built without contraction of
// products and sums, so that the reference in PyTorch draws the same boxes.
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

// One axis of an antialiased bilinear resize, as PyTorch defines it: a triangle as wide as
// the larger of the source and the output pixel. Single precision where PyTorch has it,
// so that large coordinates round the same way.
struct Resampling {
  int64_t source;
  float step;     // source pixels per output pixel
  float support;  // half the triangle's base, in source pixels
  float inverse;  // 1 / support
};

PYDREAM_HOST_DEVICE static inline Resampling resampling(int64_t source, int64_t output) {
  const float step = static_cast<float>(source) / static_cast<float>(output);
  const float support = step >= 1.0f ? step : 1.0f;
  return {source, step, support, 1.0f / support};
}

// An upper bound of the number of source pixels under one output pixel.
PYDREAM_HOST_DEVICE static inline int64_t max_taps(const Resampling& axis) {
  return 2 * static_cast<int64_t>(ceilf(axis.support)) + 1;
}

// The source pixels under an output pixel, and where its middle falls.
struct PixelTaps {
  int32_t first;
  int32_t count;
  float center;
};

PYDREAM_HOST_DEVICE static inline PixelTaps pixel_taps(const Resampling& axis, int64_t index) {
  const float center = static_cast<float>(axis.step * (static_cast<double>(index) + 0.5));
  int64_t begin = static_cast<int64_t>(center - axis.support + 0.5f);
  int64_t end = static_cast<int64_t>(center + axis.support + 0.5f);
  begin = begin < 0 ? 0 : begin;
  end = end > axis.source ? axis.source : end;
  return {static_cast<int32_t>(begin), static_cast<int32_t>(end - begin), center};
}

// The weight of the triangle over source pixel first + tap, not yet normalised.
PYDREAM_HOST_DEVICE static inline float tap_weight(const Resampling& axis, const PixelTaps& taps,
                                                   int32_t tap) {
  const float distance = (static_cast<float>(taps.first + tap) - taps.center + 0.5f) * axis.inverse;
  const float height = 1.0f - fabsf(distance);
  return height > 0.0f ? height : 0.0f;
}

// Writes the weights of output pixel `index` (they sum to 1) and returns in `first` the
// source pixel of the first one, and their number.
PYDREAM_HOST_DEVICE static inline int32_t pixel_weights(const Resampling& axis, int64_t index,
                                                        int32_t* first, float* weights) {
  const PixelTaps taps = pixel_taps(axis, index);
  float sum = 0.0f;
  for (int32_t tap = 0; tap < taps.count; ++tap) {
    weights[tap] = tap_weight(axis, taps, tap);
    sum += weights[tap];
  }
  const float norm = 1.0f / sum;
  for (int32_t tap = 0; tap < taps.count; ++tap) weights[tap] *= norm;
  *first = taps.first;
  return taps.count;
}

// Compares without sums, which hostile numbers could overflow.
PYDREAM_HOST_DEVICE static inline bool inside(const Box& box, const Image& image) {
  return box.top >= 0 && box.left >= 0 && box.top <= image.height && box.left <= image.width &&
         box.height <= image.height - box.top && box.width <= image.width - box.left;
}

}  // namespace pydream
