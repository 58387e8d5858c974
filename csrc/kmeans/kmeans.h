// k-means of many independent problems; see pydream/ops/kmeans.py for the contract.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/float_type.h"

namespace pydream {

// Samples of one problem, side by side.
struct Samples {
  const void* data;  // [N, D]
  FloatType type;
  int64_t count;
  int64_t dim;
};

enum class Seeding { plusplus, random, given };

struct KmeansSettings {
  Seeding seeding;
  int max_iter;
  double tol;
  bool spherical;  // samples have length 1, and so shall centres
  uint64_t seed;
};

struct KmeansProblem {
  Samples x;
  int64_t k;
  float* centroid;  // [k, D], the initial ones where they are given
  int64_t* label;   // [N]
  double* inertia;
  int64_t* n_iter;
};

// Throws std::invalid_argument for samples that are not finite or too large for float32 distances.
void kmeans_cpu(const std::vector<KmeansProblem>& problems, const KmeansSettings& settings,
                int threads);

struct NearestProblem {
  Samples x;
  int64_t k;
  const float* centroid;  // [k, D]
  int64_t* nearest;       // [k, count]
};

// Problems that share one buffer: samples offsets[b] .. offsets[b + 1] are those of problem b, and
// its k[b] centres follow those of the problem before.
std::vector<KmeansProblem> kmeans_problems(const Samples& all, const std::vector<int64_t>& offsets,
                                           const std::vector<int64_t>& k, float* centroids,
                                           int64_t* labels, double* inertia, int64_t* n_iter);
std::vector<NearestProblem> nearest_problems(const Samples& all,
                                             const std::vector<int64_t>& offsets,
                                             const std::vector<int64_t>& k, const float* centroids,
                                             int64_t count, int64_t* nearest);

// Throws std::invalid_argument that names the first row of [rows, D] that is not finite, or whose
// squared length is above an eighth of float32's largest.
void check_finite(const float* centroids, int64_t rows, int64_t dim, const std::string& what);

Seeding parse_seeding(const std::string& name);

// Draws k of `count` samples without replacement.
void random_samples(int64_t count, int64_t k, uint64_t seed, int64_t* chosen);

// The `count` samples of a problem that lie nearest to each centre, nearest first.
void nearest_samples_cpu(const std::vector<NearestProblem>& problems, int64_t count, int threads);

// How many candidates a step of greedy k-means++ tries, as scikit-learn does.
inline int seeding_trials(int64_t k) {
  return 2 + static_cast<int>(std::log(static_cast<double>(k)));
}

}  // namespace pydream
