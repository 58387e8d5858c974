// The augmentations of DSA, their adjoint and their draws: what all devices share. See
// pydream/ops/augment.py for the contract.
#pragma once

#include <cstdint>
#include <vector>

#include "common/float_type.h"
#include "common/philox.h"

namespace pydream {

// Columns of a row of parameters, as pydream/ops/reference/augment.py names them.
constexpr int kAugmentColumns = 13;

// A pixel's colour is mixed of its own value, the mean over its channels, and the mean of the
// image: saturation, then contrast. The mix is its own adjoint; the brightness is added to it.
struct ColourMix {
  float own;
  float channels;
  float image;
  float brightness;
};

// Where output pixel (x, y) is read: at (a x + b y + tx, c x + d y + ty) of the input.
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

// A batch, what to do to each of its images, and where the results go.
struct Augment {
  const void* from;         // [N, C, H, W]
  const float* parameters;  // [N / together, 13]
  void* to;                 // [N, C, H, W]
  FloatType type;
  int64_t images;
  int64_t together;  // images with one row of parameters
  int64_t channels;
  int64_t height;
  int64_t width;
};

// `adjoint`: of the linear part, with respect to the images.
void diff_augment_cpu(const Augment& task, bool adjoint, int threads);

// One image per call, from augment_kernel.cpp; `scratch` has as many floats as augment_scratch
// says and is zero before the first of them.
struct AugmentKernels {
  void (*forward)(const Augment& task, int64_t image, float* scratch);
  void (*adjoint)(const Augment& task, int64_t image, float* scratch);
};

// Planes in the scratch of the CPU have a column and a row of zeros before and two behind, so that
// a bilinear read has its four pixels wherever it falls.
constexpr int64_t kAugmentMargin = 3;

inline int64_t augment_plane(const Augment& task) {
  return (task.height + kAugmentMargin) * (task.width + kAugmentMargin);
}

// Channels that the adjoint of a warp takes at once.
constexpr int64_t kAugmentTogether = 4;

// Rows of the scratch hold whole vectors, of the widest that there are.
inline int64_t augment_row_values(const Augment& task) { return (task.width + 15) / 16 * 16; }

inline int64_t augment_scratch(const Augment& task) {
  const int64_t values = task.channels * task.height * task.width;
  return (task.channels + kAugmentTogether) * augment_plane(task) + 6 * augment_row_values(task) +
         values;
}

enum class Spatial : int { crop, flip, scale, rotate };

// What random_augment draws, for images of one size.
struct AugmentStrategy {
  bool color;
  bool cutout;
  std::vector<Spatial> spatial;  // one of them for each row
  int64_t height;
  int64_t width;
};

// Fills rows [count, 13], each a function of the seed and its number.
void random_augment_cpu(const AugmentStrategy& strategy, int64_t count, uint64_t seed, float* rows);

}  // namespace pydream
