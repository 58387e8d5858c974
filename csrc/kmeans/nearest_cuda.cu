// The samples nearest to each centre, on CUDA.
//
// Shapes: samples [T, D], centres [C, D], parts [S, C, count], nearest [C, count]; a block
// processes 8 centres of a problem and one of S ranges of its samples, 256 at a time. Then a warp
// merges the parts of a centre. Presumes: nothing; fastest with a count of some tens, because each
// sample inserted among the nearest shifts those after it. Limit: 3 * N * k * D operations in
// float32, on differences, so that equal points are at distance 0; reads of the samples from the
// second-level cache, one per eight centres.
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

constexpr int kAtOnce = 4;  // rows that a warp measures
constexpr int kSums = kAtOnce * static_cast<int>(kTogether);
static_assert(kSums == 32, "a lane gets a sum");

// The distance of one of 4 rows to one of the block's centres, by a warp: lane l gets that of row
// l / 8 and centre l % 8. Rows and centres past the last are copies of others.
template <class T>
__device__ float measure(const NearestOnDevice& n, int64_t first, int centres, int64_t row,
                         int64_t end) {
  const int dim = static_cast<int>(n.x.dim);
  const T* from[kAtOnce];
  const float* to[kTogether];
#pragma unroll
  for (int r = 0; r < kAtOnce; ++r) {
    from[r] = static_cast<const T*>(n.x.data) + min(row + r, end - 1) * dim;
  }
#pragma unroll
  for (int c = 0; c < kTogether; ++c) to[c] = n.centroid + (first + (c < centres ? c : 0)) * dim;
  float sum[kSums] = {};
#pragma unroll 2
  for (int d = static_cast<int>(threadIdx.x % 32); d < dim; d += 32) {
    float centre[kTogether];
#pragma unroll
    for (int c = 0; c < kTogether; ++c) centre[c] = to[c][d];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const float value = widen(from[r][d]);
#pragma unroll
      for (int c = 0; c < kTogether; ++c) {
        const float difference = value - centre[c];
        sum[r * kTogether + c] += difference * difference;
      }
    }
  }
  return sum_of_lane(sum);
}

// Reports rows that are not finite or too long; by a block.
template <class T>
__device__ void check_rows(const Samples& x, int64_t begin, int64_t end, Faults faults) {
  for (int64_t row = begin + threadIdx.x / 32; row < end; row += kWarps) {
    const T* from = static_cast<const T*>(x.data) + row * x.dim;
    float length = 0.0f;
    for (int64_t d = threadIdx.x % 32; d < x.dim; d += 32) {
      const float value = widen(from[d]);
      length += value * value;
    }
    length = warp_sum(length);
    if (threadIdx.x % 32 == 0 && !(length <= kMostLength)) report(faults, Fault::samples, row);
  }
}

// Whether a sample precedes another: it is nearer, or as near and the lower one.
__device__ bool precedes(float distance, int64_t row, float other, int64_t other_row) {
  return distance < other || (distance == other && row < other_row);
}

// Inserts a sample among the nearest of a centre, unless all of them precede it; by a warp. Returns
// whether it did.
__device__ bool insert(float* distance, int64_t* nearest, int64_t* filled, int64_t count,
                       float value, int64_t row) {
  if (*filled == count && !precedes(value, row, distance[count - 1], nearest[count - 1])) {
    return false;
  }
  const int64_t lane = threadIdx.x % 32;
  const int64_t kept = min(*filled, count - 1);  // number of the present entries that stay
  int64_t place = kept;
  for (int64_t top = kept; top > 0; top -= 32) {  // from the end, farther entries shift by one
    const int64_t at = top - 1 - lane;
    const bool farther = at >= 0 && precedes(value, row, distance[at], nearest[at]);
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
  *filled = min(*filled + 1, count);
  return true;
}

// Inserts those of up to 32 samples that are wanted, one of each lane; by a warp. Returns whether
// any sample was inserted.
__device__ bool insert_some(float* distance, int64_t* nearest, int64_t* filled, int64_t count,
                            bool there, float value, int64_t row) {
  const float limit = *filled < count ? kInfinity : distance[count - 1];
  const unsigned votes = __ballot_sync(kAllLanes, there && value <= limit);
  bool inserted = false;
  for (unsigned left = votes; left != 0; left &= left - 1) {
    const int lane = __ffs(static_cast<int>(left)) - 1;
    const float other = __shfl_sync(kAllLanes, value, lane);
    inserted |= insert(distance, nearest, filled, count, other, __shfl_sync(kAllLanes, row, lane));
  }
  return inserted;
}

// Blocks [groups, S]: the nearest samples of one range, into its part.
template <class T>
__global__ void __launch_bounds__(kThreads)
    nearest_kernel(const NearestOnDevice n, const KmeansOnDevice tables, Faults faults) {
  float* measured = shared_memory<float>();  // [kTogether, kBatch]
  const int64_t problem = problem_of(tables, blockIdx.x, &ProblemEntry::first_tile);
  const ProblemEntry& entry = n.table[problem];
  const int64_t group = blockIdx.x - entry.first_tile;
  const int64_t first = entry.first_centre + group * kTogether;
  const int64_t rows = n.table[problem + 1].first_row - entry.first_row;
  const int64_t part = blockIdx.y;
  const int64_t begin = entry.first_row + part * rows / n.parts;
  const int64_t end = entry.first_row + (part + 1) * rows / n.parts;
  const int centres = static_cast<int>(min(kTogether, n.table[problem + 1].first_centre - first));
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  for (int64_t at = threadIdx.x; part == 0 && at < centres * n.x.dim; at += kThreads) {
    if (!(fabsf(n.centroid[first * n.x.dim + at]) <= kMostValue)) {
      report(faults, Fault::centroids, first + at / n.x.dim);
    }
  }
  if (group == 0) check_rows<T>(n.x, begin, end, faults);
  float* distance = n.distance + (part * n.centres + first + warp) * n.count;
  int64_t* nearest = n.found + (part * n.centres + first + warp) * n.count;
  int64_t filled = 0;
  for (int64_t batch = begin; batch < end; batch += kBatch) {
    for (int i = warp * 32; i < warp * 32 + 32 && batch + i < end; i += kAtOnce) {
      const float squared = measure<T>(n, first, centres, batch + i, end);
      const int centre = lane % static_cast<int>(kTogether);
      measured[centre * kBatch + i + lane / kTogether] = isnan(squared) ? kInfinity : squared;
    }
    __syncthreads();
    for (int64_t i = lane; warp < centres && i < kBatch; i += 32) {
      const bool there = batch + i < end;
      const float value = there ? measured[warp * kBatch + i] : kInfinity;
      insert_some(distance, nearest, &filled, n.count, there, value, batch + i - entry.first_row);
    }
    __syncthreads();  // before the next batch is measured
  }
}

// The nearest of all parts of a centre, by a warp. Parts are sorted: once no sample of a rank is
// wanted, none of a later one is.
__global__ void __launch_bounds__(kThreads)
    merge_kernel(const NearestOnDevice n, const KmeansOnDevice tables) {
  const int64_t centre = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / 32;
  if (centre >= n.centres) return;
  const int64_t problem = problem_of(tables, centre, &ProblemEntry::first_centre);
  const int64_t rows = n.table[problem + 1].first_row - n.table[problem].first_row;
  float* distance = n.distance + (n.parts * n.centres + centre) * n.count;
  int64_t* nearest = n.nearest + centre * n.count;
  int64_t filled = 0;
  bool wanted = true;
  for (int64_t rank = 0; wanted && rank < n.count; ++rank) {
    wanted = false;
    for (int64_t first = 0; first < n.parts; first += 32) {
      const int64_t part = first + threadIdx.x % 32;
      const bool there =
          part < n.parts && rank < (part + 1) * rows / n.parts - part * rows / n.parts;
      const int64_t at = (part * n.centres + centre) * n.count + rank;
      wanted |= insert_some(distance, nearest, &filled, n.count, there,
                            there ? n.distance[at] : kInfinity, there ? n.found[at] : 0);
    }
  }
}

}  // namespace

void nearest_samples_cuda(const View& x, const View& table, int64_t groups, const View& centroids,
                          const View& distance, const View& found, const View& nearest,
                          const Launch& where) {
  const DeviceGuard guard(where.device);
  const NearestOnDevice n = {samples_of(x),
                             table.as<const ProblemEntry>(),
                             table.shape[0] - 1,
                             centroids.shape[0],
                             groups,
                             found.shape[0],
                             centroids.as<const float>(),
                             nearest.shape[1],
                             distance.as<float>(),
                             found.as<int64_t>(),
                             nearest.as<int64_t>()};
  KmeansOnDevice tables{};
  tables.table = n.table;
  tables.problems = n.problems;
  const dim3 grid(static_cast<unsigned>(n.groups), static_cast<unsigned>(n.parts));
  PYDREAM_BY_TYPE(
      n.x.type, launch(nearest_kernel<T>, grid, dim3(kThreads), kTogether * kBatch * sizeof(float),
                       where.stream, n, tables, where.faults));
  if (n.parts > 1) {
    launch(merge_kernel, blocks((n.centres + kWarps - 1) / kWarps), dim3(kThreads), 0, where.stream,
           n, tables);
  }
}

}  // namespace pydream
