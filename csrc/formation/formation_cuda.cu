// Multi-formation on CUDA, and its adjoint.
//
// Shapes: images [B, N, C, H, W], result [B, f^2 * N, C, S, S], both contiguous.
// Presumes: sides below 2^23, so that twice a side is exact in float32. Limit: bandwidth, the
// result once and the images once.
//
// A thread processes kRows rows of one column of a plane. It goes down the rows and keeps the
// values that two rows share: forward the two stretched values that it blends, which change every
// second row if a cell is doubled; backward the sums of the two pixels that contribute to a row of
// the result. One thread writes each value once, so sums have a fixed order and need no atomics.
#include <algorithm>

#include "common/launch.h"
#include "common/threads.h"
#include "formation/formation_cuda.h"

namespace pydream {
namespace {

constexpr int64_t kRows = 8;

// The rows of the result that this block makes, computed once for all of its columns.
struct RowTable {
  int32_t low[kRows];
  float weight[kRows];
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    formation_kernel(const Formation shape, int64_t planes, int64_t chunks, float padding,
                     const T* images, T* result) {
  RowTable* rows = shared_memory<RowTable>();
  const int64_t size = shape.size;
  const int64_t height = cell_side(shape.height, shape.factor);
  const int64_t width = cell_side(shape.width, shape.factor);
  const int64_t first = blockIdx.x % chunks * kRows;
  const int64_t count = min(kRows, size - first);
  if (threadIdx.x < count) {
    const Between place = between(first + threadIdx.x, height, size);
    rows->low[threadIdx.x] = static_cast<int32_t>(place.low);
    rows->weight[threadIdx.x] = place.weight;
  }
  __syncthreads();
  const int64_t item = blockIdx.x / chunks * kThreads + threadIdx.x;
  if (item >= planes * size) return;
  const int64_t plane = item / size, x = item % size;
  const Cell cell = cell_of(shape, plane);
  const Between column = between(x, width, size);
  const int64_t left = cell.left + column.low;
  const int64_t right = cell.left + min(column.low + 1, width - 1);
  const T* image = images + cell.plane * shape.height * shape.width;  // [H, W]

  // Row `row` of the cell, stretched, at this column.
  const auto stretched = [&](int64_t row) {
    const int64_t y = cell.top + min(row, height - 1);
    if (y >= shape.height) return padding;
    const T* line = image + y * shape.width;
    const float low = left < shape.width ? widen(line[left]) : padding;
    const float high = right < shape.width ? widen(line[right]) : padding;
    return low + column.weight * (high - low);
  };
  T* out = result + (plane * size + first) * size + x;
  int64_t held = rows->low[0];
  float low = stretched(held), high = stretched(held + 1);
  for (int64_t y = 0; y < count; ++y) {
    const int64_t row = rows->low[y];
    if (row != held) {
      low = row == held + 1 ? high : stretched(row);
      high = stretched(row + 1);
      held = row;
    }
    narrow(low + rows->weight[y] * (high - low), out + y * size);
  }
}

// The share of a pixel in those of the result, along one side: a tent, constant past the ends.
struct Tent {
  int64_t begin;
  int64_t end;
  float start;  // distance of `begin` from the pixel, times 2 * size
  float step;   // from one pixel of the result to the next, the same
  float whole;  // 2 * size, where a share ends
  bool level_before;
  bool level_behind;
};

__device__ Tent tent_of(int64_t pixel, int64_t side, int64_t size) {
  const int64_t begin = first_from(pixel - 1, side, size);
  const int64_t from = (2 * begin + 1) * side - size - 2 * size * pixel;
  return {begin,
          first_from(pixel + 1, side, size),
          static_cast<float>(from),
          static_cast<float>(2 * side),
          static_cast<float>(2 * size),
          pixel == 0,
          pixel == side - 1};
}

// Sum over a row of the result [S] of a pixel's share in each value times that value.
template <class T>
__device__ float shrunk(const Tent& tent, const T* line) {
  float sum = 0.0f, distance = tent.start;
  const float scale = 1.0f / tent.whole;
  for (int64_t x = tent.begin; x < tent.end; ++x, distance += tent.step) {
    const bool level = distance < 0.0f ? tent.level_before : tent.level_behind;
    // part / whole, rounded once: exactly 0 and 1 at the ends, however the compiler fuses the rest.
    const float part = tent.whole - fabsf(distance);
    const float nearly = part * scale;
    const float weight = fmaf(fmaf(-nearly, tent.whole, part), scale, nearly);
    sum += (level ? 1.0f : weight) * widen(line[x]);
  }
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    adjoint_kernel(const Formation shape, int64_t chunks, const T* gradient, T* images) {
  const int64_t size = shape.size;
  const int64_t height = cell_side(shape.height, shape.factor);
  const int64_t width = cell_side(shape.width, shape.factor);
  const int64_t chunk = blockIdx.x % (chunks * shape.factor);
  const int64_t cell_row = chunk / chunks;
  const int64_t first = chunk % chunks * kRows;  // row of the cell
  const int64_t top = cell_row * height;
  const int64_t last = min(min(first + kRows, height), shape.height - top);
  const int64_t planes = shape.batches * shape.images * shape.channels;
  const int64_t item = blockIdx.x / (chunks * shape.factor) * kThreads + threadIdx.x;
  if (first >= last || item >= planes * shape.width) return;
  const int64_t plane = item / shape.width, x = item % shape.width;
  const int64_t own = shape.images * shape.channels;
  const int64_t cell = cell_row * shape.factor + x / width;
  const int64_t from = (plane / own * shape.factor * shape.factor + cell) * own + plane % own;
  const Tent columns = tent_of(x % width, width, size);
  T* out = images + (plane * shape.height + top) * shape.width + x;

  // Sums of rows q and q + 1 of the cell; `next` is the end of q, in rows of the result times 2 *
  // size. The block above also reads the rows before the first, and writes them.
  int64_t q = max(first - 1, static_cast<int64_t>(0));
  float low = 0.0f, high = 0.0f;
  const auto advance = [&] {
    if (q >= first) narrow(low, out + q * shape.width);
    low = high;
    high = 0.0f;
    ++q;
  };
  const int64_t begin = first_from(first - 1, height, size);
  const int64_t end = first_from(last, height, size);
  const float scale = 1.0f / static_cast<float>(2 * size);
  int64_t place = (2 * begin + 1) * height - size;
  const T* line = gradient + (from * size + begin) * size;
  for (int64_t y = begin; y < end; ++y, place += 2 * height, line += size) {
    const int64_t beyond = max(place, static_cast<int64_t>(0));
    while (beyond >= 2 * size * (q + 1)) advance();
    const float sum = shrunk(columns, line);
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

// Grid for a thread per column, with each column in `chunks` parts.
dim3 blocks_for(int64_t columns, int64_t chunks) {
  return dim3(static_cast<unsigned>((columns + kThreads - 1) / kThreads * chunks));
}

template <class T>
void launch_formation(const Formation& shape, float padding, const void* images, void* result,
                      cudaStream_t stream) {
  const int64_t planes =
      shape.batches * shape.factor * shape.factor * shape.images * shape.channels;
  const int64_t chunks = (shape.size + kRows - 1) / kRows;
  launch(formation_kernel<T>, blocks_for(planes * shape.size, chunks), dim3(kThreads),
         sizeof(RowTable), stream, shape, planes, chunks, padding, static_cast<const T*>(images),
         static_cast<T*>(result));
}

template <class T>
void launch_adjoint(const Formation& shape, const void* gradient, void* images,
                    cudaStream_t stream) {
  const int64_t columns = shape.batches * shape.images * shape.channels * shape.width;
  const int64_t chunks = (cell_side(shape.height, shape.factor) + kRows - 1) / kRows;
  launch(adjoint_kernel<T>, blocks_for(columns, chunks * shape.factor), dim3(kThreads), 0, stream,
         shape, chunks, static_cast<const T*>(gradient), static_cast<T*>(images));
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
