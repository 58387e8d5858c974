// What the kernels for CUDA share: how blocks of threads are laid over images, and their sums.
//
// Shapes: images and their slopes [N, H, W, C], pooled values and theirs [N, H / 2, W / 2, C], all
// channels-last and float32; statistics [groups, C], parameters [parts, C].
// Presumes: that a block keeps its part of an image in shared memory (kMostKept of block_plan.h; up
// to 32 x 32 pixels in every pass). Of larger images it reads it twice, the second time from the
// second-level cache if that holds what all running blocks read. Limit: bandwidth. In quarters of
// the images' bytes, forward moves 5, backward 9, and the second derivative 14; with statistics
// over a batch, which take a second read, 9, 14 and 23.
//
// With statistics of each image, one kernel does everything but the slopes of weight and bias,
// which are sums over images. With statistics over a batch, a first kernel sums over each image, a
// second one over images, and a third applies what follows.
//
// A thread has kQuad channels, which it reads and writes at once, of some cells of 2 x 2 pixels.
// Threads along x have neighbouring channels, those along y neighbouring cells. How an image is
// divided depends on its size alone, so that its sums have one order whatever the batch.
#pragma once

#include "block/block.h"
#include "common/launch.h"
#include "common/threads.h"

namespace pydream {

constexpr int kQuad = 4;
constexpr int kCellPixels = 4;
constexpr float kQuarter = 0.25f;  // weight of each pixel of a cell

struct alignas(16) Quad {
  float at[kQuad];
};

template <class Term>
__device__ Quad each(const Term& term) {
  Quad quad;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) quad.at[i] = term(i);
  return quad;
}

// What all kernels know of the images and their division.
struct BlockTask {
  const float* images;  // [N, H, W, C]
  BlockNorm norm;
  unsigned per_part;  // images
  unsigned slabs;     // blocks that share an image, each with some channels
  int height;
  int width;
  int channels;
  int columns;  // cells along a row, the last one cut if the width is odd
  int cells;
  int step_rows;  // from a thread's cell to its next one, down
  int step_columns;
  bool over_batch;

  __device__ int64_t size() const { return static_cast<int64_t>(height) * width * channels; }
  __device__ int64_t pooled_size() const {
    return static_cast<int64_t>(height / 2) * (width / 2) * channels;
  }
};

// A cell of a thread.
struct CellPlace {
  int slot;  // number among those of the thread
  int y;
  int x;
  bool whole;  // else the image ends within it

  __device__ bool has(const BlockTask& task, int pixel) const {
    return 2 * y + pixel / 2 < task.height && 2 * x + pixel % 2 < task.width;
  }
  // Offsets in an image, and among its pooled values.
  __device__ int64_t pixel(const BlockTask& task, int pixel) const {
    const int64_t row = 2 * y + pixel / 2;
    return (row * task.width + 2 * x + pixel % 2) * task.channels;
  }
  __device__ int64_t pooled(const BlockTask& task) const {
    return (static_cast<int64_t>(y) * (task.width / 2) + x) * task.channels;
  }
};

// A thread's image, channels and cells. Channels behind the last are read as if they were the last
// ones, and not written.
template <bool kWide>
struct Lane {
  int channels;
  int slab;  // the first channel of this block
  int first;
  int row;  // of the first cell
  int column;
  int64_t image;
  int64_t part;
  int64_t group;  // that shares the image's statistics

  __device__ explicit Lane(const BlockTask& task)
      : channels(task.channels),
        slab(static_cast<int>(blockIdx.x % task.slabs * blockDim.x) * kQuad),
        first(slab + static_cast<int>(threadIdx.x) * kQuad),
        row(static_cast<int>(threadIdx.y) / task.columns),
        column(static_cast<int>(threadIdx.y) % task.columns),
        image(blockIdx.x / task.slabs),
        part(blockIdx.x / task.slabs / task.per_part),
        group(task.over_batch ? part : image) {}

  // Calls visit(cell) for all cells of this thread.
  template <class Visit>
  __device__ void over_cells(const BlockTask& task, const Visit& visit) const {
    int y = row, x = column, slot = 0;
    for (int cell = static_cast<int>(threadIdx.y); cell < task.cells; cell += blockDim.y) {
      visit(CellPlace{slot++, y, x, 2 * y + 1 < task.height && 2 * x + 1 < task.width});
      y += task.step_rows;
      x += task.step_columns;
      if (x >= task.columns) {
        x -= task.columns;
        ++y;
      }
    }
  }

  // From values of all channels, [C], aligned to 16 bytes if kWide.
  __device__ Quad load(const float* from) const {
    if constexpr (kWide) {
      const float4 quad = *reinterpret_cast<const float4*>(from + min(first, channels - kQuad));
      return {{quad.x, quad.y, quad.z, quad.w}};
    }
    return each([&](int i) { return from[min(first + i, channels - 1)]; });
  }

  __device__ void store(const Quad& quad, float* to) const {
    if constexpr (kWide) {
      if (first < channels) {
        *reinterpret_cast<float4*>(to + first) =
            make_float4(quad.at[0], quad.at[1], quad.at[2], quad.at[3]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        if (first + i < channels) to[first + i] = quad.at[i];
      }
    }
  }

  // The pixels of a cell that there are; all are read before one is used.
  __device__ void load_cell(const BlockTask& task, const CellPlace& cell, const float* image,
                            Quad (&pixels)[kCellPixels]) const {
#pragma unroll
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
      pixels[pixel] = cell.has(task, pixel) ? load(image + cell.pixel(task, pixel)) : Quad{};
    }
  }
};

__device__ inline int flat_thread() {
  return static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
}
__device__ inline int block_threads() { return static_cast<int>(blockDim.x * blockDim.y); }
__device__ inline int slab_channels() { return static_cast<int>(blockDim.x) * kQuad; }

// A block's shared memory: sums of its warps, terms of its channels, and what its threads keep of
// their cells until a second pass.
template <int kSums, int kTerms, int kKept>
struct BlockMemory {
  float* sums;   // [kSums, warps, slab's channels]
  float* terms;  // [kTerms, slab's channels]
  Quad* kept;    // [slots, kKept, threads]

  __device__ BlockMemory() {
    sums = shared_memory<float>();
    terms = sums + kSums * (block_threads() / 32) * slab_channels();
    kept = reinterpret_cast<Quad*>(terms + kTerms * slab_channels());
  }

  // Only its own thread reads it, so no barrier is needed.
  __device__ Quad& own(int slot, int number) const {
    return kept[(slot * kKept + number) * block_threads() + flat_thread()];
  }

  __device__ Quad term(int number) const {
    const float* from = terms + number * slab_channels() + threadIdx.x * kQuad;
    return each([&](int i) { return from[i]; });
  }

  // Adds the values of all threads with the same channels, over each warp; the block must meet
  // before total.
  __device__ void add(int number, Quad value) const {
    const int warp = flat_thread() / 32, warps = block_threads() / 32;
    for (int distance = 16; distance >= static_cast<int>(blockDim.x); distance /= 2) {
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        value.at[i] += __shfl_xor_sync(kAllLanes, value.at[i], distance);
      }
    }
    if (flat_thread() % 32 >= static_cast<int>(blockDim.x)) return;
    float* to = sums + (number * warps + warp) * slab_channels() + threadIdx.x * kQuad;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) to[i] = value.at[i];
  }

  // The sum over the block, of a channel of the slab.
  __device__ double total(int number, int channel) const {
    const int warps = block_threads() / 32;
    double sum = 0.0;
    for (int warp = 0; warp < warps; ++warp) {
      sum += sums[(number * warps + warp) * slab_channels() + channel];
    }
    return sum;
  }

  // Between two barriers, calls work(channel of the slab, channel) once for each.
  template <class Work>
  __device__ void over_channels(int slab, int channels, const Work& work) const {
    __syncthreads();
    for (int channel = flat_thread(); channel < slab_channels(); channel += block_threads()) {
      if (slab + channel < channels) work(channel, slab + channel);
    }
    __syncthreads();
  }
};

// Mean, scale and bias of a thread's channels, and the mask of their ReLU.
struct Channels {
  Quad mean;
  Quad scale;  // weight * rstd
  Quad bias;

  template <bool kWide>
  __device__ Channels(const BlockTask& task, const Lane<kWide>& lane) {
    const int64_t statistics = lane.group * task.channels;
    const Quad weight = lane.load(task.norm.weight.row(lane.part));
    const Quad rstd = lane.load(task.norm.rstd + statistics);
    mean = lane.load(task.norm.mean + statistics);
    scale = each([&](int i) { return weight.at[i] * rstd.at[i]; });
    bias = lane.load(task.norm.bias.row(lane.part));
  }

  __device__ float deviation(float value, int i) const { return value - mean.at[i]; }
  __device__ float normed(float d, int i) const { return fmaf(d, scale.at[i], bias.at[i]); }
  // `value` where the ReLU of deviation d is open, else 0; open for NaN, as in PyTorch.
  __device__ float masked(float d, float value, int i) const {
    return normed(d, i) <= 0.0f ? 0.0f : value;
  }
};

// A cell of the images, and the slope with respect to each of its pixels behind the ReLU.
struct SlopeCell {
  Quad pixels[kCellPixels];
  Quad slope;  // 0 if the cell is not whole

  template <bool kWide>
  __device__ void load(const BlockTask& task, const Lane<kWide>& lane, const CellPlace& cell,
                       const float* image, const float* pooled_slope) {
    lane.load_cell(task, cell, image, pixels);
    const Quad whole = cell.whole ? lane.load(pooled_slope + cell.pooled(task)) : Quad{};
    slope = each([&](int i) { return whole.at[i] * kQuarter; });
  }

  template <class Memory>
  __device__ void keep(const Memory& memory, int slot) const {
    for (int pixel = 0; pixel < kCellPixels; ++pixel) memory.own(slot, pixel) = pixels[pixel];
    memory.own(slot, kCellPixels) = slope;
  }

  template <class Memory>
  __device__ void recall(const Memory& memory, int slot) {
    for (int pixel = 0; pixel < kCellPixels; ++pixel) pixels[pixel] = memory.own(slot, pixel);
    slope = memory.own(slot, kCellPixels);
  }
};

// Number of values of a SlopeCell that a thread keeps.
constexpr int kSlopeKept = kCellPixels + 1;

// rstd and weight * rstd of a channel.
struct Spread {
  double rstd;
  double scale;

  __device__ Spread(const BlockTask& task, int64_t group, int64_t part, int channel) {
    const float of_group = task.norm.rstd[group * task.channels + channel];
    rstd = of_group;
    scale = task.norm.weight.row(part)[channel] * of_group;
  }
};

// Sums over rows of tables [rows, C], in float64, by a block of kColumns channels and as many lanes
// of rows. Shared memory holds kSums * kColumns^2 of them.
constexpr int kColumns = 32;

template <int kSums>
struct ColumnSums {
  double at[kSums];
};

// Returns the sums of term(row, number) over rows from `begin` to `end`, to every thread.
template <int kSums, class Term>
__device__ ColumnSums<kSums> column_sums(int64_t begin, int64_t end, const Term& term) {
  double* shared = shared_memory<double>();  // [kSums, lanes, kColumns]
  ColumnSums<kSums> sums{};
  for (int64_t row = begin + threadIdx.y; row < end; row += kColumns) {
#pragma unroll
    for (int number = 0; number < kSums; ++number) sums.at[number] += term(row, number);
  }
  __syncthreads();
  for (int number = 0; number < kSums; ++number) {
    shared[(number * kColumns + threadIdx.y) * kColumns + threadIdx.x] = sums.at[number];
  }
  __syncthreads();
  for (int number = 0; number < kSums; ++number) {
    sums.at[number] = 0.0;
    for (int lane = 0; lane < kColumns; ++lane) {
      sums.at[number] += shared[(number * kColumns + lane) * kColumns + threadIdx.x];
    }
  }
  return sums;
}

// What a kernel does: all of it; or, with statistics over a batch, its sums or what follows them.
enum class Phase { all, sums, apply };

}  // namespace pydream
