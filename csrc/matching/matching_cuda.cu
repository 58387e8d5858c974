// Distances of gradients and their derivatives on CUDA, all layers of a list in one launch.
//
// Shapes: layers [rows, columns] of two lists; a third is written. A block processes kChunk values
// of a layer, or for cosines one row.
// Presumes: up to kMostLayers layers per launch (ResNet-18 has 62 parameters), passed by value, so
// that a CUDA graph contains them; more take several launches. Rows of cosines are read twice, the
// second time from the second-level cache.
// Limit: bandwidth, the three lists once.
//
// The last block to finish adds the sums of all blocks in their order, so the value is the same in
// every run.
#include <cstddef>

#include "common/launch.h"
#include "common/sums.h"
#include "common/threads.h"
#include "matching/matching_cuda.h"

namespace pydream {
namespace {

constexpr int64_t kChunk = 8192;
constexpr int kMostLayers = 64;

struct Layers {
  Layer layer[kMostLayers];
  int64_t first_block[kMostLayers + 1];
  int count;
};
static_assert(sizeof(Layers) < 3800, "arguments of a kernel take 4 KiB at most");

struct MatchingMemory {
  double* partial;         // [blocks]
  double* distance;        // [layers]
  unsigned int* finished;  // [1], 0
  float* value;            // []
};

struct MatchingTask {
  MatchingMemory memory;
  int64_t all_blocks;    // of all launches
  int64_t block_before;  // of the launches before
  int layer_before;
  Metric metric;
};

// Some values of a layer: sums of squared or absolute differences.
template <class T>
__device__ double differences(const Layer& layer, int64_t begin, Metric metric, double* shared) {
  const T* x = static_cast<const T*>(layer.synthetic);
  const T* y = static_cast<const T*>(layer.real);
  T* gradient = static_cast<T*>(layer.gradient);
  const int64_t end = min(begin + kChunk, layer.rows * layer.columns);
  const bool squares = metric == Metric::mse || metric == Metric::l2;
  const float mean = metric == Metric::l1_mean ? 1.0f / static_cast<float>(layer.columns) : 1.0f;
  const float slope = metric == Metric::mse ? 2.0f : 1.0f;
  float sum = 0.0f;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const float difference = widen(x[i]) - widen(y[i]);
    sum += squares ? difference * difference : fabsf(difference);
    if (gradient == nullptr) continue;
    const float sign = static_cast<float>((difference > 0.0f) - (difference < 0.0f));
    narrow(squares ? slope * difference : mean * sign, gradient + i);
  }
  return block_sum(sum, shared) *
         (metric == Metric::l1_mean ? 1.0 / static_cast<double>(layer.columns) : 1.0);
}

// One row of a layer: 1 - <x, y> / (|x| |y| + floor).
template <class T>
__device__ double cosine(const Layer& layer, int64_t row, double* shared) {
  const T* x = static_cast<const T*>(layer.synthetic) + row * layer.columns;
  const T* y = static_cast<const T*>(layer.real) + row * layer.columns;
  double xx = 0.0, xy = 0.0, yy = 0.0;
  for (int64_t i = threadIdx.x; i < layer.columns; i += kThreads) {
    const float a = widen(x[i]), b = widen(y[i]);
    xx += a * a;
    xy += a * b;
    yy += b * b;
  }
  xx = block_sum(xx, shared);
  xy = block_sum(xy, shared);
  yy = block_sum(yy, shared);
  const double length_x = sqrt(xx), length_y = sqrt(yy);
  const double below = length_x * length_y + kCosineFloor;
  if (layer.gradient != nullptr) {
    T* gradient = static_cast<T*>(layer.gradient) + row * layer.columns;
    const double turned = length_x > 0.0 ? xy * length_y / (length_x * below * below) : 0.0;
    const float a = static_cast<float>(turned), b = static_cast<float>(-1.0 / below);
    for (int64_t i = threadIdx.x; i < layer.columns; i += kThreads) {
      narrow(a * widen(x[i]) + b * widen(y[i]), gradient + i);
    }
  }
  return 1.0 - xy / below;
}

__device__ int layer_of(const Layers& layers, int64_t block) {
  int low = 0, high = layers.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (layers.first_block[middle] <= block ? low : high) = middle;
  }
  return low;
}

template <class T>
__device__ double measure(const Layer& layer, int64_t part, Metric metric, double* shared) {
  return metric == Metric::cos ? cosine<T>(layer, part, shared)
                               : differences<T>(layer, part * kChunk, metric, shared);
}

// Whether this is the last block of all to finish; it can then read all sums.
__device__ bool last_of_all(const MatchingTask& task, double* shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // the sum before the count
    const unsigned int before = atomicAdd(task.memory.finished, 1u);
    shared[0] = before + 1 == task.all_blocks ? 1.0 : 0.0;
  }
  __syncthreads();
  const bool last = shared[0] != 0.0;
  __threadfence();
  return last;
}

__global__ void __launch_bounds__(kThreads)
    distance_kernel(const MatchingTask task, const Layers layers) {
  double* shared = shared_memory<double>();  // [kWarps]
  const int64_t block = blockIdx.x;
  const int number = layer_of(layers, block);
  const Layer& layer = layers.layer[number];
  const int64_t part = block - layers.first_block[number];
  double value = 0.0;
  switch (layer.type) {
    case Dtype::float16:
      value = measure<Half>(layer, part, task.metric, shared);
      break;
    case Dtype::bfloat16:
      value = measure<BFloat16>(layer, part, task.metric, shared);
      break;
    default:
      value = measure<float>(layer, part, task.metric, shared);
  }
  if (threadIdx.x == 0) task.memory.partial[task.block_before + block] = value;
  if (task.metric == Metric::l2 || !last_of_all(task, shared)) return;
  double total = 0.0;
  const volatile double* partial = task.memory.partial;
  for (int64_t each = threadIdx.x; each < task.all_blocks; each += kThreads) {
    total += partial[each];
  }
  total = block_sum(total, shared);
  if (threadIdx.x == 0) *task.memory.value = static_cast<float>(total);
}

// The l2 distance of each layer: a block per layer.
__global__ void __launch_bounds__(kThreads)
    length_kernel(const MatchingTask task, const Layers layers) {
  double* shared = shared_memory<double>();  // [kWarps]
  const int number = static_cast<int>(blockIdx.x);
  double total = 0.0;
  for (int64_t each = layers.first_block[number] + threadIdx.x;
       each < layers.first_block[number + 1]; each += kThreads) {
    total += task.memory.partial[task.block_before + each];
  }
  total = block_sum(total, shared);
  if (threadIdx.x == 0) task.memory.distance[task.layer_before + number] = sqrt(total);
}

// Divides derivatives by the distance of their layer; the first block adds the distances.
__global__ void __launch_bounds__(kThreads)
    divide_kernel(const MatchingTask task, const Layers layers, int64_t all_layers) {
  double* shared = shared_memory<double>();  // [kWarps]
  const int64_t block = blockIdx.x;
  if (block == 0) {
    double total = 0.0;
    for (int64_t each = threadIdx.x; each < all_layers; each += kThreads) {
      total += task.memory.distance[each];
    }
    total = block_sum(total, shared);
    if (threadIdx.x == 0) *task.memory.value = static_cast<float>(total);
  }
  const int number = layer_of(layers, block);
  const Layer& layer = layers.layer[number];
  if (layer.gradient == nullptr) return;
  const double length = task.memory.distance[task.layer_before + number];
  const float factor = length > 0.0 ? static_cast<float>(1.0 / length) : 0.0f;
  const int64_t begin = (block - layers.first_block[number]) * kChunk;
  const int64_t end = min(begin + kChunk, layer.rows * layer.columns);
  const auto scale = [&](auto* gradient) {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
      narrow(widen(gradient[i]) * factor, gradient + i);
    }
  };
  switch (layer.type) {
    case Dtype::float16:
      return scale(static_cast<Half*>(layer.gradient));
    case Dtype::bfloat16:
      return scale(static_cast<BFloat16*>(layer.gradient));
    default:
      return scale(static_cast<float*>(layer.gradient));
  }
}

int64_t blocks_of(const Layer& layer, Metric metric) {
  if (layer.rows * layer.columns == 0) return 0;
  if (metric == Metric::cos) return layer.rows;
  return (layer.rows * layer.columns + kChunk - 1) / kChunk;
}

// Calls launch_some(task, layers, blocks) for as many layers at a time as fit in the arguments.
template <class Launch>
void in_launches(const std::vector<Layer>& all, MatchingTask task, const Launch& launch_some) {
  Layers layers{};
  int64_t blocks = 0;
  for (size_t number = 0; number < all.size(); ++number) {
    const int64_t more = blocks_of(all[number], task.metric);
    layers.layer[layers.count] = all[number];
    layers.first_block[layers.count] = blocks;
    blocks += more;
    layers.first_block[++layers.count] = blocks;
    if (layers.count < kMostLayers && number + 1 < all.size()) continue;
    if (blocks > 0) launch_some(task, layers, blocks);
    task.block_before += blocks;
    task.layer_before += layers.count;
    layers.count = 0;
    blocks = 0;
  }
}

}  // namespace

int64_t matching_blocks(const std::vector<Layer>& layers, Metric metric) {
  int64_t blocks = 0;
  for (const Layer& layer : layers) blocks += blocks_of(layer, metric);
  return blocks;
}

void gradient_distance_cuda(const std::vector<Layer>& all, Metric metric, const View& partial,
                            const View& distance, const View& finished, const View& value,
                            const Launch& where) {
  const DeviceGuard guard(where.device);
  const CudaStream stream = where.stream;
  const MatchingMemory memory = {partial.as<double>(), distance.as<double>(),
                                 finished.as<unsigned int>(), value.as<float>()};
  constexpr size_t kShared = kWarps * sizeof(double);
  const MatchingTask first = {memory, matching_blocks(all, metric), 0, 0, metric};
  const auto grid = [](int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); };
  in_launches(all, first, [&](const MatchingTask& task, const Layers& layers, int64_t blocks) {
    launch(distance_kernel, grid(blocks), dim3(kThreads), kShared, stream, task, layers);
    if (metric == Metric::l2) {
      launch(length_kernel, grid(layers.count), dim3(kThreads), kShared, stream, task, layers);
    }
  });
  if (metric != Metric::l2) return;
  in_launches(all, first, [&](const MatchingTask& task, const Layers& layers, int64_t blocks) {
    launch(divide_kernel, grid(blocks), dim3(kThreads), kShared, stream, task, layers,
           static_cast<int64_t>(all.size()));
  });
}

}  // namespace pydream
