#include <algorithm>

#include "common/parallel.h"
#include "kmeans/lloyd.h"

namespace pydream {
namespace {

// Problems whose iteration takes less than some hundred microseconds get one thread each: sharing
// their tiles would cost as much.
constexpr double kSmall = 1e8;  // multiply-adds

void solve(const std::vector<KmeansProblem>& problems, const KmeansSettings& settings,
           int threads) {
  std::vector<const KmeansProblem*> small;
  for (const KmeansProblem& problem : problems) {
    const double work = static_cast<double>(problem.x.count) * static_cast<double>(problem.x.dim) *
                        static_cast<double>(problem.k);
    if (work < kSmall) {
      small.push_back(&problem);
    } else {
      lloyd(problem, settings, threads);
    }
  }
  if (small.size() == 1) return lloyd(*small[0], settings, threads);
  parallel_for(static_cast<int64_t>(small.size()), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t each = begin; each < end; ++each) lloyd(*small[each], settings, threads);
  });
}

}  // namespace

void kmeans_cpu(const View& x, const std::vector<int64_t>& offsets, const std::vector<int64_t>& k,
                const KmeansSettings& settings, const View& centroids, const View& labels,
                const View& inertia, const View& n_iter, int threads) {
  const std::vector<KmeansProblem> problems =
      kmeans_problems(x, offsets, k, centroids, labels, inertia, n_iter);
  if (settings.seeding == Seeding::given) check_finite(centroids, "init");
  try {
    solve(problems, settings, threads);
  } catch (const UnusableSamples&) {  // of any problem
    std::vector<Samples> samples;
    for (const KmeansProblem& problem : problems) samples.push_back(problem.x);
    throw_unusable_rows(samples);
  }
}

}  // namespace pydream
