// Many problems in one buffer, taken apart.
#include <algorithm>
#include <cmath>
#include <numeric>
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
  const float* wrong = std::find_if(centroids, centroids + rows * dim,
                                    [](float value) { return !std::isfinite(value); });
  if (wrong == centroids + rows * dim) return;
  throw std::invalid_argument(what + " must be finite; it is not in row " +
                              std::to_string((wrong - centroids) / dim));
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
