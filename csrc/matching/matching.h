// Distances between two lists of gradients; see pydream/ops/matching.py for the contract.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/view.h"

namespace pydream {

enum class Metric { mse, l1, l1_mean, l2, cos };

inline Metric parse_metric(const std::string& name) {
  if (name == "mse") return Metric::mse;
  if (name == "l1") return Metric::l1;
  if (name == "l1_mean") return Metric::l1_mean;
  if (name == "l2") return Metric::l2;
  if (name == "cos") return Metric::cos;
  throw std::invalid_argument("metric cannot be " + name);
}

// One layer of both lists, as contiguous rows.
struct Layer {
  const void* synthetic;  // [rows, columns]
  const void* real;       // [rows, columns]
  void* gradient;         // [rows, columns], derivative of the layer's distance, or null
  Dtype type;
  int64_t rows;
  int64_t columns;
};

// Two lists of contiguous gradients as layers, and optionally a third for derivatives. Pairs differ
// only in their memory, so addresses suffice for the second and third list.
inline std::vector<Layer> layers_of(const std::vector<View>& synthetic,
                                    const std::vector<uintptr_t>& real,
                                    const std::vector<uintptr_t>& gradients) {
  std::vector<Layer> layers;
  for (size_t i = 0; i < synthetic.size(); ++i) {
    const View& view = synthetic[i];
    int64_t columns = 1;
    for (int axis = 1; axis < view.rank; ++axis) columns *= view.shape[axis];
    layers.push_back({view.data, reinterpret_cast<const void*>(real.at(i)),
                      gradients.empty() ? nullptr : reinterpret_cast<void*>(gradients.at(i)),
                      view.dtype, view.rank > 0 ? view.shape[0] : 1, columns});
  }
  return layers;
}

// Returns the sum of the layers' distances; fills the gradients with respect to `synthetic`.
double gradient_distance_cpu(const std::vector<View>& synthetic, const std::vector<uintptr_t>& real,
                             const std::vector<uintptr_t>& gradients, const std::string& metric,
                             int threads);

// Constant added to the product of two lengths before a cosine is divided by it.
constexpr double kCosineFloor = 1e-6;

// Some consecutive values, or whole rows, of a layer.
struct Span {
  const void* synthetic;
  const void* real;
  void* gradient;
  Dtype type;
  int64_t count;  // values, or rows
  int64_t columns;
};

// One per instruction set, from matching_kernel.cpp. Values: sums of squared or absolute
// differences, and their gradients times `scale`. Rows: the sum of 1 - cos.
struct MatchingKernels {
  double (*squared)(const Span& span, float scale);
  double (*absolute)(const Span& span, float scale);
  double (*cosine)(const Span& span);
  void (*multiply)(void* values, Dtype type, int64_t count, float factor);
};

}  // namespace pydream
