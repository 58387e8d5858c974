// What surrounds the assignment: lengths, sums of the clusters, new centres, and the end.
//
// Shapes: samples [T, D], sums [C, D]; a block takes 128 samples, a centre or a problem.
// Presumes: nothing of D and k; fewer than 2^31 tiles and centres. A problem with centres that
// lost all their samples is put right by one block, sample by sample.
// Limit: bandwidth. The first time, one read of the samples and an atomic addition for each of
// their values; then only samples whose label has changed are read.
//
// Sums are integers: values in a unit so small that N of the largest just fit in 63 bits, which
// for a million samples is 2^-42 of the largest. So they are exact and do not depend on the order
// of the additions, and taking a sample out again leaves no trace.
#include <limits>

#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

constexpr int64_t kLooks = 256;        // samples whose mean is the origin
constexpr float kMostHalf = 65504.0f;  // of float16; far from all samples that it could hold
constexpr float kMostLength = std::numeric_limits<float>::max() / 8;

// In 1 / unit: how many units the value 1 has.
__device__ double units(const KmeansOnDevice& k, int64_t problem) {
  const int64_t count = k.table[problem + 1].first_row - k.table[problem].first_row;
  int bits = 0;
  while ((int64_t{1} << bits) < count) ++bits;
  const int exponent = static_cast<int>(k.largest[problem] >> 23) - 126;  // largest < 2^exponent
  return ldexp(1.0, 61 - bits - exponent);
}

// The mean of some samples, by a block for each problem.
template <class T>
__global__ void __launch_bounds__(kThreads) origin_kernel(const KmeansOnDevice k) {
  const int64_t problem = blockIdx.x;
  const ProblemEntry& entry = k.table[problem];
  const int64_t count = k.table[problem + 1].first_row - entry.first_row;
  const int64_t looks = min(count, kLooks);
  for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) {
    double sum = 0.0;
    for (int64_t look = 0; look < looks; ++look) {
      sum += sample<T>(k, entry.first_row + look * count / looks, d);
    }
    k.origin[problem * k.x.dim + d] = static_cast<float>(sum / static_cast<double>(looks));
  }
  if (threadIdx.x == 0) {
    k.largest[problem] = 0;
    k.changed[problem] = 0;
    k.done[problem] = 0;
    k.n_iter[problem] = 0;
    if (problem == 0) *k.unfinished = static_cast<int32_t>(k.problems);
  }
}

// A warp for each row of a tile in turn.
template <class T>
__global__ void __launch_bounds__(kThreads) length_kernel(const KmeansOnDevice k, Faults faults) {
  const TileRows rows = rows_of(k, blockIdx.x);
  const float* origin = k.origin + rows.problem * k.x.dim;
  const int64_t lane = threadIdx.x % 32;
  for (int64_t row = rows.begin + threadIdx.x / 32; row < rows.end; row += kWarps) {
    float squares = 0.0f, apart = 0.0f;
    uint32_t largest = 0;
    for (int64_t d = lane; d < k.x.dim; d += 32) {
      const float value = sample<T>(k, row, d);
      squares += value * value;
      apart += (value - origin[d]) * (value - origin[d]);
      largest = max(largest, __float_as_uint(fabsf(value)));
    }
    squares = warp_sum(squares);
    apart = warp_sum(apart);
    const bool good = squares <= kMostLength;
    if (good) atomicMax(k.largest + rows.problem, largest);
    if (lane != 0) continue;
    if (!good) report(faults, Fault::samples, row);
    k.length[row] = apart;
    k.label[row] = -1;
  }
}

// Brings sums and members to the labels in `next`.
template <class T>
__global__ void __launch_bounds__(kThreads) move_kernel(const KmeansOnDevice k) {
  const TileRows rows = rows_of(k, blockIdx.x);
  if (k.done[rows.problem]) return;
  const int64_t first = k.table[rows.problem].first_centre;
  const double scale = units(k, rows.problem);
  const int64_t lane = threadIdx.x % 32;
  for (int64_t row = rows.begin + threadIdx.x / 32; row < rows.end; row += kWarps) {
    const int32_t before = k.label[row], after = k.next[row];
    if (before == after) continue;
    if (before >= 0) {  // scores are rounded: a label changes only if the distances say so, too
      const float* centroid = k.centroid + first * k.x.dim;
      const float here = warp_distance<T>(k, row, centroid + before * k.x.dim);
      const float there = warp_distance<T>(k, row, centroid + after * k.x.dim);
      if (!(there < here || (there == here && after < before))) continue;
    }
    for (int64_t d = lane; d < k.x.dim; d += 32) {
      const auto value =
          static_cast<unsigned long long>(__double2ll_rn(sample<T>(k, row, d) * scale));
      atomicAdd(k.sum + (first + after) * k.x.dim + d, value);
      if (before >= 0) atomicAdd(k.sum + (first + before) * k.x.dim + d, 0ULL - value);
    }
    __syncwarp();
    if (lane != 0) continue;
    atomicAdd(k.members + first + after, 1);
    if (before >= 0) atomicAdd(k.members + first + before, -1);
    atomicAdd(k.changed + rows.problem, 1);
    k.label[row] = after;
  }
}

struct Farthest {
  float near;
  int64_t row;
};

// The sample farthest from its centre, of those with others, to every thread; row -1 for none.
__device__ Farthest find_farthest(const KmeansOnDevice& k, const ProblemEntry& entry, int64_t end,
                                  Farthest* shared) {
  Farthest best = {0.0f, -1};
  for (int64_t row = entry.first_row + threadIdx.x; row < end; row += kThreads) {
    const float near = k.near[row];
    if (near > best.near && k.members[entry.first_centre + k.label[row]] > 1) {
      best = {near, row};
    }
  }
  __syncthreads();
  shared[threadIdx.x] = best;
  __syncthreads();
  for (int other = 0; other < kThreads; ++other) {
    const Farthest& candidate = shared[other];
    if (candidate.row >= 0 && (best.row < 0 || candidate.near > best.near ||
                               (candidate.near == best.near && candidate.row < best.row))) {
      best = candidate;
    }
  }
  return best;
}

template <class T>
__device__ void give_sample(const KmeansOnDevice& k, const ProblemEntry& entry, int64_t row,
                            int64_t centre, double scale) {
  const int64_t before = entry.first_centre + k.label[row];
  for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) {
    const auto value =
        static_cast<unsigned long long>(__double2ll_rn(sample<T>(k, row, d) * scale));
    k.sum[before * k.x.dim + d] -= value;
    k.sum[centre * k.x.dim + d] += value;
  }
  __syncthreads();  // all have read the label
  if (threadIdx.x == 0) {
    --k.members[before];
    ++k.members[centre];
    k.label[row] = static_cast<int32_t>(centre - entry.first_centre);
    k.near[row] = 0.0f;
  }
  __syncthreads();
}

// Gives each centre without samples the one that is farthest from its own: a block a problem.
template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(const KmeansOnDevice k) {
  Farthest* shared = shared_memory<Farthest>();  // [kThreads]
  const int64_t problem = blockIdx.x;
  if (k.done[problem]) return;
  const ProblemEntry& entry = k.table[problem];
  const ProblemEntry& next = k.table[problem + 1];
  double* sums = reinterpret_cast<double*>(shared);
  double empty = 0.0;
  for (int64_t centre = entry.first_centre + threadIdx.x; centre < next.first_centre;
       centre += kThreads) {
    if (k.members[centre] == 0) empty += 1.0;
  }
  if (block_sum(empty, sums) == 0.0) return;
  for (int64_t row = entry.first_row + threadIdx.x / 32; row < next.first_row; row += kWarps) {
    const int64_t own = entry.first_centre + k.label[row];
    const float near = warp_distance<T>(k, row, k.centroid + own * k.x.dim);
    if (threadIdx.x % 32 == 0) k.near[row] = near;
  }
  __syncthreads();
  const double scale = units(k, problem);
  for (int64_t centre = entry.first_centre; centre < next.first_centre; ++centre) {
    if (k.members[centre] > 0) continue;
    const Farthest farthest = find_farthest(k, entry, next.first_row, shared);
    if (farthest.row < 0) return;
    give_sample<T>(k, entry, farthest.row, centre, scale);
  }
}

// Writes what the assignment compares with: a block for each centre.
template <class T>
__device__ void prepare(const KmeansOnDevice& k, int64_t problem, int64_t centre, double* sums) {
  const bool narrow_words = k.fast && sizeof(T) == 2;
  const int values = narrow_words ? 2 : 1;
  const float* origin = k.origin + problem * k.x.dim;
  const float* centroid = k.centroid + centre * k.x.dim;
  double half = 0.0, across = 0.0;
  for (int64_t word = threadIdx.x; word < k.padded; word += kThreads) {
    uint32_t bits = 0;
    for (int which = 0; which < values; ++which) {
      const int64_t d = word * values + which;
      if (d >= k.x.dim) continue;
      float value = centroid[d] - origin[d];
      if (narrow_words) {
        T rounded;
        narrow(fminf(fmaxf(value, -kMostHalf), kMostHalf), &rounded);
        uint16_t half_bits;
        memcpy(&half_bits, &rounded, sizeof half_bits);
        bits |= static_cast<uint32_t>(half_bits) << (16 * which);
        value = widen(rounded);
      } else {
        bits = __float_as_uint(value);
      }
      half += static_cast<double>(value) * value / 2;
      across += static_cast<double>(value) * origin[d];
    }
    k.prepared[centre * k.padded + word] = bits;
  }
  const double bias = block_sum(half + across, sums);
  if (threadIdx.x == 0) k.bias[centre] = static_cast<float>(bias);
}

template <class T>
__global__ void __launch_bounds__(kThreads) prepare_kernel(const KmeansOnDevice k, Faults faults) {
  double* sums = shared_memory<double>();  // [kWarps]
  const int64_t centre = blockIdx.x;
  const int64_t problem = problem_of(k, centre, &ProblemEntry::first_centre);
  double squares = 0.0;
  for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) {
    const double value = k.centroid[centre * k.x.dim + d];
    squares += value * value;
  }
  const bool good = block_sum(squares, sums) <= kMostLength;
  if (!good && threadIdx.x == 0) report(faults, Fault::centroids, centre);
  prepare<T>(k, problem, centre, sums);
}

// The mean of a centre's samples, how far that is from where it was, and what is made of it.
template <class T>
__global__ void __launch_bounds__(kThreads) update_kernel(const KmeansOnDevice k, bool spherical) {
  double* sums = shared_memory<double>();  // [kWarps]
  const int64_t centre = blockIdx.x;
  const int64_t problem = problem_of(k, centre, &ProblemEntry::first_centre);
  if (k.done[problem]) return;
  if (threadIdx.x == 0) k.shift[centre] = 0.0;
  if (k.members[centre] == 0) return;
  const auto* sum = reinterpret_cast<const long long*>(k.sum + centre * k.x.dim);
  double scale = 1.0 / (static_cast<double>(k.members[centre]) * units(k, problem));
  if (spherical) {
    double squares = 0.0;
    for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) {
      squares += static_cast<double>(sum[d]) * static_cast<double>(sum[d]);
    }
    squares = block_sum(squares, sums);
    if (squares <= 0.0) return;
    scale = 1.0 / sqrt(squares);
  }
  double moved = 0.0;
  float* centroid = k.centroid + centre * k.x.dim;
  for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) {
    const float mean = static_cast<float>(static_cast<double>(sum[d]) * scale);
    const double difference = static_cast<double>(mean) - centroid[d];
    moved += difference * difference;
    centroid[d] = mean;
  }
  moved = block_sum(moved, sums);  // its barriers stand between writing centroids and reading them
  if (threadIdx.x == 0) k.shift[centre] = moved;
  prepare<T>(k, problem, centre, sums);
}

// The mean over dimensions of the samples' variance: a block for each problem.
__global__ void __launch_bounds__(kThreads) variance_kernel(const KmeansOnDevice k) {
  double* sums = shared_memory<double>();  // [kWarps]
  const int64_t problem = blockIdx.x;
  const ProblemEntry& entry = k.table[problem];
  const ProblemEntry& next = k.table[problem + 1];
  const auto count = static_cast<double>(next.first_row - entry.first_row);
  double squares = 0.0;
  for (int64_t row = entry.first_row + threadIdx.x; row < next.first_row; row += kThreads) {
    squares += k.length[row];
  }
  const double scale = 1.0 / (count * units(k, problem));
  double offset = 0.0;
  for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) {
    unsigned long long total = 0;
    for (int64_t centre = entry.first_centre; centre < next.first_centre; ++centre) {
      total += k.sum[centre * k.x.dim + d];
    }
    const double mean = static_cast<double>(static_cast<long long>(total)) * scale;
    const double difference = mean - k.origin[problem * k.x.dim + d];
    offset += difference * difference;
  }
  const double variance = block_sum(squares, sums) / count - block_sum(offset, sums);
  if (threadIdx.x == 0) {
    k.variance[problem] = fmax(variance, 0.0) / static_cast<double>(k.x.dim);
    k.changed[problem] = 0;  // labels that the iterations shall change
  }
}

// Whether a problem has ended: a block for each.
__global__ void __launch_bounds__(kThreads) judge_kernel(const KmeansOnDevice k, double tol) {
  double* sums = shared_memory<double>();  // [kWarps]
  const int64_t problem = blockIdx.x;
  if (k.done[problem]) return;
  double shift = 0.0;
  for (int64_t centre = k.table[problem].first_centre + threadIdx.x;
       centre < k.table[problem + 1].first_centre; centre += kThreads) {
    shift += k.shift[centre];
  }
  shift = block_sum(shift, sums);
  if (threadIdx.x != 0) return;
  ++k.n_iter[problem];
  if (shift <= tol * k.variance[problem] || k.changed[problem] == 0) {
    k.done[problem] = 1;
    atomicAdd(k.unfinished, -1);
  }
  k.changed[problem] = 0;
}

// Distances once more, each of differences: sums of squared ones by tiles.
template <class T>
__global__ void __launch_bounds__(kThreads) finish_kernel(const KmeansOnDevice k) {
  double* sums = shared_memory<double>();  // [kWarps]
  const TileRows rows = rows_of(k, blockIdx.x);
  const int64_t first = k.table[rows.problem].first_centre;
  double total = 0.0;
  for (int64_t row = rows.begin + threadIdx.x / 32; row < rows.end; row += kWarps) {
    const int32_t label = k.label[row];
    const float squared = warp_distance<T>(k, row, k.centroid + (first + label) * k.x.dim);
    if (threadIdx.x % 32 != 0) continue;
    total += squared;
    k.label_out[row] = label;
  }
  total = block_sum(total, sums);
  if (threadIdx.x == 0) k.partial[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kThreads) inertia_kernel(const KmeansOnDevice k) {
  double* sums = shared_memory<double>();  // [kWarps]
  const int64_t problem = blockIdx.x;
  double total = 0.0;
  for (int64_t tile = k.table[problem].first_tile + threadIdx.x;
       tile < k.table[problem + 1].first_tile; tile += kThreads) {
    total += k.partial[tile];
  }
  total = block_sum(total, sums);
  if (threadIdx.x == 0) k.inertia[problem] = total;
}

constexpr size_t kSumBytes = kWarps * sizeof(double);

dim3 blocks(int64_t count) { return dim3(static_cast<unsigned>(count)); }

// Zeros in words of 8 bytes.
__global__ void __launch_bounds__(kThreads) clear_kernel(unsigned long long* words, int64_t count) {
  const int64_t at = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (at < count) words[at] = 0;
}

__global__ void __launch_bounds__(kThreads) forget_kernel(const KmeansOnDevice k) {
  const int64_t at = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (at < k.centres) k.members[at] = 0;
}

}  // namespace

void move_cuda(const KmeansOnDevice& k, CudaStream stream) {
  PYDREAM_BY_TYPE(k.x.type, launch(move_kernel<T>, blocks(k.tiles), dim3(kThreads), 0, stream, k));
}

void kmeans_begin_cuda(const KmeansOnDevice& k, Faults faults, int device, CudaStream stream) {
  const DeviceGuard guard(device);
  const auto grid = [](int64_t count) { return blocks((count + kThreads - 1) / kThreads); };
  launch(clear_kernel, grid(k.centres * k.x.dim), dim3(kThreads), 0, stream, k.sum,
         k.centres * k.x.dim);
  launch(forget_kernel, grid(k.centres), dim3(kThreads), 0, stream, k);
  PYDREAM_BY_TYPE(k.x.type, {
    launch(origin_kernel<T>, blocks(k.problems), dim3(kThreads), 0, stream, k);
    launch(length_kernel<T>, blocks(k.tiles), dim3(kThreads), 0, stream, k, faults);
  });
}

void kmeans_start_cuda(const KmeansOnDevice& k, Faults faults, int device, CudaStream stream) {
  const DeviceGuard guard(device);
  PYDREAM_BY_TYPE(k.x.type, launch(prepare_kernel<T>, blocks(k.centres), dim3(kThreads), kSumBytes,
                                   stream, k, faults));
  assign_cuda(k, stream);
  move_cuda(k, stream);
  launch(variance_kernel, blocks(k.problems), dim3(kThreads), kSumBytes, stream, k);
}

void kmeans_iterate_cuda(const KmeansOnDevice& k, double tol, bool spherical, int device,
                         CudaStream stream) {
  const DeviceGuard guard(device);
  PYDREAM_BY_TYPE(k.x.type, {
    launch(fill_kernel<T>, blocks(k.problems), dim3(kThreads), kThreads * sizeof(Farthest), stream,
           k);
    launch(update_kernel<T>, blocks(k.centres), dim3(kThreads), kSumBytes, stream, k, spherical);
  });
  assign_cuda(k, stream);
  move_cuda(k, stream);
  launch(judge_kernel, blocks(k.problems), dim3(kThreads), kSumBytes, stream, k, tol);
}

void kmeans_finish_cuda(const KmeansOnDevice& k, int device, CudaStream stream) {
  const DeviceGuard guard(device);
  PYDREAM_BY_TYPE(k.x.type,
                  launch(finish_kernel<T>, blocks(k.tiles), dim3(kThreads), kSumBytes, stream, k));
  launch(inertia_kernel, blocks(k.problems), dim3(kThreads), kSumBytes, stream, k);
}

}  // namespace pydream
