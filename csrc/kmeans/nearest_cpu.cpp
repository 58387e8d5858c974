#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/host_device.h"
#include "common/parallel.h"
#include "kmeans/lloyd.h"

namespace pydream {
namespace {

struct Candidate {
  float distance;
  int64_t sample;

  bool operator<(const Candidate& other) const {
    return distance < other.distance || (distance == other.distance && sample < other.sample);
  }
};

// The candidates of one centre: a heap with the farthest on top.
class Closest {
 public:
  explicit Closest(int64_t most) : most_(static_cast<size_t>(most)) {}

  float limit() const { return limit_; }

  void offer(const Candidate& candidate) {
    if (heap_.size() == most_) {
      if (!(candidate < heap_.front())) return;
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.back() = candidate;
    } else {
      heap_.push_back(candidate);
    }
    std::push_heap(heap_.begin(), heap_.end());
    if (heap_.size() == most_) limit_ = heap_.front().distance;
  }

  std::vector<Candidate>& all() { return heap_; }

 private:
  size_t most_;
  float limit_ = kInfinity;
  std::vector<Candidate> heap_;
};

// A problem, prepared for scoring.
struct Prepared {
  Prepared(const NearestProblem& problem, const KmeansKernels& kernels, int threads)
      : origin(origin_of(problem.x, kernels)),
        length(problem.x.count),
        panels(problem.k, problem.x.dim, kernels) {
    squared_distances(problem.x, origin.data(), length.data(), kernels, threads);
    std::vector<int32_t> order(static_cast<size_t>(problem.k));
    std::iota(order.begin(), order.end(), 0);
    panels.pack(problem.centroid, order.data(), origin.data(), threads);
  }

  std::vector<float> origin;
  Buffer<float> length;  // [N], squared distances to the origin
  Panels panels;
};

class PanelSearch {
 public:
  PanelSearch(const NearestProblem& problem, Prepared& prepared, int64_t panel, int64_t count,
              const KmeansKernels& kernels)
      : problem_(problem),
        prepared_(prepared),
        panel_(prepared.panels.at(panel)),
        first_centre_(panel * kernels.columns),
        centres_(std::min(kernels.columns, problem.k - first_centre_)),
        count_(count),
        kernels_(kernels),
        closest_(static_cast<size_t>(centres_), Closest(count)),
        widened_(static_cast<size_t>(kernels.rows * problem.x.dim)) {}

  void run() {
    for (int64_t i = 0; i < problem_.x.count; i += kernels_.rows) {
      score_rows(i, std::min(kernels_.rows, problem_.x.count - i));
    }
    for (int64_t j = 0; j < centres_; ++j) write(j);
  }

 private:
  void score_rows(int64_t first, int64_t count) {
    const int64_t dim = problem_.x.dim;
    const float* rows[kMostRows] = {};
    float scores[kMostRows * kMostColumns];
    for (int64_t r = 0; r < count; ++r) {
      rows[r] = kernels_.widen(problem_.x, first + r, widened_.data() + r * dim);
    }
    kernels_.score_all(rows, count, dim, panel_, scores);
    for (int64_t r = 0; r < count; ++r) {
      const float length = prepared_.length[first + r];
      const float least = length - prepared_.panels.margin(length);
      for (int64_t j = 0; j < centres_; ++j) {
        // A score only excludes samples; the others are measured.
        if (least + 2.0f * scores[r * kernels_.columns + j] > closest_[j].limit()) continue;
        closest_[j].offer({kernels_.distance(rows[r], centre(j), dim), first + r});
      }
    }
  }

  const float* centre(int64_t j) const {
    return problem_.centroid + (first_centre_ + j) * problem_.x.dim;
  }

  void write(int64_t j) {
    std::vector<Candidate>& candidates = closest_[j].all();
    std::sort(candidates.begin(), candidates.end());
    int64_t* nearest = problem_.nearest + (first_centre_ + j) * count_;
    for (int64_t n = 0; n < count_; ++n) nearest[n] = candidates[n].sample;
  }

  const NearestProblem& problem_;
  Prepared& prepared_;
  const Panel panel_;
  const int64_t first_centre_, centres_, count_;
  const KmeansKernels& kernels_;
  std::vector<Closest> closest_;
  std::vector<float> widened_;  // [rows, D]
};

}  // namespace

void nearest_samples_cpu(const View& x, const std::vector<int64_t>& offsets,
                         const std::vector<int64_t>& k, const View& centroids, const View& nearest,
                         int threads) {
  check_finite(centroids, "centroids");
  const std::vector<NearestProblem> problems = nearest_problems(x, offsets, k, centroids, nearest);
  const int64_t count = nearest.shape[1];
  const KmeansKernels& kernels = kmeans_kernels();
  const int64_t total = static_cast<int64_t>(problems.size());
  const auto search = [&](const NearestProblem& problem, int inside) {
    Prepared prepared(problem, kernels, inside);
    parallel_for(prepared.panels.count(), 1, inside, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        PanelSearch(problem, prepared, panel, count, kernels).run();
      }
    });
  };
  try {
    if (total < threads) {
      for (const NearestProblem& problem : problems) search(problem, threads);
      return;
    }
    parallel_for(total, 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t each = begin; each < end; ++each) search(problems[each], threads);
    });
  } catch (const UnusableSamples&) {
    std::vector<Samples> samples;
    for (const NearestProblem& problem : problems) samples.push_back(problem.x);
    throw_unusable_rows(samples);
  }
}

}  // namespace pydream
