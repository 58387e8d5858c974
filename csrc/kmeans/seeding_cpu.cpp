#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/host_device.h"
#include "common/parallel.h"
#include "common/philox.h"
#include "kmeans/lloyd.h"

namespace pydream {
namespace {

constexpr int64_t kBlock = 256;   // samples whose distances form one partial sum
constexpr int64_t kTogether = 4;  // samples measured at a time
constexpr uint32_t kPurpose = static_cast<uint32_t>(Stream::kmeans) << 16;

// Greedy k-means++: each step draws candidates with probability proportional to the squared
// distance to the nearest centre so far, and keeps the candidate that leaves the smallest sum of
// those distances.
class PlusPlus {
 public:
  PlusPlus(const KmeansProblem& problem, uint64_t seed, Bounds& bounds, int threads)
      : problem_(problem),
        x_(problem.x),
        kernels_(kmeans_kernels()),
        bounds_(bounds),
        seed_(seed),
        threads_(threads),
        trials_(seeding_trials(problem.k)),
        blocks_((x_.count + kBlock - 1) / kBlock),
        chosen_(static_cast<size_t>(x_.count)),
        distance_(x_.count * trials_),
        second_(x_.count),
        potential_(static_cast<size_t>(blocks_ * trials_)),
        nearest_(static_cast<size_t>(blocks_)) {}

  void run() {
    const Philox4 words = philox4x32(seed_, 0, 0, 0, kPurpose);
    candidates_ = {below(words.word[0], x_.count)};
    std::fill_n(bounds_.own.data(), x_.count, kInfinity);
    std::fill_n(second_.data(), x_.count, kInfinity);
    for (int64_t step = 0; step < problem_.k; ++step) {
      if (step > 0) draw(static_cast<uint32_t>(step));
      measure();
      accept(step, best_candidate());
    }
    finish();
  }

 private:
  // The sample at which the running sum of the distances passes `mark`.
  int64_t find(double mark) const {
    double sum = 0.0;
    int64_t block = 0;
    while (block + 1 < blocks_ && sum + nearest_[block] <= mark) sum += nearest_[block++];
    int64_t last =
        -1;  // sample with a positive distance, in case rounding leaves the mark beyond the end
    for (int64_t i = block * kBlock; i < x_.count; ++i) {
      const float own = bounds_.own[i];
      if (own <= 0.0f) continue;
      last = i;
      sum += own;
      if (sum > mark) return i;
    }
    for (int64_t i = block * kBlock; last < 0 && i-- > 0;) {
      if (bounds_.own[i] > 0.0f) last = i;
    }
    return last;
  }

  void draw(uint32_t step) {
    const double total = std::accumulate(nearest_.begin(), nearest_.end(), 0.0);
    candidates_.clear();
    if (total <= 0.0) {  // every sample is on a centre: take the first that is not a centre
      const auto free = std::find(chosen_.begin(), chosen_.end(), uint8_t{0});
      candidates_.push_back(free - chosen_.begin());
      return;
    }
    for (int trial = 0; trial < trials_; ++trial) {
      const Philox4 words = philox4x32(seed_, step, static_cast<uint32_t>(trial), 0, kPurpose);
      const double unit = unit_interval(words.word[0]) + unit_interval(words.word[1]) * 0x1p-32;
      candidates_.push_back(find(unit * total));
    }
  }

  // Distances of all samples to the candidates, and the sums that each candidate would leave.
  void measure() {
    const int64_t count = static_cast<int64_t>(candidates_.size());
    Buffer<float> points(count * x_.dim);
    std::vector<const float*> point;
    for (int64_t c = 0; c < count; ++c) {
      float* own = points.data() + c * x_.dim;
      const float* row = kernels_.widen(x_, candidates_[c], own);
      if (row != own) std::copy_n(row, x_.dim, own);
      point.push_back(own);
    }
    const int64_t grain = std::max<int64_t>(262144 / (kBlock * x_.dim * count), 1);
    parallel_for(blocks_, grain, threads_, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(static_cast<size_t>(kTogether * x_.dim));
      for (int64_t block = begin; block < end; ++block) {
        measure_block(block, point, scratch.data());
      }
    });
  }

  void measure_block(int64_t block, const std::vector<const float*>& point, float* scratch) {
    const int64_t count = static_cast<int64_t>(point.size());
    double* potential = potential_.data() + block * trials_;
    std::fill_n(potential, count, 0.0);
    const int64_t end = std::min((block + 1) * kBlock, x_.count);
    for (int64_t first = block * kBlock; first < end; first += kTogether) {
      const int64_t rows = std::min(kTogether, end - first);
      const float* row[kTogether];
      for (int64_t r = 0; r < rows; ++r) {
        row[r] = kernels_.widen(x_, first + r, scratch + r * x_.dim);
      }
      float* squared = distance_.data() + first * count;
      kernels_.distances(row, rows, point.data(), count, x_.dim, squared);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < count; ++c) {
          potential[c] += std::min(bounds_.own[first + r], squared[r * count + c]);
        }
      }
    }
  }

  int64_t best_candidate() const {
    int64_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (size_t c = 0; c < candidates_.size(); ++c) {
      double sum = 0.0;
      for (int64_t block = 0; block < blocks_; ++block) {
        sum += potential_[block * trials_ + static_cast<int64_t>(c)];
      }
      if (sum < least) {
        least = sum;
        best = static_cast<int64_t>(c);
      }
    }
    return best;
  }

  void accept(int64_t step, int64_t candidate) {
    const int64_t sample = candidates_[candidate];
    chosen_[sample] = 1;
    float* centre = problem_.centroid + step * x_.dim;
    const float* row = kernels_.widen(x_, sample, centre);
    if (row != centre) std::copy_n(row, x_.dim, centre);
    for (int64_t block = 0; block < blocks_; ++block) {
      nearest_[block] = potential_[block * trials_ + candidate];
    }
    const int64_t count = static_cast<int64_t>(candidates_.size());
    for (int64_t i = 0; i < x_.count; ++i) {
      const float squared = distance_[i * count + candidate];
      if (squared < bounds_.own[i]) {
        second_[i] = bounds_.own[i];
        bounds_.own[i] = squared;
        bounds_.label[i] = static_cast<int32_t>(step);
      } else {
        second_[i] = std::min(second_[i], squared);
      }
    }
  }

  void finish() {
    const float slack = distance_slack(x_.dim);
    for (int64_t i = 0; i < x_.count; ++i) {
      bounds_.stale[i] = 0;
      bounds_.upper[i] = std::sqrt(bounds_.own[i]) * (1.0f + slack);
      bounds_.lower[i] = std::sqrt(second_[i]) * (1.0f - slack);
    }
  }

  const KmeansProblem& problem_;
  const Samples& x_;
  const KmeansKernels& kernels_;
  Bounds& bounds_;
  const uint64_t seed_;
  const int threads_;
  const int64_t trials_;
  const int64_t blocks_;
  std::vector<int64_t> candidates_;
  std::vector<uint8_t> chosen_;    // [N]
  Buffer<float> distance_;         // [N, trials], squared
  Buffer<float> second_;           // [N], squared distance to the second nearest centre
  std::vector<double> potential_;  // [blocks, trials]
  std::vector<double> nearest_;    // [blocks], sums of the squared distances to the nearest centre
};

}  // namespace

void seed_plusplus(const KmeansProblem& problem, uint64_t seed, Bounds& bounds, int threads) {
  PlusPlus(problem, seed, bounds, threads).run();
}

void random_samples(int64_t count, int64_t k, uint64_t seed, int64_t* chosen) {
  std::vector<std::pair<uint64_t, int64_t>> keys(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const Philox4 words =
        philox4x32(seed, static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 1, kPurpose);
    keys[i] = {static_cast<uint64_t>(words.word[0]) << 32 | words.word[1], i};
  }
  std::partial_sort(keys.begin(), keys.begin() + k, keys.end());
  for (int64_t j = 0; j < k; ++j) chosen[j] = keys[j].second;
}

void random_samples_cpu(int64_t count, uint64_t seed, const View& chosen) {
  random_samples(count, chosen.shape[0], seed, chosen.as<int64_t>());
}

void seed_random(const KmeansProblem& problem, uint64_t seed) {
  const Samples& x = problem.x;
  std::vector<int64_t> chosen(static_cast<size_t>(problem.k));
  random_samples(x.count, problem.k, seed, chosen.data());
  for (int64_t j = 0; j < problem.k; ++j) {
    float* centre = problem.centroid + j * x.dim;
    const float* row = kmeans_kernels().widen(x, chosen[j], centre);
    if (row != centre) std::copy_n(row, x.dim, centre);
  }
}

}  // namespace pydream
