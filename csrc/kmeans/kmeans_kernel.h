// The processor-specific part of k-means, compiled once per instruction set (kmeans_kernel.cpp).
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "kmeans/kmeans.h"

namespace pydream {

// Limits of the kernels of all instruction sets.
constexpr int64_t kMostRows = 12;
constexpr int64_t kMostColumns = 32;

// A panel of centres, relative to a point `origin` near the samples. The part of |x - c|^2 that
// depends on the centre is 2 * (bias - <x, c - origin>), with bias = |c - origin|^2 / 2 + <origin,
// c - origin>. Columns without a centre have bias +inf.
struct Panel {
  const float* values;    // [D, columns]
  const float* bias;      // [columns]
  const int32_t* centre;  // [columns], numbers of these centres
};

// The smallest and second smallest score of a row, by lanes. Ties go to the lower centre.
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
  int64_t rows;     // rows scored together
  int64_t columns;  // centres of a panel

  // Initialises a minimum before any centre.
  void (*clear)(Minimum* minimum);

  // Scores `count` rows of D floats against a panel, and updates their minima.
  void (*score)(const float* const* rows, int64_t count, int64_t dim, const Panel& panel,
                Minimum* const* minima);

  // The same, and writes the scores [count, columns].
  void (*score_all)(const float* const* rows, int64_t count, int64_t dim, const Panel& panel,
                    float* scores);

  Nearest (*reduce)(const Minimum& minimum);

  // |x - point|^2.
  float (*distance)(const float* x, const float* point, int64_t dim);

  // The same for `count` rows and each of some points: squared [count, num_points].
  void (*distances)(const float* const* rows, int64_t count, const float* const* points,
                    int64_t num_points, int64_t dim, float* squared);

  // sum += sign * x.
  void (*accumulate)(const float* x, double sign, int64_t dim, double* sum);

  // Row `index` as floats: in place if possible, else in `scratch`.
  const float* (*widen)(const Samples& samples, int64_t index, float* scratch);
};

PYDREAM_KERNELS(KmeansKernels, kmeans_kernels)

// Bound of the error of a sum of D products in `score`, relative to the product of lengths, and
// doubled for the rounding of the terms added to it. With partial sums of 256, at most 264 + D/256
// roundings follow each other.
inline float score_slack(int64_t dim) {
  const int64_t chain = (dim < 256 ? dim : 256) + dim / 256 + 8;
  return static_cast<float>(chain) * 0x1p-23f;
}

// The same for distances, relative to the result: chains of at most a fourth, and the remainder.
inline float distance_slack(int64_t dim) { return static_cast<float>(dim / 4 + 72) * 0x1p-24f; }

}  // namespace pydream
