// What k-means needs of the processor, compiled once per instruction set (kmeans_kernel.cpp).
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "kmeans/kmeans.h"

namespace pydream {

// Bounds of what the kernels of any instruction set take.
constexpr int64_t kMostRows = 12;
constexpr int64_t kMostColumns = 32;

// Some centres beside each other, less a point `origin` near the samples: of |x - c|^2, what
// depends on the centre is 2 * (bias - <x, c - origin>), with
// bias = |c - origin|^2 / 2 + <origin, c - origin>. Places without a centre have bias +inf.
struct Panel {
  const float* values;    // [D, columns]
  const float* bias;      // [columns]
  const int32_t* centre;  // [columns], which centres these are
};

// The least score of a row by lanes, and the second least. Ties go to the lower centre.
struct Minimum {
  alignas(64) float best[kMostColumns / 2];
  alignas(64) int32_t centre[kMostColumns / 2];
  alignas(64) float second[kMostColumns / 2];
};

struct Nearest {
  float best;
  int32_t centre;
  float second;
};

struct KmeansKernels {
  int64_t rows;     // that are scored together
  int64_t columns;  // centres of a panel

  // Starts a minimum that has seen no centre.
  void (*clear)(Minimum* minimum);

  // Scores `count` rows of D floats against a panel into their minima.
  void (*score)(const float* const* rows, int64_t count, int64_t dim, const Panel& panel,
                Minimum* const* minima);

  // The same, with scores [count, columns] out.
  void (*score_all)(const float* const* rows, int64_t count, int64_t dim, const Panel& panel,
                    float* scores);

  Nearest (*reduce)(const Minimum& minimum);

  // |x - point|^2.
  float (*distance)(const float* x, const float* point, int64_t dim);

  // The same of `count` rows to each of some points: squared [count, num_points].
  void (*distances)(const float* const* rows, int64_t count, const float* const* points,
                    int64_t num_points, int64_t dim, float* squared);

  // sum += sign * x.
  void (*accumulate)(const float* x, double sign, int64_t dim, double* sum);

  // Row `index` as floats: where they lie already, or in `scratch`.
  const float* (*widen)(const Samples& samples, int64_t index, float* scratch);
};

PYDREAM_KERNELS(KmeansKernels, kmeans_kernels)

// A bound of how much a sum of D products by `score` is off, relative to the product of lengths;
// doubled for the rounding of what is added to it. By parts of 256, it is no more than 264 + D/256
// roundings long.
inline float score_slack(int64_t dim) {
  const int64_t chain = (dim < 256 ? dim : 256) + dim / 256 + 8;
  return static_cast<float>(chain) * 0x1p-23f;
}

// The same for distances, relative to the result: chains of a fourth at most, and what is left.
inline float distance_slack(int64_t dim) { return static_cast<float>(dim / 4 + 72) * 0x1p-24f; }

}  // namespace pydream
