// Splits a shared buffer into its problems.
#include <limits>
#include <stdexcept>

#include "kmeans/kmeans.h"

namespace pydream {
namespace {

Samples part(const Samples& all, int64_t begin, int64_t end) {
  const auto* data =
      static_cast<const unsigned char*>(all.data) + begin * all.dim * bytes_of(all.type);
  return {data, all.type, end - begin, all.dim};
}

}  // namespace

Seeding parse_seeding(const std::string& name) {
  if (name == "k-means++") return Seeding::plusplus;
  if (name == "random") return Seeding::random;
  if (name == "given") return Seeding::given;
  throw std::invalid_argument("init cannot be " + name);
}

void check_finite(const View& centroids, const std::string& what) {
  constexpr double kMost = std::numeric_limits<float>::max() / 8;
  const int64_t dim = centroids.shape[1];
  for (int64_t row = 0; row < centroids.shape[0]; ++row) {
    const float* centroid = centroids.as<const float>() + row * dim;
    double squares = 0.0;
    for (int64_t d = 0; d < dim; ++d) squares += static_cast<double>(centroid[d]) * centroid[d];
    if (squares <= kMost) continue;
    throw std::invalid_argument(what +
                                " must be finite, and small enough for squared distances in "
                                "float32; it is not in row " +
                                std::to_string(row));
  }
}

std::vector<KmeansProblem> kmeans_problems(const View& x, const std::vector<int64_t>& offsets,
                                           const std::vector<int64_t>& k, const View& centroids,
                                           const View& labels, const View& inertia,
                                           const View& n_iter) {
  const Samples all = samples_of(x);
  float* centroid = centroids.as<float>();
  std::vector<KmeansProblem> problems;
  for (size_t b = 0; b < k.size(); ++b) {
    const int64_t begin = offsets.at(b);
    problems.push_back({part(all, begin, offsets.at(b + 1)), k[b], centroid,
                        labels.as<int64_t>() + begin, inertia.as<double>() + b,
                        n_iter.as<int64_t>() + b});
    centroid += k[b] * all.dim;
  }
  return problems;
}

std::vector<NearestProblem> nearest_problems(const View& x, const std::vector<int64_t>& offsets,
                                             const std::vector<int64_t>& k, const View& centroids,
                                             const View& nearest) {
  const Samples all = samples_of(x);
  const float* centroid = centroids.as<const float>();
  int64_t* row = nearest.as<int64_t>();
  std::vector<NearestProblem> problems;
  for (size_t b = 0; b < k.size(); ++b) {
    problems.push_back({part(all, offsets.at(b), offsets.at(b + 1)), k[b], centroid, row});
    centroid += k[b] * all.dim;
    row += k[b] * nearest.shape[1];
  }
  return problems;
}

}  // namespace pydream
