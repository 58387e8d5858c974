// Lloyd's iterations of one problem on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kmeans/kmeans.h"
#include "kmeans/kmeans_kernel.h"

namespace pydream {

// Memory that is not set at first.
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

// What is known of every sample about the centres as they are.
struct Standing {
  explicit Standing(int64_t count)
      : label(count), own(count), upper(count), lower(count), stale(count) {}

  Buffer<int32_t> label;
  Buffer<float> own;      // squared distance to the own centre, unless stale
  Buffer<float> upper;    // the distance to the own centre is at most this
  Buffer<float> lower;    // and to every other centre at least this
  Buffer<uint8_t> stale;  // whether the own centre has moved since `own`
};

// Centres in panels, those that moved farthest first.
class Panels {
 public:
  Panels(int64_t k, int64_t dim, const KmeansKernels& kernels);

  // `order` [k] says which centres; `origin` [D] is a point near the samples.
  void pack(const float* centroid, const int32_t* order, const float* origin, int threads);

  int64_t count() const { return count_; }
  Panel at(int64_t panel) const;

  // How far a squared distance made of a score may be off, for a sample at this squared distance
  // from the origin.
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

// The mean of up to 256 samples, evenly spaced: a point near them.
std::vector<float> origin_of(const Samples& x, const KmeansKernels& kernels);

// Some sample is not finite, or its squared length above an eighth of float32's largest.
struct UnusableSamples {};

// Squared distances of all samples to a point. Throws UnusableSamples.
void squared_distances(const Samples& x, const float* point, float* squared,
                       const KmeansKernels& kernels, int threads);

// Throws std::invalid_argument that names the first unusable rows of all problems.
[[noreturn]] void throw_unusable_rows(const std::vector<Samples>& problems);

// Chooses k samples as centres by greedy k-means++ (as scikit-learn does) and fills the standing.
void seed_plusplus(const KmeansProblem& problem, uint64_t seed, Standing& standing, int threads);

// Chooses k samples without replacement as centres.
void seed_random(const KmeansProblem& problem, uint64_t seed);

// Runs one problem to its end.
void lloyd(const KmeansProblem& problem, const KmeansSettings& settings, int threads);

}  // namespace pydream
