// Multi-formation on CUDA, and its adjoint.
//
// Shapes: images [B, N, C, H, W], result [B, f^2 * N, C, S, S], both contiguous.
// Presumes: what fits numbers of 32 bits (task_of). Limit: bandwidth, the result once and the
// images once.
//
// A thread processes kRows rows of one column of a plane. It goes down the rows and keeps the
// values that two rows share: forward the two stretched values that it blends, which change every
// second row if a cell is doubled; backward the sums of the two pixels that contribute to a row of
// the result. One thread writes each value once, so sums have a fixed order and need no atomics.
#include <algorithm>
#include <stdexcept>

#include "common/division.h"
#include "common/launch.h"
#include "common/threads.h"
#include "formation/formation_cuda.h"

namespace pydream {
namespace {

constexpr int kRows = 8;
constexpr int kTaps = 4;  // pixels of the result, of those that a pixel of a doubled cell reaches

// One side: of a cell, and of the result.
struct Side {
  int from;
  int to;
  Division twice_from;
  Division twice_to;
};

// The work, with its divisors: divisions of 64 bits were most of the instructions before.
struct Task {
  Side rows;
  Side columns;
  int height;  // of the images
  int width;
  int factor;
  int own;          // N * C, planes of one batch of images
  unsigned items;   // columns of all planes
  Division chunks;  // of kRows rows, in a cell of the result or of the images
  Division line;    // columns of a plane
  Division by_own;
  Division by_cells;  // f^2
  Division by_factor;
  Division by_width;  // of a cell of the images
};

// As `between`.
struct Place {
  int low;
  float weight;
};

__device__ Place place_of(int i, const Side& side) {
  const int place = (2 * i + 1) * side.from - side.to;
  if (place <= 0) return {0, 0.0f};
  const int low = static_cast<int>(side.twice_to.quotient(static_cast<uint32_t>(place)));
  if (low >= side.from - 1) return {side.from - 1, 0.0f};
  return {low, static_cast<float>(place - low * 2 * side.to) / static_cast<float>(2 * side.to)};
}

// As `first_from`.
__device__ int first_at(int low, const Side& side) {
  const int least = (2 * low + 1) * side.to - side.from;
  if (least <= 0) return 0;
  const auto above = static_cast<uint32_t>(least + 2 * side.from - 1);
  return min(static_cast<int>(side.twice_from.quotient(above)), side.to);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    formation_kernel(const Task task, float padding, const T* images, T* result) {
  Place* rows = shared_memory<Place>();  // [kRows], of this block, once for all of its columns
  const int size = task.columns.to;
  const unsigned block = task.chunks.quotient(blockIdx.x);
  const int first = static_cast<int>(blockIdx.x - block * task.chunks.divisor) * kRows;
  const int count = min(kRows, size - first);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < count) rows[thread] = place_of(first + thread, task.rows);
  __syncthreads();
  const unsigned item = block * kThreads + threadIdx.x;
  if (item >= task.items) return;
  const unsigned plane = task.line.quotient(item);  // ((b f^2 + k) N + i) C + c
  const int x = static_cast<int>(item - plane * size);
  const unsigned above = task.by_own.quotient(plane);
  const unsigned batch = task.by_cells.quotient(above);
  const unsigned cell = above - batch * task.by_cells.divisor;
  const unsigned cell_row = task.by_factor.quotient(cell);
  const int top = static_cast<int>(cell_row) * task.rows.from;
  const int edge = static_cast<int>(cell - cell_row * task.factor) * task.columns.from;
  const Place column = place_of(x, task.columns);
  const int left = edge + column.low;
  const int right = edge + min(column.low + 1, task.columns.from - 1);
  const int64_t own = batch * static_cast<int64_t>(task.own) + (plane - above * task.own);
  const T* image = images + own * (static_cast<int64_t>(task.height) * task.width);  // [H, W]

  const bool left_inside = left < task.width, right_inside = right < task.width;
  const int inside = min(task.rows.from, task.height - top);  // rows of the cell in the image
  int next = rows[0].low;                                     // row of the cell to be read
  const T* line = image + (top + next) * static_cast<int64_t>(task.width) + left;
  T* out = result + (plane * static_cast<int64_t>(size) + first) * size + x;
  float low = 0.0f, high = 0.0f;  // two rows of the cell, stretched, at this column
  for (int y = 0; y < count; ++y, out += size) {
    const Place row = rows[y];
#pragma unroll 1
    for (; next < row.low + 2; ++next, line += task.width) {
      low = high;
      if (next == task.rows.from) continue;  // there is no row below the last: it stands for itself
      const float a = next < inside && left_inside ? widen(line[0]) : padding;
      const float b = next < inside && right_inside ? widen(line[right - left]) : padding;
      high = a + column.weight * (b - a);
    }
    narrow(low + row.weight * (high - low), out);
  }
}

// The share of a pixel in those of the result, along one side: a tent, constant past the ends.
struct Tent {
  int begin;
  int end;
  float start;  // distance of `begin` from the pixel, times 2 * size
  float step;   // from one pixel of the result to the next, the same
  float whole;  // 2 * size, where a share ends
  bool level_before;
  bool level_behind;
};

__device__ Tent tent_of(int pixel, const Side& side) {
  const int begin = first_at(pixel - 1, side);
  const int from = (2 * begin + 1) * side.from - side.to - 2 * side.to * pixel;
  return {begin,
          first_at(pixel + 1, side),
          static_cast<float>(from),
          static_cast<float>(2 * side.from),
          static_cast<float>(2 * side.to),
          pixel == 0,
          pixel == side.from - 1};
}

// The pixel's share in pixel number `tap` of its own.
__device__ float share_of(const Tent& tent, int tap) {
  const float distance = tent.start + static_cast<float>(tap) * tent.step;  // exact
  const bool level = distance < 0.0f ? tent.level_before : tent.level_behind;
  // part / whole, rounded once: exactly 0 and 1 at the ends, however the compiler fuses the rest.
  const float scale = 1.0f / tent.whole;
  const float part = tent.whole - fabsf(distance);
  const float nearly = part * scale;
  return level ? 1.0f : fmaf(fmaf(-nearly, tent.whole, part), scale, nearly);
}

// The first pixels of a row of the result that a pixel reaches, 0 where there are fewer.
struct Reached {
  float value[kTaps];
};

template <class T>
__device__ Reached reached_of(int count, const T* from) {
  Reached reached = {};
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    if (tap < count) reached.value[tap] = widen(from[tap]);
  }
  return reached;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    adjoint_kernel(const Task task, const T* gradient, T* images) {
  const int size = task.columns.to, height = task.rows.from;
  // The block is block f + cell_row of a chunk of rows.
  const unsigned turn = task.chunks.quotient(blockIdx.x);
  const int first = static_cast<int>(blockIdx.x - turn * task.chunks.divisor) * kRows;
  const unsigned block = task.by_factor.quotient(turn);
  const int cell_row = static_cast<int>(turn - block * task.factor);
  const int top = cell_row * height;
  const int last = min(min(first + kRows, height), task.height - top);
  const unsigned item = block * kThreads + threadIdx.x;
  if (first >= last || item >= task.items) return;
  const unsigned plane = task.line.quotient(item);
  const int x = static_cast<int>(item - plane * task.width);
  const unsigned batch = task.by_own.quotient(plane);
  const unsigned cell_column = task.by_width.quotient(static_cast<uint32_t>(x));
  const int pixel = x - static_cast<int>(cell_column) * task.columns.from;
  const int64_t cell =
      (batch * static_cast<int64_t>(task.factor) + cell_row) * task.factor + cell_column;
  const int64_t from = cell * task.own + (plane - batch * task.own);
  const Tent columns = tent_of(pixel, task.columns);
  const int taps = columns.end - columns.begin;
  float share[kTaps];
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    share[tap] = tap < taps ? share_of(columns, tap) : 0.0f;
  }
  T* out = images + (plane * static_cast<int64_t>(task.height) + top + first) * task.width + x;

  // Sums of rows q and q + 1 of the cell. The block above also reads the rows before the first, and
  // writes them.
  int q = max(first - 1, 0);
  float low = 0.0f, high = 0.0f;
  const auto advance = [&] {
    if (q >= first) {
      narrow(low, out);
      out += task.width;
    }
    low = high;
    high = 0.0f;
    ++q;
  };
  const int begin = first_at(first - 1, task.rows);
  const int end = first_at(last, task.rows);
  const float scale = 1.0f / static_cast<float>(2 * size);
  int place = (2 * begin + 1) * height - size;  // of a row, in rows of the cell times 2 * size
  const T* line = gradient + (from * size + begin) * size + columns.begin;  // [taps]
  Reached ahead = reached_of(taps, line);
  for (int y = begin; y < end; ++y, place += 2 * height, line += size) {
    const Reached reached = ahead;
    if (y + 1 < end) ahead = reached_of(taps, line + size);
    float sum = 0.0f;
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) sum += share[tap] * reached.value[tap];
#pragma unroll 1
    for (int tap = kTaps; tap < taps; ++tap) sum += share_of(columns, tap) * widen(line[tap]);
    const int beyond = max(place, 0);
    while (beyond >= 2 * size * (q + 1)) advance();
    const float weight = static_cast<float>(beyond - 2 * size * q) * scale;
    if (q == height - 1) {
      low += sum;
    } else {
      low += (1.0f - weight) * sum;
      high += weight * sum;
    }
  }
  while (q < last) advance();
}

Side side_of(int64_t from, int64_t to) {
  return {static_cast<int>(from), static_cast<int>(to), division_by(2 * from), division_by(2 * to)};
}

// The work of a thread for each column of planes of `line` columns, in chunks of `rows` rows.
Task task_of(const Formation& shape, int64_t planes, int64_t line, int64_t rows) {
  constexpr int64_t kMost = 0x7FFFFFFF;
  const int64_t height = cell_side(shape.height, shape.factor);
  const int64_t width = cell_side(shape.width, shape.factor);
  const int64_t chunks = (rows + kRows - 1) / kRows;
  const int64_t side = std::max(height, width);
  if (std::max(side, shape.size) > int64_t{1} << 22 ||  // whose shares are exact in float32
      2 * (shape.size + 1) * (side + 1) > kMost || shape.height * shape.width > kMost ||
      (planes * line + kThreads) * chunks * shape.factor > kMost * kThreads ||
      planes * line > kMost - kThreads) {
    throw std::invalid_argument(
        "images are too many or too large for one call of multi_formation on CUDA");
  }
  return {side_of(height, shape.size),
          side_of(width, shape.size),
          static_cast<int>(shape.height),
          static_cast<int>(shape.width),
          static_cast<int>(shape.factor),
          static_cast<int>(shape.images * shape.channels),
          static_cast<unsigned>(planes * line),
          division_by(chunks),
          division_by(line),
          division_by(shape.images * shape.channels),
          division_by(shape.factor * shape.factor),
          division_by(shape.factor),
          division_by(width)};
}

unsigned blocks_of(const Task& task) { return (task.items + kThreads - 1) / kThreads; }

template <class T>
void launch_formation(const Formation& shape, float padding, const void* images, void* result,
                      cudaStream_t stream) {
  const int64_t planes =
      shape.batches * shape.factor * shape.factor * shape.images * shape.channels;
  const Task task = task_of(shape, planes, shape.size, shape.size);
  launch(formation_kernel<T>, dim3(blocks_of(task) * task.chunks.divisor), dim3(kThreads),
         kRows * sizeof(Place), stream, task, padding, static_cast<const T*>(images),
         static_cast<T*>(result));
}

template <class T>
void launch_adjoint(const Formation& shape, const void* gradient, void* images,
                    cudaStream_t stream) {
  const int64_t planes = shape.batches * shape.images * shape.channels;
  const Task task = task_of(shape, planes, shape.width, cell_side(shape.height, shape.factor));
  launch(adjoint_kernel<T>, dim3(blocks_of(task) * task.chunks.divisor * task.by_factor.divisor),
         dim3(kThreads), 0, stream, task, static_cast<const T*>(gradient), static_cast<T*>(images));
}

}  // namespace

void multi_formation_cuda(const View& images, int64_t factor, float padding, const View& result,
                          const Launch& where) {
  const DeviceGuard guard(where.device);
  const Formation shape = formation_of(images, factor, result);
  switch (shape.type) {
    case Dtype::float16:
      return launch_formation<Half>(shape, padding, images.data, result.data, where.stream);
    case Dtype::bfloat16:
      return launch_formation<BFloat16>(shape, padding, images.data, result.data, where.stream);
    default:
      return launch_formation<float>(shape, padding, images.data, result.data, where.stream);
  }
}

void multi_formation_backward_cuda(const View& gradient, int64_t factor, const View& images,
                                   const Launch& where) {
  const DeviceGuard guard(where.device);
  const Formation shape = formation_of(images, factor, gradient);
  switch (shape.type) {
    case Dtype::float16:
      return launch_adjoint<Half>(shape, gradient.data, images.data, where.stream);
    case Dtype::bfloat16:
      return launch_adjoint<BFloat16>(shape, gradient.data, images.data, where.stream);
    default:
      return launch_adjoint<float>(shape, gradient.data, images.data, where.stream);
  }
}

}  // namespace pydream
