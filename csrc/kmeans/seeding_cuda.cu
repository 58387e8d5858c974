// Greedy k-means++ on CUDA, with the draws of seeding_cpu.cpp.
//
// Shapes: samples [T, D], distances to candidates [trials, T]; a block draws for one problem, or
// measures 128 samples.
// Presumes: k up to 10^6, so 15 candidates at most. Two launches per centre, each for all problems.
// Rows of samples whose length is a multiple of 4 are read 4 values at a time, if aligned to them.
// Limit: per centre one read of the samples, and 3 * candidates operations per value. A draw sums
// the sums of a problem's tiles by ranges, one for each thread, so that a warp finds the tile and
// the sample of a candidate in some hundred steps whatever their number.
#include "common/host_device.h"
#include "common/philox.h"
#include "common/threads.h"
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

constexpr int kMostTrials = 16;
constexpr int kRows = 4;                                      // that a warp measures at a time
constexpr int kGroup = 32 / kRows;                            // candidates whose sums lanes share
constexpr int kStride = static_cast<int>(kTileRows) + kRows;  // other banks for each of a group
constexpr int32_t kChosen = -2;                               // in `label`, which is -1 otherwise
constexpr uint32_t kPurpose = static_cast<uint32_t>(Stream::kmeans) << 16;

__device__ int trials_of(int64_t k) { return 2 + static_cast<int>(log(static_cast<double>(k))); }

// The distance to the nearest centre so far, including the centre just chosen.
__device__ float nearest_so_far(const KmeansOnDevice& k, const SeedingOnDevice& s, int64_t row,
                                int32_t best) {
  return fminf(k.near[row], s.distance[best * k.x.count + row]);
}

// The sums of the tiles of a problem, by ranges.
struct Ranges {
  const double* of_tile;  // [tiles]
  double* of_thread;      // [kThreads], of the tiles of a thread's range
  double* of_warp;        // [kWarps]
  int64_t tiles, length;  // of the problem, and of a range

  // Sums up, by a block, and returns the total to every thread.
  __device__ double sum() const {
    double own = 0.0;
    const int64_t begin = threadIdx.x * length, end = min(begin + length, tiles);
    for (int64_t tile = begin; tile < end; ++tile) own += of_tile[tile];
    of_thread[threadIdx.x] = own;
    return block_sum(own, of_warp);
  }

  // Takes from `mark` what comes before the tile at which the running sum passes it, and returns
  // that tile, the last one at most.
  __device__ int64_t find(double* mark) const {
    int warp = 0;
    while (warp + 1 < kWarps && of_warp[warp] <= *mark) *mark -= of_warp[warp++];
    int thread = warp * 32;
    while (thread + 1 < kThreads && of_thread[thread] <= *mark) *mark -= of_thread[thread++];
    int64_t tile = min(thread * length, tiles - 1);
    while (tile + 1 < tiles && of_tile[tile] <= *mark) *mark -= of_tile[tile++];
    return tile;
  }
};

// The sample at which the running sum of the distances passes `mark`; by a warp.
__device__ int64_t find_sample(const KmeansOnDevice& k, const SeedingOnDevice& s, int64_t problem,
                               int32_t best, double mark, const Ranges& ranges) {
  const int64_t first = k.table[problem].first_row, end = k.table[problem + 1].first_row;
  const int64_t lane = threadIdx.x % 32;
  const int64_t begin = first + ranges.find(&mark) * kTileRows;
  // Sample with a positive distance, in case rounding leaves the mark beyond the end.
  int64_t last = -1;
  for (int64_t rows = begin; rows < end; rows += 32) {
    const float own = rows + lane < end ? nearest_so_far(k, s, rows + lane, best) : 0.0f;
    for (int other = 0; other < 32; ++other) {
      const float near = __shfl_sync(kAllLanes, own, other);
      if (!(near > 0.0f)) continue;
      last = rows + other;
      mark -= near;
      if (mark < 0.0) return last;
    }
  }
  for (int64_t rows = begin; last < 0 && rows > first; rows -= 32) {
    const int64_t row = rows - 32 + lane;
    const bool positive = row >= first && nearest_so_far(k, s, row, best) > 0.0f;
    for (unsigned left = __ballot_sync(kAllLanes, positive); left != 0; left &= left - 1) {
      last = rows - 32 + __ffs(static_cast<int>(left)) - 1;
    }
  }
  return last < 0 ? first : last;
}

// The candidate that leaves the smallest sum of distances, returned to every thread.
__device__ int32_t best_candidate(const KmeansOnDevice& k, const SeedingOnDevice& s,
                                  int64_t problem, double* sums) {
  const int64_t first = k.table[problem].first_tile, end = k.table[problem + 1].first_tile;
  const int candidates = s.candidates[problem];
  for (int trial = static_cast<int>(threadIdx.x / 32); trial < candidates; trial += kWarps) {
    double sum = 0.0;
#pragma unroll 8
    for (int64_t tile = first + threadIdx.x % 32; tile < end; tile += 32) {
      sum += s.potential[trial * k.tiles + tile];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[trial] = sum;
  }
  __syncthreads();
  int32_t best = 0;
  for (int candidate = 1; candidate < candidates; ++candidate) {
    if (sums[candidate] < sums[best]) best = candidate;
  }
  return best;
}

// What one step of the draws needs of shared memory.
struct Drawing {
  double sums[kMostTrials];
  double of_thread[kThreads];
  double of_warp[kWarps];
  int64_t row[kMostTrials];
};

// Draws the candidates of a step, to shared memory, and returns their number; by a block.
__device__ int draw(const KmeansOnDevice& k, const SeedingOnDevice& s, int64_t problem,
                    uint64_t seed, int64_t step, int32_t best, Drawing& shared) {
  const ProblemEntry& entry = k.table[problem];
  const ProblemEntry& next = k.table[problem + 1];
  const int64_t tiles = next.first_tile - entry.first_tile;
  const Ranges ranges = {s.potential + best * k.tiles + entry.first_tile, shared.of_thread,
                         shared.of_warp, tiles, (tiles + kThreads - 1) / kThreads};
  const double total = step > 0 ? ranges.sum() : 0.0;
  const bool drawn = step > 0 && total > 0.0;
  const int trials = drawn ? trials_of(next.first_centre - entry.first_centre) : 1;
  for (int trial = static_cast<int>(threadIdx.x / 32); trial < trials; trial += kWarps) {
    const Philox4 words =
        philox4x32(seed, static_cast<uint32_t>(step), static_cast<uint32_t>(trial), 0, kPurpose);
    int64_t row = entry.first_row;
    if (drawn) {
      const double unit = unit_interval(words.word[0]) + unit_interval(words.word[1]) * 0x1p-32;
      row = find_sample(k, s, problem, best, unit * total, ranges);
    } else if (step == 0) {
      row += below(words.word[0], next.first_row - entry.first_row);
    } else {  // every sample is on a centre: take the first that is not a centre
      while (row + 1 < next.first_row && k.label[row] == kChosen) ++row;
    }
    if (threadIdx.x % 32 == 0) shared.row[trial] = row;
  }
  __syncthreads();
  return trials;
}

// Adopts the best candidate of the previous step, and draws the candidates of this step.
template <class T>
__global__ void __launch_bounds__(kThreads)
    draw_kernel(const KmeansOnDevice k, const SeedingOnDevice s, uint64_t seed, int64_t step) {
  Drawing& shared = *shared_memory<Drawing>();
  const int64_t problem = blockIdx.x;
  const int64_t centres = k.table[problem + 1].first_centre - k.table[problem].first_centre;
  if (step > centres) return;
  int64_t* candidate = s.candidate + problem * s.most_trials;
  int32_t best = 0;
  if (step > 0) {
    best = best_candidate(k, s, problem, shared.sums);
    const int64_t row = candidate[best];
    float* centroid = k.centroid + (k.table[problem].first_centre + step - 1) * k.x.dim;
    for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) centroid[d] = sample<T>(k, row, d);
    __syncthreads();  // all have read the candidates
    if (threadIdx.x == 0) {
      k.label[row] = kChosen;
      s.best[problem] = best;
    }
    __syncthreads();
  }
  if (step == centres) return;
  const int trials = draw(k, s, problem, seed, step, best, shared);
  if (threadIdx.x == 0) s.candidates[problem] = trials;
  if (static_cast<int>(threadIdx.x) < trials) candidate[threadIdx.x] = shared.row[threadIdx.x];
  const int64_t stride = (k.x.dim + 3) / 4 * 4;
  float* points = s.point + problem * s.most_trials * stride;
  for (int trial = 0; trial < trials; ++trial) {
    for (int64_t d = threadIdx.x; d < stride; d += kThreads) {
      points[trial * stride + d] = d < k.x.dim ? sample<T>(k, shared.row[trial], d) : 0.0f;
    }
  }
}

// Values d to d + 3 of a row; 0 past its end.
template <class T>
__device__ float4 load_four(const T* row, int d, int dim, bool aligned) {
  if (!aligned) {
    const auto value = [&](int at) { return at < dim ? widen(row[at]) : 0.0f; };
    return make_float4(value(d), value(d + 1), value(d + 2), value(d + 3));
  }
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const float4*>(row + d);
  } else {
    const uint64_t bits = *reinterpret_cast<const uint64_t*>(row + d);
    const auto value = [&](int at) { return widen(T{static_cast<uint16_t>(bits >> (16 * at))}); };
    return make_float4(value(0), value(1), value(2), value(3));
  }
}

// Distances of 4 rows to all candidates, to shared memory: squared [kMostTrials, kStride], from the
// place of the first row on; by a warp. Rows past the last are copies of it.
template <class T, int kGroups>
__device__ void measure_rows(const KmeansOnDevice& k, const float* points, int count, int64_t row,
                             int64_t end, float* squared) {
  const int dim = static_cast<int>(k.x.dim), stride = (dim + 3) / 4 * 4;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const T* samples = static_cast<const T*>(k.x.data);
  const bool aligned = dim % 4 == 0 && reinterpret_cast<uintptr_t>(samples) % (4 * sizeof(T)) == 0;
  const T* from[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) from[r] = samples + min(row + r, end - 1) * dim;
  float sum[kGroups][kRows * kGroup] = {};
  for (int d = lane * 4; d < dim; d += 128) {
    float4 value[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) value[r] = load_four(from[r], d, dim, aligned);
#pragma unroll
    for (int c = 0; c < kGroups * kGroup; ++c) {
      if (c >= count) continue;
      const float4 point = *reinterpret_cast<const float4*>(points + c * stride + d);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float x = value[r].x - point.x, y = value[r].y - point.y;
        const float z = value[r].z - point.z, w = value[r].w - point.w;
        float& own = sum[c / kGroup][r * kGroup + c % kGroup];
        own += x * x;
        own += y * y;
        own += z * z;
        own += w * w;
      }
    }
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const float found = sum_of_lane(sum[group]);  // of row lane / 8 and candidate lane % 8
    squared[(group * kGroup + lane % kGroup) * kStride + lane / kGroup] = found;
  }
}

// Distances of a tile's samples to all candidates, and for each candidate the sum of the distances
// to the nearest centre that it would leave.
template <class T, int kGroups>
__global__ void __launch_bounds__(kThreads)
    measure_kernel(const KmeansOnDevice k, const SeedingOnDevice s, int64_t step) {
  float* squared = shared_memory<float>();        // [kMostTrials, kStride]
  float* near = squared + kMostTrials * kStride;  // [kTileRows]
  const TileRows rows = rows_of(k, blockIdx.x);
  const int64_t centres =
      k.table[rows.problem + 1].first_centre - k.table[rows.problem].first_centre;
  if (step >= centres) return;
  const int count = s.candidates[rows.problem];
  const float* points = s.point + rows.problem * s.most_trials * ((k.x.dim + 3) / 4 * 4);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int there = static_cast<int>(rows.end - rows.begin);
  if (static_cast<int>(threadIdx.x) < there) {
    const int64_t row = rows.begin + threadIdx.x;
    near[threadIdx.x] = step == 0 ? kInfinity : nearest_so_far(k, s, row, s.best[rows.problem]);
    k.near[row] = near[threadIdx.x];
  }
  for (int place = warp * kRows; place < there; place += kWarps * kRows) {
    measure_rows<T, kGroups>(k, points, count, rows.begin + place, rows.end, squared + place);
  }
  __syncthreads();  // near is complete, too, and has taken the distances that are overwritten
  for (int trial = warp; trial < count; trial += kWarps) {
    double sum = 0.0;
    for (int place = lane; place < there; place += 32) {
      const float found = squared[trial * kStride + place];
      s.distance[trial * k.x.count + rows.begin + place] = found;
      sum += fminf(near[place], found);
    }
    sum = warp_sum(sum);
    if (lane == 0) s.potential[trial * k.tiles + blockIdx.x] = sum;
  }
}

template <class T, int kGroups>
void measure(const KmeansOnDevice& k, const SeedingOnDevice& s, int64_t step, CudaStream stream) {
  constexpr size_t kShared = (kMostTrials * kStride + kTileRows) * sizeof(float);
  launch(measure_kernel<T, kGroups>, blocks(k.tiles), dim3(kThreads), kShared, stream, k, s, step);
}

}  // namespace

void seed_plusplus_cuda(const KmeansOnDevice& k, const SeedingOnDevice& s, uint64_t seed,
                        const Launch& where) {
  const DeviceGuard guard(where.device);
  const CudaStream stream = where.stream;
  for (int64_t step = 0; step <= k.most_centres; ++step) {
    PYDREAM_BY_TYPE(k.x.type, {
      launch(draw_kernel<T>, blocks(k.problems), dim3(kThreads), sizeof(Drawing), stream, k, s,
             seed, step);
      if (step == k.most_centres) break;
      if (s.most_trials <= kGroup) {
        measure<T, 1>(k, s, step, stream);
      } else {
        measure<T, 2>(k, s, step, stream);
      }
    });
  }
}

}  // namespace pydream
