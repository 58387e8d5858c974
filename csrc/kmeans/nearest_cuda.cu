// The samples nearest to each centre, on CUDA.
//
// Shapes: samples [T, D], centres [C, D], nearest [C, count]; a block processes 8 centres of a
// problem and all of its samples, 256 at a time.
// Presumes: nothing; fastest with a count of some tens, because each sample inserted among the
// nearest shifts those after it.
// Limit: 3 * N * k * D operations in float32, on differences, so that equal points are at distance
// 0; reads of the samples from the second-level cache, one per eight centres.
#include <limits>

#include "common/host_device.h"
#include "common/threads.h"
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

constexpr int kBatch = kThreads;  // samples measured before they are sorted in
constexpr float kMostLength = std::numeric_limits<float>::max() / 8;
constexpr float kMostValue = 6.5e18f;  // its square root
static_assert(kTogether == kWarps, "a warp sorts for a centre");

// Distances of a row to the block's centres, by a warp; returns the row's squared length.
template <class T>
__device__ float measure_row(const NearestOnDevice& n, int64_t first, int centres, int64_t row,
                             float (&squared)[kTogether]) {
  float sum[kTogether] = {};
  float length = 0.0f;
  const T* from = static_cast<const T*>(n.x.data) + row * n.x.dim;
  for (int64_t d = threadIdx.x % 32; d < n.x.dim; d += 32) {
    const float value = widen(from[d]);
    length += value * value;
#pragma unroll
    for (int c = 0; c < kTogether; ++c) {
      const int64_t centre = first + (c < centres ? c : 0);
      const float difference = value - n.centroid[centre * n.x.dim + d];
      sum[c] += difference * difference;
    }
  }
#pragma unroll
  for (int c = 0; c < kTogether; ++c) squared[c] = warp_sum(sum[c]);
  return warp_sum(length);
}

// Inserts a sample among the nearest of a centre, after equally near ones; by a warp.
__device__ void insert(float* distance, int64_t* nearest, int64_t filled, int64_t count,
                       float value, int64_t row) {
  const int64_t lane = threadIdx.x % 32;
  const int64_t kept = min(filled, count - 1);  // number of the present entries that stay
  int64_t place = kept;
  for (int64_t top = kept; top > 0; top -= 32) {  // from the end, farther entries shift by one
    const int64_t at = top - 1 - lane;
    const bool farther = at >= 0 && distance[at] > value;
    const float moved = farther ? distance[at] : 0.0f;
    const int64_t moved_row = farther ? nearest[at] : 0;
    __syncwarp();
    if (farther) {
      distance[at + 1] = moved;
      nearest[at + 1] = moved_row;
    }
    __syncwarp();
    const unsigned votes = __ballot_sync(kAllLanes, farther);
    for (unsigned vote = votes; vote != 0; vote &= vote - 1) --place;
    if (votes != kAllLanes) break;
  }
  __syncwarp();  // all lanes have read the last distance
  if (lane == 0) {
    distance[place] = value;
    nearest[place] = row;
  }
  __syncwarp();
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    nearest_kernel(const NearestOnDevice n, const KmeansOnDevice tables, Faults faults) {
  float* measured = shared_memory<float>();  // [kTogether, kBatch]
  const int64_t problem = problem_of(tables, blockIdx.x, &ProblemEntry::first_tile);
  const ProblemEntry& entry = n.table[problem];
  const int64_t group = blockIdx.x - entry.first_tile;
  const int64_t first = entry.first_centre + group * kTogether;
  const int64_t end = n.table[problem + 1].first_row;
  const int centres = static_cast<int>(min(kTogether, n.table[problem + 1].first_centre - first));
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  for (int64_t at = threadIdx.x; at < centres * n.x.dim; at += kThreads) {
    if (!(fabsf(n.centroid[first * n.x.dim + at]) <= kMostValue)) {
      report(faults, Fault::centroids, first + at / n.x.dim);
    }
  }
  float* distance = n.distance + (first + warp) * n.count;
  int64_t* nearest = n.nearest + (first + warp) * n.count;
  int64_t filled = 0;
  for (int64_t batch = entry.first_row; batch < end; batch += kBatch) {
    for (int64_t i = warp * 32; i < warp * 32 + 32; ++i) {
      if (batch + i >= end) break;
      float squared[kTogether];
      const float length = measure_row<T>(n, first, centres, batch + i, squared);
      if (lane != 0) continue;
      if (group == 0 && !(length <= kMostLength)) report(faults, Fault::samples, batch + i);
      for (int c = 0; c < kTogether; ++c) {
        measured[c * kBatch + i] = isnan(squared[c]) ? kInfinity : squared[c];
      }
    }
    __syncthreads();
    for (int64_t i = 0; warp < centres && i < kBatch; i += 32) {
      const bool there = batch + i + lane < end;
      const float value = there ? measured[warp * kBatch + i + lane] : kInfinity;
      const float limit = filled < n.count ? kInfinity : distance[n.count - 1];
      const bool wanted = there && (filled < n.count || value < limit);
      unsigned votes = __ballot_sync(kAllLanes, wanted);
      for (; votes != 0; votes &= votes - 1) {
        const int64_t from = i + __ffs(static_cast<int>(votes)) - 1;
        const float candidate = measured[warp * kBatch + from];
        if (filled == n.count && !(candidate < distance[n.count - 1])) continue;
        insert(distance, nearest, filled, n.count, candidate, batch + from - entry.first_row);
        filled = min(filled + 1, n.count);
      }
    }
    __syncthreads();  // before the next batch is measured
  }
}

}  // namespace

void nearest_samples_cuda(const View& x, const View& table, int64_t groups, const View& centroids,
                          const View& distance, const View& nearest, const Launch& where) {
  const DeviceGuard guard(where.device);
  const NearestOnDevice n = {samples_of(x),
                             table.as<const ProblemEntry>(),
                             table.shape[0] - 1,
                             centroids.shape[0],
                             groups,
                             centroids.as<const float>(),
                             nearest.shape[1],
                             distance.as<float>(),
                             nearest.as<int64_t>()};
  KmeansOnDevice tables{};
  tables.table = n.table;
  tables.problems = n.problems;
  PYDREAM_BY_TYPE(
      n.x.type, launch(nearest_kernel<T>, dim3(static_cast<unsigned>(n.groups)), dim3(kThreads),
                       kTogether * kBatch * sizeof(float), where.stream, n, tables, where.faults));
}

}  // namespace pydream
