// Many problems in one buffer, taken apart.
#include <limits>
#include <stdexcept>

#include "common/half.h"
#include "kmeans/kmeans.h"

namespace pydream {
namespace {

Samples part(const Samples& all, int64_t begin, int64_t end) {
  const int64_t size = all.type == FloatType::float32 ? sizeof(float) : sizeof(Half);
  const auto* data = static_cast<const unsigned char*>(all.data) + begin * all.dim * size;
  return {data, all.type, end - begin, all.dim};
}

}  // namespace

Seeding parse_seeding(const std::string& name) {
  if (name == "k-means++") return Seeding::plusplus;
  if (name == "random") return Seeding::random;
  if (name == "given") return Seeding::given;
  throw std::invalid_argument("init cannot be " + name);
}

void check_finite(const float* centroids, int64_t rows, int64_t dim, const std::string& what) {
  constexpr double kMost = std::numeric_limits<float>::max() / 8;
  for (int64_t row = 0; row < rows; ++row) {
    const float* centroid = centroids + row * dim;
    double squares = 0.0;
    for (int64_t d = 0; d < dim; ++d) squares += static_cast<double>(centroid[d]) * centroid[d];
    if (squares <= kMost) continue;
    throw std::invalid_argument(what +
                                " must be finite, and small enough for squared distances in "
                                "float32; it is not in row " +
                                std::to_string(row));
  }
}

std::vector<KmeansProblem> kmeans_problems(const Samples& all, const std::vector<int64_t>& offsets,
                                           const std::vector<int64_t>& k, float* centroids,
                                           int64_t* labels, double* inertia, int64_t* n_iter) {
  std::vector<KmeansProblem> problems;
  for (size_t b = 0; b < k.size(); ++b) {
    const int64_t begin = offsets.at(b);
    problems.push_back({part(all, begin, offsets.at(b + 1)), k[b], centroids, labels + begin,
                        inertia + b, n_iter + b});
    centroids += k[b] * all.dim;
  }
  return problems;
}

std::vector<NearestProblem> nearest_problems(const Samples& all,
                                             const std::vector<int64_t>& offsets,
                                             const std::vector<int64_t>& k, const float* centroids,
                                             int64_t count, int64_t* nearest) {
  std::vector<NearestProblem> problems;
  for (size_t b = 0; b < k.size(); ++b) {
    const int64_t begin = offsets.at(b);
    problems.push_back({part(all, begin, offsets.at(b + 1)), k[b], centroids, nearest});
    centroids += k[b] * all.dim;
    nearest += k[b] * count;
  }
  return problems;
}

}  // namespace pydream
