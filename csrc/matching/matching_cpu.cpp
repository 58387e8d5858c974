#include <algorithm>
#include <cmath>

#include "common/isa.h"
#include "common/parallel.h"
#include "matching/matching.h"

namespace pydream {

PYDREAM_KERNELS(MatchingKernels, matching_kernels)

namespace {

// Values of a span: long compared with its scheduling on a thread, short compared with a list.
constexpr int64_t kSpan = 65536;

// A span, its layer, and its part of the layer's distance.
struct Piece {
  Span span;
  size_t layer;
  double value;
};

// `from` advanced by some values; null stays null.
template <class Pointer>
Pointer moved(Pointer from, Dtype type, int64_t values) {
  using Bytes = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>,
                                   const unsigned char, unsigned char>;
  return from == nullptr ? from : static_cast<Bytes*>(from) + values * bytes_of(type);
}

std::vector<Piece> cut(const std::vector<Layer>& layers, bool by_rows) {
  std::vector<Piece> pieces;
  for (size_t number = 0; number < layers.size(); ++number) {
    const Layer& layer = layers[number];
    if (layer.columns == 0) continue;                   // however many rows
    const int64_t width = by_rows ? layer.columns : 1;  // values of an item
    const int64_t items = by_rows ? layer.rows : layer.rows * layer.columns;
    const int64_t together = std::max<int64_t>(kSpan / std::max<int64_t>(width, 1), 1);
    for (int64_t first = 0; first < items; first += together) {
      const int64_t at = first * width;
      pieces.push_back({{moved(layer.synthetic, layer.type, at), moved(layer.real, layer.type, at),
                         moved(layer.gradient, layer.type, at), layer.type,
                         std::min(together, items - first), layer.columns},
                        number,
                        0.0});
    }
  }
  return pieces;
}

double measure(const Span& span, Metric metric) {
  switch (metric) {
    case Metric::cos:
      return matching_kernels().cosine(span);
    case Metric::l1:
      return matching_kernels().absolute(span, 1.0f);
    case Metric::l1_mean: {
      const double columns = static_cast<double>(span.columns);
      return matching_kernels().absolute(span, static_cast<float>(1.0 / columns)) / columns;
    }
    case Metric::l2:  // the derivative is divided by the distance once that is known
      return matching_kernels().squared(span, 0.5f);
    default:
      return matching_kernels().squared(span, 1.0f);
  }
}

}  // namespace

double gradient_distance_cpu(const std::vector<View>& synthetic, const std::vector<uintptr_t>& real,
                             const std::vector<uintptr_t>& gradients, const std::string& name,
                             int threads) {
  const std::vector<Layer> layers = layers_of(synthetic, real, gradients);
  for (const Layer& layer : layers) {
    check_aligned(reinterpret_cast<uintptr_t>(layer.real), layer.type);
  }
  const Metric metric = parse_metric(name);
  std::vector<Piece> pieces = cut(layers, metric == Metric::cos);
  const int64_t count = static_cast<int64_t>(pieces.size());
  const auto over_pieces = [&](const auto& work) {
    parallel_for(count, 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t each = begin; each < end; ++each) work(pieces[static_cast<size_t>(each)]);
    });
  };
  over_pieces([&](Piece& piece) { piece.value = measure(piece.span, metric); });
  std::vector<double> distance(layers.size());
  for (const Piece& piece : pieces) distance[piece.layer] += piece.value;
  if (metric == Metric::l2) {
    for (double& each : distance) each = std::sqrt(each);
    over_pieces([&](Piece& piece) {
      const double length = distance[piece.layer];
      if (piece.span.gradient == nullptr) return;
      matching_kernels().multiply(piece.span.gradient, piece.span.type, piece.span.count,
                                  length > 0.0 ? static_cast<float>(1.0 / length) : 0.0f);
    });
  }
  double total = 0.0;
  for (const double each : distance) total += each;
  return total;
}

}  // namespace pydream
