// The augmentations of DSA and their adjoint: the part shared by all devices. See
// pydream/ops/augment.py for the contract.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/view.h"
#include "draws/draws.h"

namespace pydream {

// A pixel's colour is a mix of its own value, the mean over its channels, and the mean of the
// image: saturation, then contrast. The mix is its own adjoint. The brightness is added to it.
struct ColourMix {
  float own;
  float channels;
  float image;
  float brightness;
};

// Output pixel (x, y) reads the input at (a x + b y + tx, c x + d y + ty).
struct AffineMap {
  float a, b, tx;
  float c, d, ty;
};

// Pixels (x, y) with top <= y < top + height and left <= x < left + width are set to 0.
struct Cutout {
  float top, left, height, width;
};

struct AugmentRow {
  ColourMix mix;
  AffineMap map;
  Cutout cutout;
};

PYDREAM_HOST_DEVICE static inline AugmentRow augment_row(const float* row) {  // [13]
  const float saturation = row[1], contrast = row[2];
  return {{contrast * saturation, contrast * (1.0f - saturation), 1.0f - contrast, row[0]},
          {row[3], row[4], row[5], row[6], row[7], row[8]},
          {row[9], row[10], row[11], row[12]}};
}

// A batch, the augmentation of each of its images, and the destination of the results.
struct Augment {
  const void* from;         // [N, C, H, W]
  const float* parameters;  // [N / together, 13]
  void* to;                 // [N, C, H, W]
  Dtype type;
  int64_t images;
  int64_t together;  // images that share a row of parameters
  int64_t channels;
  int64_t height;
  int64_t width;
};

inline Augment augment_task(const View& x, const View& parameters, const View& result) {
  return {x.data,     parameters.as<const float>(),     result.data, x.dtype,
          x.shape[0], x.shape[0] / parameters.shape[0], x.shape[1],  x.shape[2],
          x.shape[3]};
}

// Fills result [N, C, H, W] from x [N, C, H, W], both contiguous, by parameters [M, 13]; with
// `adjoint`, applies the adjoint of the linear part with respect to the images.
void diff_augment_cpu(const View& x, const View& parameters, const View& result, bool adjoint,
                      int threads);

// One image per call, from augment_kernel.cpp; `scratch` has augment_scratch floats, all zero
// before the first image.
struct AugmentKernels {
  void (*forward)(const Augment& task, int64_t image, float* scratch);
  void (*adjoint)(const Augment& task, int64_t image, float* scratch);
};

// On the CPU, planes in the scratch have a column and a row of zeros before them and two after, so
// that any bilinear read finds its four pixels.
constexpr int64_t kAugmentMargin = 3;

inline int64_t augment_plane(const Augment& task) {
  return (task.height + kAugmentMargin) * (task.width + kAugmentMargin);
}

// Channels that the adjoint of a warp processes at once.
constexpr int64_t kAugmentTogether = 4;

// Rows of the scratch are whole vectors of the widest instruction set.
inline int64_t augment_row_values(const Augment& task) { return (task.width + 15) / 16 * 16; }

inline int64_t augment_scratch(const Augment& task) {
  const int64_t values = task.channels * task.height * task.width;
  return (task.channels + kAugmentTogether) * augment_plane(task) + 6 * augment_row_values(task) +
         values;
}

}  // namespace pydream
