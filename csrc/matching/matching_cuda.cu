// Distances of gradients and their derivatives on CUDA, all layers of a list in one launch.
//
// Shapes: layers [rows, columns] of two lists; a third is written. A block processes kChunk values
// of a layer; for cosines a row, or a row for each of its warps where rows are short.
// Presumes: up to kMostLayers layers per launch (ResNet-18 has 62 parameters), passed by value, so
// that a CUDA graph contains them; more take several launches. Rows of cosines are read twice, the
// second time from the second-level cache.
// Limit: bandwidth, the three lists once; for l2 two of them twice, because its derivatives need
// the whole layer's distance.
//
// The last block to finish adds the sums of all blocks in their order, so the value is the same in
// every run. For l2 a second launch adds them, layer by layer.
#include <algorithm>
#include <cstddef>

#include "common/launch.h"
#include "common/sums.h"
#include "common/threads.h"
#include "matching/matching_cuda.h"

namespace pydream {
namespace {

constexpr int64_t kChunk = 8192;
constexpr int64_t kShortRow = 1024;
constexpr int kMostLayers = 64;

// A layer's parts: chunks of values, or rows. Each has a sum of its own.
struct Layers {
  Layer layer[kMostLayers];
  int32_t first_block[kMostLayers + 1];
  int32_t first_part[kMostLayers + 1];
  int count;
};
static_assert(sizeof(Layers) < 3800, "arguments of a kernel take 4 KiB at most");

struct MatchingMemory {
  float* value;            // []
  unsigned int* finished;  // [1], 0; unused for l2
  double* total;           // [1], distances of the launches before; for l2
  double* partial;         // [parts]
};

struct MatchingTask {
  MatchingMemory memory;
  int64_t all_blocks;   // of all launches
  int64_t all_parts;    // of all launches
  int64_t part_before;  // of the launches before
  Metric metric;
};

// Some values of a layer: sums of squared or absolute differences, and derivatives but for l2.
template <class T>
__device__ double differences(const Layer& layer, int64_t begin, Metric metric, double* shared) {
  const T* x = static_cast<const T*>(layer.synthetic);
  const T* y = static_cast<const T*>(layer.real);
  T* gradient = static_cast<T*>(layer.gradient);
  const int64_t end = min(begin + kChunk, layer.rows * layer.columns);
  const bool squares = metric == Metric::mse || metric == Metric::l2;
  const float mean = metric == Metric::l1_mean ? 1.0f / static_cast<float>(layer.columns) : 1.0f;
  float sum = 0.0f;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const float difference = widen(x[i]) - widen(y[i]);
    sum += squares ? difference * difference : fabsf(difference);
    if (gradient == nullptr || metric == Metric::l2) continue;
    const float sign = static_cast<float>((difference > 0.0f) - (difference < 0.0f));
    narrow(squares ? 2.0f * difference : mean * sign, gradient + i);
  }
  return block_sum(sum, shared) *
         (metric == Metric::l1_mean ? 1.0 / static_cast<double>(layer.columns) : 1.0);
}

struct Products {
  double xx, xy, yy;
};

// Of every kThreads-th value of two rows [columns].
template <class T>
__device__ Products products_of(const T* x, const T* y, int64_t columns, int first) {
  Products sum = {};
  for (int64_t i = first; i < columns; i += kThreads) {
    const float a = widen(x[i]), b = widen(y[i]);
    sum.xx += a * a;
    sum.xy += a * b;
    sum.yy += b * b;
  }
  return sum;
}

__device__ Products warp_sums(const Products& part) {
  return {warp_sum(part.xx), warp_sum(part.xy), warp_sum(part.yy)};
}

// A warp adds a row as a block would, which is why its sums are the same.
template <class T>
__device__ Products sums_by_warp(const T* x, const T* y, int64_t columns) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  Products total = {};
  for (int first = 0; first < kThreads && first < columns; first += 32) {
    const Products part = warp_sums(products_of(x, y, columns, first + lane));
    total.xx += part.xx;
    total.xy += part.xy;
    total.yy += part.yy;
  }
  return total;
}

template <class T>
__device__ Products sums_by_block(const T* x, const T* y, int64_t columns, double* shared) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  const Products part = warp_sums(products_of(x, y, columns, static_cast<int>(threadIdx.x)));
  if (threadIdx.x % 32 == 0) {
    shared[3 * warp] = part.xx;
    shared[3 * warp + 1] = part.xy;
    shared[3 * warp + 2] = part.yy;
  }
  __syncthreads();
  Products total = {};
  for (int each = 0; each < kWarps; ++each) {
    total.xx += shared[3 * each];
    total.xy += shared[3 * each + 1];
    total.yy += shared[3 * each + 2];
  }
  return total;
}

__host__ __device__ inline bool short_rows(const Layer& layer) {
  return layer.columns <= kShortRow;
}

// One row of a layer: 1 - <x, y> / (|x| |y| + floor).
template <class T>
__device__ double cosine(const Layer& layer, int64_t row, double* shared) {
  const T* x = static_cast<const T*>(layer.synthetic) + row * layer.columns;
  const T* y = static_cast<const T*>(layer.real) + row * layer.columns;
  const bool alone = short_rows(layer);  // is this warp with its row
  const Products sum =
      alone ? sums_by_warp(x, y, layer.columns) : sums_by_block(x, y, layer.columns, shared);
  const double length_x = sqrt(sum.xx), length_y = sqrt(sum.yy);
  const double below = length_x * length_y + kCosineFloor;
  if (layer.gradient != nullptr) {
    T* gradient = static_cast<T*>(layer.gradient) + row * layer.columns;
    const double turned = length_x > 0.0 ? sum.xy * length_y / (length_x * below * below) : 0.0;
    const float a = static_cast<float>(turned), b = static_cast<float>(-1.0 / below);
    const int first = static_cast<int>(alone ? threadIdx.x % 32 : threadIdx.x);
    for (int64_t i = first; i < layer.columns; i += alone ? 32 : kThreads) {
      narrow(a * widen(x[i]) + b * widen(y[i]), gradient + i);
    }
  }
  return 1.0 - sum.xy / below;
}

__device__ int layer_of(const Layers& layers, int64_t block) {
  int low = 0, high = layers.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (layers.first_block[middle] <= block ? low : high) = middle;
  }
  return low;
}

template <bool kCosine, class T>
__device__ double measure(const Layer& layer, int64_t part, Metric metric, double* shared) {
  if constexpr (kCosine) {
    return cosine<T>(layer, part, shared);
  } else {
    return differences<T>(layer, part * kChunk, metric, shared);
  }
}

// Whether this is the last block of all to finish; it can then read all sums.
__device__ bool last_of_all(const MatchingTask& task, double* shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // the block's sums before the count
    const unsigned int before = atomicAdd(task.memory.finished, 1u);
    shared[0] = before + 1 == task.all_blocks ? 1.0 : 0.0;
  }
  __syncthreads();
  const bool last = shared[0] != 0.0;
  __threadfence();
  return last;
}

template <bool kCosine>
__device__ void measure_part(const MatchingTask& task, const Layers& layers, double* shared) {
  const int64_t block = blockIdx.x;
  const int number = layer_of(layers, block);
  const Layer& layer = layers.layer[number];
  int64_t part = block - layers.first_block[number];
  bool writes = threadIdx.x == 0;
  if (kCosine && short_rows(layer)) {
    part = part * kWarps + threadIdx.x / 32;
    if (part >= layer.rows) return;
    writes = threadIdx.x % 32 == 0;
  }
  double value = 0.0;
  switch (layer.type) {
    case Dtype::float16:
      value = measure<kCosine, Half>(layer, part, task.metric, shared);
      break;
    case Dtype::bfloat16:
      value = measure<kCosine, BFloat16>(layer, part, task.metric, shared);
      break;
    default:
      value = measure<kCosine, float>(layer, part, task.metric, shared);
  }
  if (writes) task.memory.partial[task.part_before + layers.first_part[number] + part] = value;
}

template <bool kCosine>
__global__ void __launch_bounds__(kThreads)
    distance_kernel(const MatchingTask task, const Layers layers) {
  double* shared = shared_memory<double>();  // [3 * kWarps]
  measure_part<kCosine>(task, layers, shared);
  if (task.metric == Metric::l2 || !last_of_all(task, shared)) return;
  double total = 0.0;
  const volatile double* partial = task.memory.partial;
  for (int64_t each = threadIdx.x; each < task.all_parts; each += kThreads) {
    total += partial[each];
  }
  total = block_sum(total, shared);
  if (threadIdx.x == 0) *task.memory.value = static_cast<float>(total);
}

// The l2 distance of a layer; every warp finds the same. Each block adds the sums of its layer
// again: 288 of them for the largest one of ResNet-18, 2 KiB beside the 96 KiB of a chunk.
__device__ double length_of(const MatchingTask& task, const Layers& layers, int number) {
  const double* partial = task.memory.partial + task.part_before;
  double sum = 0.0;
  for (int each = layers.first_part[number] + static_cast<int>(threadIdx.x % 32);
       each < layers.first_part[number + 1]; each += 32) {
    sum += partial[each];
  }
  return sqrt(warp_sum(sum));
}

// Adds the distances of all layers to those of the launches before.
__device__ void add_lengths(const MatchingTask& task, const Layers& layers, double* shared) {
  double own = 0.0;
  for (int number = static_cast<int>(threadIdx.x / 32); number < layers.count; number += kWarps) {
    own += length_of(task, layers, number);
  }
  const double total = block_sum(threadIdx.x % 32 == 0 ? own : 0.0, shared) +
                       (task.part_before > 0 ? *task.memory.total : 0.0);
  if (threadIdx.x > 0) return;
  *task.memory.total = total;
  *task.memory.value = static_cast<float>(total);
}

template <class T>
__device__ void write_directions(const Layer& layer, int64_t begin, float factor) {
  const T* x = static_cast<const T*>(layer.synthetic);
  const T* y = static_cast<const T*>(layer.real);
  const int64_t end = min(begin + kChunk, layer.rows * layer.columns);
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    narrow((widen(x[i]) - widen(y[i])) * factor, static_cast<T*>(layer.gradient) + i);
  }
}

// The derivatives of l2, which are differences by the distance of their layer; the first block adds
// the distances. Without derivatives there is no other block.
__global__ void __launch_bounds__(kThreads)
    direction_kernel(const MatchingTask task, const Layers layers) {
  double* shared = shared_memory<double>();  // [kWarps]
  const int64_t block = blockIdx.x;
  if (block == 0) add_lengths(task, layers, shared);
  const int number = layer_of(layers, block);
  const Layer& layer = layers.layer[number];
  if (layer.gradient == nullptr) return;
  const double length = length_of(task, layers, number);
  const float factor = length > 0.0 ? static_cast<float>(1.0 / length) : 0.0f;
  const int64_t begin = (block - layers.first_block[number]) * kChunk;
  switch (layer.type) {
    case Dtype::float16:
      return write_directions<Half>(layer, begin, factor);
    case Dtype::bfloat16:
      return write_directions<BFloat16>(layer, begin, factor);
    default:
      return write_directions<float>(layer, begin, factor);
  }
}

int64_t parts_of(const Layer& layer, Metric metric) {
  if (layer.rows * layer.columns == 0) return 0;
  if (metric == Metric::cos) return layer.rows;
  return (layer.rows * layer.columns + kChunk - 1) / kChunk;
}

int64_t blocks_of(const Layer& layer, Metric metric) {
  const int64_t parts = parts_of(layer, metric);
  return metric == Metric::cos && short_rows(layer) ? (parts + kWarps - 1) / kWarps : parts;
}

template <class Count>
int64_t sum_of(const std::vector<Layer>& layers, Metric metric, const Count& count) {
  int64_t sum = 0;
  for (const Layer& layer : layers) sum += count(layer, metric);
  return sum;
}

// Calls launch_some(task, layers, blocks) for as many layers at a time as fit in the arguments.
template <class Launch>
void in_launches(const std::vector<Layer>& all, MatchingTask task, const Launch& launch_some) {
  Layers layers{};
  int64_t blocks = 0, parts = 0;
  for (size_t number = 0; number < all.size(); ++number) {
    layers.layer[layers.count] = all[number];
    blocks += blocks_of(all[number], task.metric);
    parts += parts_of(all[number], task.metric);
    ++layers.count;
    layers.first_block[layers.count] = static_cast<int32_t>(blocks);
    layers.first_part[layers.count] = static_cast<int32_t>(parts);
    if (layers.count < kMostLayers && number + 1 < all.size()) continue;
    if (blocks > 0) launch_some(task, layers, blocks);
    task.part_before += parts;
    layers.count = 0;
    blocks = parts = 0;
  }
}

}  // namespace

int64_t matching_words(const std::vector<Layer>& layers, Metric metric) {
  return 4 + 2 * sum_of(layers, metric, parts_of);
}

void gradient_distance_cuda(const std::vector<Layer>& all, Metric metric, const View& workspace,
                            const Launch& where) {
  const DeviceGuard guard(where.device);
  const CudaStream stream = where.stream;
  float* words = workspace.as<float>();
  double* total = reinterpret_cast<double*>(words + 2);
  const MatchingMemory memory = {words, reinterpret_cast<unsigned int*>(words + 1), total,
                                 total + 1};
  constexpr size_t kShared = 3 * kWarps * sizeof(double);
  const MatchingTask first = {memory, sum_of(all, metric, blocks_of), sum_of(all, metric, parts_of),
                              0, metric};
  const auto with_gradient = [](const Layer& layer) { return layer.gradient != nullptr; };
  const bool wanted = std::any_of(all.begin(), all.end(), with_gradient);
  const auto grid = [](int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); };
  in_launches(all, first, [&](const MatchingTask& task, const Layers& layers, int64_t blocks) {
    launch(metric == Metric::cos ? distance_kernel<true> : distance_kernel<false>, grid(blocks),
           dim3(kThreads), kShared, stream, task, layers);
    if (metric != Metric::l2) return;
    launch(direction_kernel, grid(wanted ? blocks : 1), dim3(kThreads), kShared, stream, task,
           layers);
  });
}

}  // namespace pydream
