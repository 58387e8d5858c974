// The steps around the assignment: lengths of the samples, new centres, and the stopping test.
//
// Shapes: samples [T, D], sums [C, D]; a block takes 128 samples, 8 centres or a problem.
// Presumes: nothing of D and k; fewer than 2^31 tiles and centres.
// Limit: bandwidth: one read of the samples before the first iteration and one after the last; in
// between, the centres and their sums.
#include <limits>

#include "common/matrix.h"
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

constexpr int64_t kLooks = 256;        // samples that are averaged to the origin
constexpr float kMostHalf = 65504.0f;  // of float16; farther than any sample in float16
constexpr float kMostLength = std::numeric_limits<float>::max() / 8;

// The mean of some samples, by a block per problem.
template <class T>
__global__ void __launch_bounds__(kThreads) origin_kernel(const KmeansOnDevice k) {
  double* sums = shared_memory<double>();  // [kWarps]
  const int64_t problem = blockIdx.x;
  const ProblemEntry& entry = k.table[problem];
  const int64_t count = k.table[problem + 1].first_row - entry.first_row;
  const int64_t looks = min(count, kLooks);
  double squares = 0.0;
  for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) {
    double sum = 0.0;
    for (int64_t look = 0; look < looks; ++look) {
      sum += sample<T>(k, entry.first_row + look * count / looks, d);
    }
    const double mean = sum / static_cast<double>(looks);
    k.origin[problem * k.x.dim + d] = static_cast<float>(mean);
    squares += mean * mean;
  }
  squares = block_sum(squares, sums);
  if (threadIdx.x == 0) {
    k.origin_length[problem] = static_cast<float>(sqrt(squares));
    k.largest[problem] = 0;
    k.changed[problem] = 0;
    k.done[problem] = 0;
    k.n_iter[problem] = 0;
    if (problem == 0) *k.unfinished = static_cast<int32_t>(k.problems);
  }
}

// The rows of a tile in turn, by a warp each.
template <class T>
__global__ void __launch_bounds__(kThreads) length_kernel(const KmeansOnDevice k, Faults faults) {
  float* shared = shared_memory<float>();  // [kWarps]
  const TileRows rows = rows_of(k, blockIdx.x);
  const float* origin = k.origin + rows.problem * k.x.dim;
  const int64_t lane = threadIdx.x % 32;
  float most = 0.0f;
  for (int64_t row = rows.begin + threadIdx.x / 32; row < rows.end; row += kWarps) {
    float squares = 0.0f, apart = 0.0f, largest = 0.0f;
    for (int64_t d = lane; d < k.x.dim; d += 32) {
      const float value = sample<T>(k, row, d);
      squares += value * value;
      apart += (value - origin[d]) * (value - origin[d]);
      largest = fmaxf(largest, fabsf(value));
    }
    squares = warp_sum(squares);
    apart = warp_sum(apart);
    const bool good = squares <= kMostLength;
    if (good) most = fmaxf(most, largest);
    if (lane != 0) continue;
    if (!good) report(faults, Fault::samples, row);
    k.length[row] = apart;
    k.label[row] = -1;
  }
  most = block_max(most, shared);
  if (threadIdx.x == 0) atomicMax(k.largest + rows.problem, __float_as_uint(most));
}

// The centre of a warp, and past the last one for some.
__device__ int64_t centre_of_warp() {
  return blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / 32;
}

dim3 blocks_of_centres(const KmeansOnDevice& k) {
  return blocks((k.centres + kWarps - 1) / kWarps);
}

// What a warp sums up of a centre, c' relative to the origin o: |c'|^2 / 2 and <o, c'>.
struct CentreSums {
  double half = 0.0, across = 0.0;
  __device__ void add(float value, float origin) {
    half += static_cast<double>(value) * value / 2;
    across += static_cast<double>(value) * origin;
  }
};

// Writes a centre in the format of the tensor cores, by a warp.
template <class T>
__device__ CentreSums round_centre(const float* centroid, const float* origin, int64_t dim,
                                   int64_t padded, uint32_t* prepared) {
  constexpr int kValues = sizeof(T) == 2 ? 2 : 1;
  CentreSums sums;
  for (int64_t word = threadIdx.x % 32; word < padded; word += 32) {
    uint32_t bits = 0;
    for (int which = 0; which < kValues; ++which) {
      const int64_t d = word * kValues + which;
      if (d >= dim) continue;
      float value = centroid[d] - origin[d];
      if constexpr (kValues == 2) {
        T rounded;
        narrow(fminf(fmaxf(value, -kMostHalf), kMostHalf), &rounded);
        bits |= static_cast<uint32_t>(rounded.bits) << (16 * which);
        value = widen(rounded);
      } else {
        bits = to_tf32(value);
      }
      sums.add(value, origin[d]);
    }
    prepared[word] = bits;
  }
  return sums;
}

// Writes a centre times `scale` as terms of 16 bits, by a warp: a term is what the terms before
// have left, rounded.
template <class T>
__device__ CentreSums split_centre(const float* centroid, const float* origin, int64_t dim,
                                   int64_t padded, float scale, uint32_t* prepared) {
  CentreSums sums;
  for (int64_t word = threadIdx.x % 32; word < padded; word += 32) {
    // Of float32 samples a lane loads 4 values at a time, for word t and word t + 4 of 8
    // (exact_cuda.cu).
    const int64_t first =
        sizeof(T) == 4 ? word / 8 * 16 + word % 4 * 4 + word / 4 % 2 * 2 : word * 2;
    float left[2] = {};
    for (int which = 0; which < 2 && first + which < dim; ++which) {
      const float value = centroid[first + which] - origin[first + which];
      sums.add(value, origin[first + which]);
      left[which] = value * scale;
    }
    for (int term = 0; term < kExactTerms<T>; ++term) {
      uint32_t bits = 0;
      for (int which = 0; which < 2; ++which) {
        ExactTerm<T> rounded;
        narrow(left[which], &rounded);
        left[which] -= widen(rounded);
        bits |= static_cast<uint32_t>(rounded.bits) << (16 * which);
      }
      prepared[term * padded + word] = bits;
    }
  }
  return sums;
}

// Writes a centre as it is compared, by a warp.
template <class T>
__device__ void prepare(const KmeansOnDevice& k, int64_t problem, int64_t centre) {
  const float* origin = k.origin + problem * k.x.dim;
  const float* centroid = k.centroid + centre * k.x.dim;
  uint32_t* prepared = k.prepared + centre * k.terms * k.padded;
  CentreSums sums;
  float reached = 0.0f;  // beyond |c'|
  if (k.fast) {
    sums = round_centre<T>(centroid, origin, k.x.dim, k.padded, prepared);
  } else {
    float largest = 0.0f;
    for (int64_t d = threadIdx.x % 32; d < k.x.dim; d += 32) {
      largest = fmaxf(largest, fabsf(centroid[d] - origin[d]));
    }
    largest = warp_max(largest);
    const float scale = scale_for(__float_as_uint(largest));
    sums = split_centre<T>(centroid, origin, k.x.dim, k.padded, scale, prepared);
    const float of_samples = sizeof(T) == 4 ? scale_for(k.largest[problem]) : 1.0f;
    if (threadIdx.x % 32 == 0) k.factor[centre] = 1 / scale / of_samples;
    reached = sqrtf(static_cast<float>(k.x.dim)) / 8 / scale;  // exact_cuda.cu has the reason
  }
  const double bias = warp_sum(sums.half + sums.across);
  const double squares = 2.0 * warp_sum(sums.half);
  if (threadIdx.x % 32 != 0) return;
  k.bias[centre] = static_cast<float>(bias);
  k.reach[centre] = static_cast<float>(sqrt(squares)) + reached;
}

template <class T>
__global__ void __launch_bounds__(kThreads) prepare_kernel(const KmeansOnDevice k, Faults faults) {
  const int64_t centre = centre_of_warp();
  if (centre >= k.centres) return;
  const int64_t problem = problem_of(k, centre, &ProblemEntry::first_centre);
  double squares = 0.0;
  for (int64_t d = threadIdx.x % 32; d < k.x.dim; d += 32) {
    const double value = k.centroid[centre * k.x.dim + d];
    squares += value * value;
  }
  const bool good = warp_sum(squares) <= kMostLength;
  if (!good && threadIdx.x % 32 == 0) report(faults, Fault::centroids, centre);
  prepare<T>(k, problem, centre);
}

// The mean of a centre's samples, its distance from the previous centre, and its new state.
template <class T>
__global__ void __launch_bounds__(kThreads) update_kernel(const KmeansOnDevice k, bool spherical) {
  const int64_t centre = centre_of_warp();
  if (centre >= k.centres) return;
  const int64_t problem = problem_of(k, centre, &ProblemEntry::first_centre);
  if (k.done[problem]) return;
  if (threadIdx.x % 32 == 0) k.shift[centre] = 0.0;
  if (k.members[centre] == 0) return;
  const auto* sum = reinterpret_cast<const long long*>(k.sum + centre * k.x.dim);
  double scale = 1.0 / (static_cast<double>(k.members[centre]) * units(k, problem));
  if (spherical) {
    double squares = 0.0;
    for (int64_t d = threadIdx.x % 32; d < k.x.dim; d += 32) {
      squares += static_cast<double>(sum[d]) * static_cast<double>(sum[d]);
    }
    squares = warp_sum(squares);
    if (squares <= 0.0) return;
    scale = 1.0 / sqrt(squares);
  }
  double moved = 0.0;
  float* centroid = k.centroid + centre * k.x.dim;
  for (int64_t d = threadIdx.x % 32; d < k.x.dim; d += 32) {
    const float mean = static_cast<float>(static_cast<double>(sum[d]) * scale);
    const double difference = static_cast<double>(mean) - centroid[d];
    moved += difference * difference;
    centroid[d] = mean;
  }
  moved = warp_sum(moved);
  if (threadIdx.x % 32 == 0) k.shift[centre] = moved;
  __syncwarp();  // other lanes read what this one has written of the centroid
  prepare<T>(k, problem, centre);
}

// Counts the centres of a problem without samples; by a block.
__device__ void count_empty(const KmeansOnDevice& k, int64_t problem, double* shared) {
  double empty = 0.0;
  for (int64_t centre = k.table[problem].first_centre + threadIdx.x;
       centre < k.table[problem + 1].first_centre; centre += kThreads) {
    if (k.members[centre] == 0) empty += 1.0;
  }
  empty = block_sum(empty, shared);
  if (threadIdx.x == 0) k.empty[problem] = static_cast<int32_t>(empty);
}

// The samples' variance, averaged over dimensions: a block per problem.
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
  count_empty(k, problem, sums);
  if (threadIdx.x == 0) {
    k.variance[problem] = fmax(variance, 0.0) / static_cast<double>(k.x.dim);
    k.changed[problem] = 0;  // number of labels that an iteration changes
  }
}

// Whether a problem has converged: a block per problem.
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
  count_empty(k, problem, sums);
  if (threadIdx.x != 0) return;
  ++k.n_iter[problem];
  if (shift <= tol * k.variance[problem] || k.changed[problem] == 0) {
    k.done[problem] = 1;
    atomicAdd(k.unfinished, -1);
  }
  k.changed[problem] = 0;
}

// The final distances, computed from differences: sums of their squares by tiles.
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

void kmeans_begin_cuda(const KmeansOnDevice& k, const Launch& where) {
  const DeviceGuard guard(where.device);
  const CudaStream stream = where.stream;
  const auto grid = [](int64_t count) { return blocks((count + kThreads - 1) / kThreads); };
  launch(clear_kernel, grid(k.centres * k.x.dim), dim3(kThreads), 0, stream, k.sum,
         k.centres * k.x.dim);
  launch(forget_kernel, grid(k.centres), dim3(kThreads), 0, stream, k);
  PYDREAM_BY_TYPE(k.x.type, {
    launch(origin_kernel<T>, blocks(k.problems), dim3(kThreads), kSumBytes, stream, k);
    launch(length_kernel<T>, blocks(k.tiles), dim3(kThreads), kWarps * sizeof(float), stream, k,
           where.faults);
  });
}

void kmeans_start_cuda(const KmeansOnDevice& k, const Launch& where) {
  const DeviceGuard guard(where.device);
  const CudaStream stream = where.stream;
  PYDREAM_BY_TYPE(k.x.type, launch(prepare_kernel<T>, blocks_of_centres(k), dim3(kThreads), 0,
                                   stream, k, where.faults));
  (k.fast ? assign_cuda : assign_exact_cuda)(k, stream);
  move_cuda(k, stream);
  launch(variance_kernel, blocks(k.problems), dim3(kThreads), kSumBytes, stream, k);
}

void kmeans_iterate_cuda(const KmeansOnDevice& k, double tol, bool spherical, const Launch& where) {
  const DeviceGuard guard(where.device);
  const CudaStream stream = where.stream;
  fill_cuda(k, stream);
  PYDREAM_BY_TYPE(k.x.type, {
    launch(update_kernel<T>, blocks_of_centres(k), dim3(kThreads), 0, stream, k, spherical);
  });
  (k.fast ? assign_cuda : assign_exact_cuda)(k, stream);
  move_cuda(k, stream);
  launch(judge_kernel, blocks(k.problems), dim3(kThreads), kSumBytes, stream, k, tol);
}

void kmeans_finish_cuda(const KmeansOnDevice& k, const Launch& where) {
  const DeviceGuard guard(where.device);
  const CudaStream stream = where.stream;
  PYDREAM_BY_TYPE(k.x.type,
                  launch(finish_kernel<T>, blocks(k.tiles), dim3(kThreads), kSumBytes, stream, k));
  launch(inertia_kernel, blocks(k.problems), dim3(kThreads), kSumBytes, stream, k);
}

}  // namespace pydream
