#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "common/host_device.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "kmeans/lloyd.h"

namespace pydream {

Panels::Panels(int64_t k, int64_t dim, const KmeansKernels& kernels)
    : kernels_(kernels),
      k_(k),
      dim_(dim),
      count_((k + kernels.columns - 1) / kernels.columns),
      values_(static_cast<size_t>(count_ * dim * kernels.columns)),
      bias_(static_cast<size_t>(count_ * kernels.columns)),
      centre_(static_cast<size_t>(count_ * kernels.columns)),
      length_(static_cast<size_t>(count_)) {}

void Panels::pack(const float* centroid, const int32_t* order, const float* origin, int threads) {
  parallel_for(count_, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) pack_one(centroid, order, origin, panel);
  });
  farthest_ = *std::max_element(length_.begin(), length_.end());
  double squares = 0.0;
  for (int64_t d = 0; d < dim_; ++d) squares += static_cast<double>(origin[d]) * origin[d];
  origin_length_ = static_cast<float>(std::sqrt(squares)) * 1.000001f;
}

float Panels::margin(float length) const {
  const float near = std::sqrt(length);
  return score_slack(dim_) * (near + origin_length_ + farthest_) * farthest_ +
         distance_slack(dim_) * length;
}

void Panels::pack_one(const float* centroid, const int32_t* order, const float* origin,
                      int64_t panel) {
  const int64_t columns = kernels_.columns;
  float* values = values_.data() + panel * dim_ * columns;
  const float* from[kMostColumns];
  double half[kMostColumns] = {};    // |c - origin|^2 / 2
  double across[kMostColumns] = {};  // <origin, c - origin>
  const int64_t here = std::min(columns, k_ - panel * columns);
  for (int64_t j = 0; j < columns; ++j) {
    const int32_t centre = order[std::min(panel * columns + j, k_ - 1)];
    centre_[panel * columns + j] = j < here ? centre : std::numeric_limits<int32_t>::max();
    from[j] = centroid + centre * dim_;
  }
  for (int64_t d = 0; d < dim_; ++d) {
    for (int64_t j = 0; j < columns; ++j) {
      const float value = from[j][d] - origin[d];
      values[d * columns + j] = value;
      half[j] += static_cast<double>(value) * value;
      across[j] += static_cast<double>(value) * origin[d];
    }
  }
  double longest = 0.0;
  for (int64_t j = 0; j < columns; ++j) {
    bias_[panel * columns + j] = j < here ? static_cast<float>(half[j] / 2 + across[j]) : kInfinity;
    longest = std::max(longest, half[j]);
  }
  length_[panel] = static_cast<float>(std::sqrt(longest)) * 1.000001f;
}

Panel Panels::at(int64_t panel) const {
  const int64_t columns = kernels_.columns;
  return {values_.data() + panel * dim_ * columns, bias_.data() + panel * columns,
          centre_.data() + panel * columns};
}

std::vector<float> origin_of(const Samples& x, const KmeansKernels& kernels) {
  constexpr int64_t kLooks = 256;
  const int64_t looks = std::min(x.count, kLooks);
  std::vector<double> sum(static_cast<size_t>(x.dim));
  std::vector<float> scratch(static_cast<size_t>(x.dim)), mean(sum.size());
  for (int64_t look = 0; look < looks; ++look) {
    const float* row = kernels.widen(x, look * x.count / looks, scratch.data());
    kernels.accumulate(row, 1.0 / static_cast<double>(looks), x.dim, sum.data());
  }
  std::transform(sum.begin(), sum.end(), mean.begin(),
                 [](double each) { return static_cast<float>(each); });
  return mean;
}

namespace {

bool usable(const float* row, const std::vector<float>& zeros, const KmeansKernels& kernels) {
  // A difference may be four times as much, which is still finite.
  constexpr float kMost = std::numeric_limits<float>::max() / 8;
  return kernels.distance(row, zeros.data(), static_cast<int64_t>(zeros.size())) <= kMost;
}

}  // namespace

void squared_distances(const Samples& x, const float* point, float* squared,
                       const KmeansKernels& kernels, int threads) {
  const std::vector<float> zeros(static_cast<size_t>(x.dim));
  const int64_t grain = std::max<int64_t>(65536 / x.dim, 1);
  parallel_for(x.count, grain, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(x.dim));
    for (int64_t i = begin; i < end; ++i) {
      const float* row = kernels.widen(x, i, scratch.data());
      if (!usable(row, zeros, kernels)) throw UnusableSamples();
      squared[i] = kernels.distance(row, point, x.dim);
    }
  });
}

void throw_unusable_rows(const std::vector<Samples>& problems) {
  constexpr int64_t kShown = 5;
  const KmeansKernels& kernels = kmeans_kernels();
  int64_t row = 0, count = 0;
  std::string first;
  for (const Samples& x : problems) {
    const std::vector<float> zeros(static_cast<size_t>(x.dim));
    std::vector<float> scratch(zeros.size());
    for (int64_t i = 0; i < x.count; ++i, ++row) {
      if (usable(kernels.widen(x, i, scratch.data()), zeros, kernels)) continue;
      if (count++ < kShown) first += (first.empty() ? "" : ", ") + std::to_string(row);
    }
  }
  throw std::invalid_argument(
      "x must be finite, small enough for squared distances in float32, and for cosine not zero; "
      "it is not in " +
      std::to_string(count) + (count == 1 ? " row: " : " rows: ") + first +
      (count > kShown ? ", ..." : ""));
}

}  // namespace pydream
