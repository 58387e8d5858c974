// Greedy k-means++ on CUDA, with the draws of seeding_cpu.cpp.
//
// Shapes: samples [T, D], distances to candidates [T, trials]; a block draws for one problem, or
// measures 128 samples.
// Presumes: k up to 10^6, so 15 candidates at most. Two launches per centre, each for all problems.
// A draw reads the sums of a problem's tiles one after another, by a thread per candidate: with a
// million samples, 7813 of them.
// Limit: per centre one read of the samples, and 3 * candidates operations per value.

#include "common/host_device.h"
#include "common/philox.h"
#include "common/threads.h"
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

constexpr int kMostTrials = 16;
constexpr int kAtOnce = 4;
constexpr int32_t kChosen = -2;  // in `label`, which is -1 otherwise
constexpr uint32_t kPurpose = static_cast<uint32_t>(Stream::kmeans) << 16;

__device__ int trials_of(int64_t k) { return 2 + static_cast<int>(log(static_cast<double>(k))); }

// The distance to the nearest centre so far, including the centre just chosen.
__device__ float nearest_so_far(const KmeansOnDevice& k, const SeedingOnDevice& s, int64_t row,
                                int32_t best) {
  return fminf(k.near[row], s.distance[row * s.most_trials + best]);
}

// The sample at which the running sum of the distances passes `mark`.
__device__ int64_t find_sample(const KmeansOnDevice& k, const SeedingOnDevice& s, int64_t problem,
                               int32_t best, double mark) {
  const ProblemEntry& entry = k.table[problem];
  const ProblemEntry& next = k.table[problem + 1];
  double sum = 0.0;
  int64_t tile = entry.first_tile;
  while (tile + 1 < next.first_tile && sum + s.nearest[tile] <= mark) sum += s.nearest[tile++];
  const int64_t begin = entry.first_row + (tile - entry.first_tile) * kTileRows;
  int64_t last =
      -1;  // sample with a positive distance, in case rounding leaves the mark beyond the end
  for (int64_t row = begin; row < next.first_row; ++row) {
    const float near = nearest_so_far(k, s, row, best);
    if (!(near > 0.0f)) continue;
    last = row;
    sum += near;
    if (sum > mark) return row;
  }
  for (int64_t row = begin; last < 0 && row-- > entry.first_row;) {
    if (nearest_so_far(k, s, row, best) > 0.0f) last = row;
  }
  return last < 0 ? entry.first_row : last;
}

// The candidate that leaves the smallest sum of distances, returned to every thread.
__device__ int32_t best_candidate(const SeedingOnDevice& s, const ProblemEntry& entry,
                                  const ProblemEntry& next, int candidates, double* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < candidates) {
    double sum = 0.0;
    for (int64_t tile = entry.first_tile; tile < next.first_tile; ++tile) {
      sum += s.potential[tile * s.most_trials + thread];
    }
    sums[thread] = sum;
  }
  __syncthreads();
  int32_t best = 0;
  for (int candidate = 1; candidate < candidates; ++candidate) {
    if (sums[candidate] < sums[best]) best = candidate;
  }
  return best;
}

// Adopts the best candidate of the previous step, and draws the candidates of this step.
template <class T>
__global__ void __launch_bounds__(kThreads)
    draw_kernel(const KmeansOnDevice k, const SeedingOnDevice s, uint64_t seed, int64_t step) {
  double* sums = shared_memory<double>();  // [kMostTrials]
  const int64_t problem = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const ProblemEntry& entry = k.table[problem];
  const ProblemEntry& next = k.table[problem + 1];
  const int64_t centres = next.first_centre - entry.first_centre;
  if (step > centres) return;
  int64_t* candidate = s.candidate + problem * s.most_trials;
  int32_t best = 0;
  if (step > 0) {
    best = best_candidate(s, entry, next, s.candidates[problem], sums);
    const int64_t row = candidate[best];
    for (int64_t d = thread; d < k.x.dim; d += kThreads) {
      k.centroid[(entry.first_centre + step - 1) * k.x.dim + d] = sample<T>(k, row, d);
    }
    for (int64_t tile = entry.first_tile + thread; tile < next.first_tile; tile += kThreads) {
      s.nearest[tile] = s.potential[tile * s.most_trials + best];
    }
    if (thread == 0) {
      k.label[row] = kChosen;
      s.best[problem] = best;
    }
    __syncthreads();  // candidates and sums have been read, and the nearest written
  }
  if (step == centres) return;
  double total = 0.0;
  if (step > 0) {
    for (int64_t tile = entry.first_tile; tile < next.first_tile; ++tile) total += s.nearest[tile];
  }
  const bool drawn = step > 0 && total > 0.0;
  const int trials = drawn ? trials_of(centres) : 1;
  if (thread == 0) s.candidates[problem] = trials;
  if (thread >= trials) return;
  const Philox4 words =
      philox4x32(seed, static_cast<uint32_t>(step), static_cast<uint32_t>(thread), 0, kPurpose);
  if (drawn) {
    const double unit = unit_interval(words.word[0]) + unit_interval(words.word[1]) * 0x1p-32;
    candidate[thread] = find_sample(k, s, problem, best, unit * total);
  } else if (step == 0) {
    candidate[0] = entry.first_row + below(words.word[0], next.first_row - entry.first_row);
  } else {  // every sample is on a centre: take the first that is not a centre
    int64_t row = entry.first_row;
    while (row + 1 < next.first_row && k.label[row] == kChosen) ++row;
    candidate[0] = row;
  }
}

// Distances of a row to some candidates, by a warp.
template <class T>
__device__ void measure_row(const KmeansOnDevice& k, const int64_t* candidate, int count,
                            int64_t row, float (&squared)[kAtOnce]) {
  float sum[kAtOnce] = {};
  for (int64_t d = threadIdx.x % 32; d < k.x.dim; d += 32) {
    const float value = sample<T>(k, row, d);
#pragma unroll
    for (int c = 0; c < kAtOnce; ++c) {
      if (c >= count) continue;
      const float difference = value - sample<T>(k, candidate[c], d);
      sum[c] += difference * difference;
    }
  }
#pragma unroll
  for (int c = 0; c < kAtOnce; ++c) squared[c] = warp_sum(sum[c]);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    measure_kernel(const KmeansOnDevice k, const SeedingOnDevice s, int64_t step) {
  double* sums = shared_memory<double>();  // [kWarps, kMostTrials]
  const TileRows rows = rows_of(k, blockIdx.x);
  const ProblemEntry& entry = k.table[rows.problem];
  if (step >= k.table[rows.problem + 1].first_centre - entry.first_centre) return;
  const int count = s.candidates[rows.problem];
  const int64_t* candidate = s.candidate + rows.problem * s.most_trials;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  if (lane < kMostTrials) sums[warp * kMostTrials + lane] = 0.0;
  __syncwarp();
  for (int64_t row = rows.begin + warp; row < rows.end; row += kWarps) {
    const float near = step == 0 ? kInfinity : nearest_so_far(k, s, row, s.best[rows.problem]);
    __syncwarp();  // all lanes have read what is overwritten next
    if (lane == 0) k.near[row] = near;
    for (int first = 0; first < count; first += kAtOnce) {
      float squared[kAtOnce];
      measure_row<T>(k, candidate + first, count - first, row, squared);
      if (lane != 0) continue;
      for (int c = 0; c < kAtOnce && first + c < count; ++c) {
        s.distance[row * s.most_trials + first + c] = squared[c];
        sums[warp * kMostTrials + first + c] += fminf(near, squared[c]);
      }
    }
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) >= count) return;
  double total = 0.0;
  for (int each = 0; each < kWarps; ++each) total += sums[each * kMostTrials + threadIdx.x];
  s.potential[blockIdx.x * s.most_trials + threadIdx.x] = total;
}

}  // namespace

void seed_plusplus_cuda(const KmeansOnDevice& k, const SeedingOnDevice& s, uint64_t seed,
                        const Launch& where) {
  const DeviceGuard guard(where.device);
  const CudaStream stream = where.stream;
  const dim3 problems(static_cast<unsigned>(k.problems)), tiles(static_cast<unsigned>(k.tiles));
  for (int64_t step = 0; step <= k.most_centres; ++step) {
    PYDREAM_BY_TYPE(k.x.type, {
      launch(draw_kernel<T>, problems, dim3(kThreads), kMostTrials * sizeof(double), stream, k, s,
             seed, step);
      if (step < k.most_centres) {
        launch(measure_kernel<T>, tiles, dim3(kThreads), kWarps * kMostTrials * sizeof(double),
               stream, k, s, step);
      }
    });
  }
}

}  // namespace pydream
