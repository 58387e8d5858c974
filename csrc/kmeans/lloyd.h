// Lloyd's iterations of one problem on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kmeans/kmeans.h"
#include "kmeans/kmeans_kernel.h"

namespace pydream {

// Uninitialised memory.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : values_(new T[static_cast<size_t>(size)]) {}
  T* data() { return values_.get(); }
  T& operator[](int64_t index) { return values_[index]; }
  const T& operator[](int64_t index) const { return values_[index]; }

 private:
  std::unique_ptr<T[]> values_;
};

// Bounds on the distances of every sample to the current centres.
struct Bounds {
  explicit Bounds(int64_t count)
      : label(count), own(count), upper(count), lower(count), stale(count) {}

  Buffer<int32_t> label;
  Buffer<float> own;      // squared distance to the own centre, unless stale
  Buffer<float> upper;    // upper bound of the distance to the own centre
  Buffer<float> lower;    // lower bound of the distance to every other centre
  Buffer<uint8_t> stale;  // whether the own centre has moved since `own`
};

// Centres in panels, sorted by descending movement.
class Panels {
 public:
  Panels(int64_t k, int64_t dim, const KmeansKernels& kernels);

  // `order` [k] lists the centres; `origin` [D] is a point near the samples.
  void pack(const float* centroid, const int32_t* order, const float* origin, int threads);

  int64_t count() const { return count_; }
  Panel at(int64_t panel) const;

  // Bound of the error of a squared distance computed from a score, for a sample at this squared
  // distance from the origin.
  float margin(float length) const;

 private:
  void pack_one(const float* centroid, const int32_t* order, const float* origin, int64_t panel);

  const KmeansKernels& kernels_;
  int64_t k_, dim_, count_;
  std::vector<float> values_;  // [count, D, columns]
  std::vector<float> bias_;    // [count, columns]
  std::vector<int32_t> centre_;
  std::vector<float> length_;  // [count], the longest of each
  float farthest_ = 0.0f;      // the longest |c - origin|
  float origin_length_ = 0.0f;
};

// The mean of up to 256 samples, evenly spaced: a point near all of them.
std::vector<float> origin_of(const Samples& x, const KmeansKernels& kernels);

// A sample is not finite, or its squared length exceeds an eighth of float32's largest.
struct UnusableSamples {};

// Squared distances of all samples to a point. Throws UnusableSamples.
void squared_distances(const Samples& x, const float* point, float* squared,
                       const KmeansKernels& kernels, int threads);

// Throws std::invalid_argument naming the first unusable rows of all problems.
[[noreturn]] void throw_unusable_rows(const std::vector<Samples>& problems);

// Chooses k samples as centres by greedy k-means++ (as scikit-learn does) and fills the bounds.
void seed_plusplus(const KmeansProblem& problem, uint64_t seed, Bounds& bounds, int threads);

// Chooses k samples without replacement as centres.
void seed_random(const KmeansProblem& problem, uint64_t seed);

// Runs one problem until it converges.
void lloyd(const KmeansProblem& problem, const KmeansSettings& settings, int threads);

}  // namespace pydream
