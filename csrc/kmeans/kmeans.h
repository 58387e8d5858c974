// k-means of many independent problems; see pydream/ops/kmeans.py for the contract.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/view.h"

namespace pydream {

// Samples of one problem, contiguous.
struct Samples {
  const void* data;  // [N, D]
  Dtype type;
  int64_t count;
  int64_t dim;
};

inline Samples samples_of(const View& x) { return {x.data, x.dtype, x.shape[0], x.shape[1]}; }

enum class Seeding { plusplus, random, given };

struct KmeansSettings {
  Seeding seeding;
  int64_t max_iter;
  double tol;
  bool spherical;  // samples have length 1, and so must centres
  uint64_t seed;
};

struct KmeansProblem {
  Samples x;
  int64_t k;
  float* centroid;  // [k, D], with the initial ones if they are given
  int64_t* label;   // [N]
  double* inertia;
  int64_t* n_iter;
};

// Clusters problems that share one buffer: problem b has the samples offsets[b] .. offsets[b + 1]
// of x [T, D], and its k[b] centroids follow those of the previous problem. Fills centroids [C, D],
// labels [T], inertia (float64) and n_iter [B]. Seeding::given expects the first centroids in
// place. Throws std::invalid_argument for samples and centroids that are not finite or too large
// for float32 distances.
void kmeans_cpu(const View& x, const std::vector<int64_t>& offsets, const std::vector<int64_t>& k,
                const KmeansSettings& settings, const View& centroids, const View& labels,
                const View& inertia, const View& n_iter, int threads);

struct NearestProblem {
  Samples x;
  int64_t k;
  const float* centroid;  // [k, D]
  int64_t* nearest;       // [k, count]
};

// The problems of a shared buffer.
std::vector<KmeansProblem> kmeans_problems(const View& x, const std::vector<int64_t>& offsets,
                                           const std::vector<int64_t>& k, const View& centroids,
                                           const View& labels, const View& inertia,
                                           const View& n_iter);
std::vector<NearestProblem> nearest_problems(const View& x, const std::vector<int64_t>& offsets,
                                             const std::vector<int64_t>& k, const View& centroids,
                                             const View& nearest);

// Throws std::invalid_argument naming the first row of centroids [C, D] that is not finite, or
// whose squared length exceeds an eighth of float32's largest.
void check_finite(const View& centroids, const std::string& what);

// Reads k-means++, random or given. Throws std::invalid_argument for another name.
Seeding parse_seeding(const std::string& name);

// Draws k of `count` samples without replacement.
void random_samples(int64_t count, int64_t k, uint64_t seed, int64_t* chosen);

// The same, for as many as `chosen` [k] has room for.
void random_samples_cpu(int64_t count, uint64_t seed, const View& chosen);

// Fills nearest [C, n] with the n samples of a problem nearest to each centroid [C, D], nearest
// first.
void nearest_samples_cpu(const View& x, const std::vector<int64_t>& offsets,
                         const std::vector<int64_t>& k, const View& centroids, const View& nearest,
                         int threads);

// Number of candidates in a step of greedy k-means++, the same as scikit-learn's.
inline int seeding_trials(int64_t k) {
  return 2 + static_cast<int>(std::log(static_cast<double>(k)));
}

}  // namespace pydream
