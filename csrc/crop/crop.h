// The geometry of cropping, for CPU and CUDA alike: whether boxes are inside their image, and the
// weights of source pixels in an output pixel.
//
// `static`: the vector kernels include this header once per instruction set, and the linker must
// never substitute the code for another processor.
#pragma once

#include <cmath>
#include <cstdint>

#include "draws/box.h"

namespace pydream {

// One decoded image with interleaved channels: uint8 [height, width, C], the pixels of a row
// contiguous. The fields have the layout of a row of the int64 table that Python passes.
struct Image {
  int64_t address;
  int64_t height;
  int64_t width;
  int64_t row_stride;  // bytes
};

// One axis of an antialiased bilinear resize, as PyTorch defines it: a triangle as wide as the
// larger of the source and the output pixel. In single precision where PyTorch uses it, so that
// large coordinates round the same way.
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

// The source pixels under an output pixel, and the position of its centre.
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

// Writes the weights of output pixel `index`, which sum to 1; returns their number, and in `first`
// the source pixel of the first weight.
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
