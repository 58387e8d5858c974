// Matched cells on CUDA, from anchors that crop_resize has made.
//
// Shapes: anchors [P, C, H, W], cells [P, C, n, m]; rows down first, then columns.
// Presumes: below 2^31 columns in all, a side below 2^31. Limit: bandwidth, the anchors once and
// half of them three times: what is solved down is transposed, so that the way across reads and
// writes neighbouring values too.
//
// A thread solves a column from top to bottom and back. The factors of the tridiagonal matrix are
// those of all columns; one small block for each axis computes them first.
#include <algorithm>
#include <stdexcept>

#include "cells/cells_cuda.h"
#include "common/launch.h"
#include "common/threads.h"

namespace pydream {
namespace {

// One axis of all planes.
struct Axis {
  int64_t from;
  int64_t inside;  // n <= from
  int64_t to;
  // [n, 4]: U^T U at (q, q) and at (q, q - 1); of its L D L^T, L[q, q - 1] and 1 / D[q, q].
  double* factors;
};

// The part of pixel q in pixel i of the enlargement, which it must have one in.
__device__ float part_of(const Between& place, int64_t q) {
  return place.low == q ? 1.0f - place.weight : place.weight;
}

__global__ void __launch_bounds__(kThreads) factor_kernel(const Axis rows, const Axis columns) {
  const Axis axis = blockIdx.x == 0 ? rows : columns;
  for (int64_t q = threadIdx.x; q < axis.inside; q += kThreads) {
    double own = 0.0, with_last = 0.0;
    const int64_t end = first_from(q + 1, axis.from, axis.to);
    for (int64_t i = first_from(q - 1, axis.from, axis.to); i < end; ++i) {
      const Between place = between(i, axis.from, axis.to);
      const double part = part_of(place, q);
      own += part * part;
      if (place.low == q - 1) with_last += part * static_cast<double>(1.0f - place.weight);
    }
    axis.factors[4 * q] = own;
    axis.factors[4 * q + 1] = with_last;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double pivot = 1.0;
  for (int64_t q = 0; q < axis.inside; ++q) {
    double* factors = axis.factors + 4 * q;
    factors[2] = q == 0 ? 0.0 : factors[1] / pivot;
    pivot = factors[0] - factors[2] * factors[1];
    factors[3] = 1.0 / pivot;
  }
}

// in [planes, axis.to, width] to out [planes, axis.inside, width].
__global__ void __launch_bounds__(kThreads)
    solve_kernel(const Axis axis, int64_t planes, int64_t width, const float* in, float* out) {
  const int64_t item = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (item >= planes * width) return;
  const float* column = in + item / width * axis.to * width + item % width;
  float* result = out + item / width * axis.inside * width + item % width;
  float last = 0.0f;
  for (int64_t q = 0; q < axis.inside; ++q) {
    float sum = -static_cast<float>(axis.factors[4 * q + 2]) * last;
    const int64_t end = first_from(q + 1, axis.from, axis.to);
    for (int64_t i = first_from(q - 1, axis.from, axis.to); i < end; ++i) {
      sum += part_of(between(i, axis.from, axis.to), q) * column[i * width];
    }
    result[q * width] = last = sum;
  }
  float next = 0.0f, upper = 0.0f;
  for (int64_t q = axis.inside - 1; q >= 0; --q) {
    const double* factors = axis.factors + 4 * q;
    next = result[q * width] * static_cast<float>(factors[3]) - upper * next;
    result[q * width] = next;
    upper = static_cast<float>(factors[2]);
  }
}

constexpr int kTile = 32;  // of a transpose, rows and columns

// in [planes, height, width] to out [planes, width, height]; a tile in each block.
template <class Write>
__device__ void turn(int64_t height, int64_t width, const float* in, Write write) {
  float* tile = shared_memory<float>();  // [kTile, kTile + 1]
  const int64_t tiles = (width + kTile - 1) / kTile;
  const int64_t top = blockIdx.y / tiles * kTile, left = blockIdx.y % tiles * kTile;
  const int64_t plane = blockIdx.x * height * width;
  const int lane = static_cast<int>(threadIdx.x) % kTile;
  const int first = static_cast<int>(threadIdx.x) / kTile;
  for (int row = first; row < kTile; row += kThreads / kTile) {
    if (top + row < height && left + lane < width) {
      tile[row * (kTile + 1) + lane] = in[plane + (top + row) * width + left + lane];
    }
  }
  __syncthreads();
  for (int row = first; row < kTile; row += kThreads / kTile) {
    if (left + row < width && top + lane < height) {
      write(plane + (left + row) * height + top + lane, tile[lane * (kTile + 1) + row]);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    turn_kernel(int64_t height, int64_t width, const float* in, float* out) {
  turn(height, width, in, [out](int64_t at, float value) { out[at] = value; });
}

template <class Value>
__device__ void put(float value, Value* to) {
  narrow(value, to);
}
__device__ void put(float value, uint8_t* to) { *to = static_cast<uint8_t>(255.0f * value + 0.5f); }

// Turns cells back, and makes values of [0, 1], or bytes, of them.
template <class Value>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(int64_t height, int64_t width, const float* in, Value* out) {
  turn(height, width, in,
       [out](int64_t at, float value) { put(fminf(fmaxf(value + 0.5f, 0.0f), 1.0f), out + at); });
}

unsigned blocks_of(int64_t items, int64_t each) {
  return static_cast<unsigned>((items + each - 1) / each);
}

dim3 tiles_of(int64_t planes, int64_t height, int64_t width) {
  return dim3(static_cast<unsigned>(planes), blocks_of(height, kTile) * blocks_of(width, kTile));
}

template <class Value>
void finish(int64_t planes, int64_t height, int64_t width, const float* in, const View& out,
            cudaStream_t stream) {
  launch(finish_kernel<Value>, tiles_of(planes, height, width), dim3(kThreads),
         kTile * (kTile + 1) * sizeof(float), stream, height, width, in, out.as<Value>());
}

}  // namespace

void match_cells_cuda(const View& anchors, std::pair<int64_t, int64_t> size, const View& half,
                      const View& turned, const View& factors, const View& out,
                      const Launch& where) {
  const int64_t planes = out.shape[0] * out.shape[1];
  const int64_t height = anchors.shape[2], width = anchors.shape[3];
  constexpr int64_t kMost = 0x7FFFFFFF;
  constexpr int64_t kMostTiles = 65535;
  if (planes * std::max(width, height) > kMost ||
      int64_t{blocks_of(height, kTile)} * blocks_of(width, kTile) > kMostTiles) {
    throw std::invalid_argument("matched_cells makes at most 2^31 columns of 8160 pixels at once");
  }
  const DeviceGuard guard(where.device);
  double* factor = factors.as<double>();
  const Axis rows = {size.first, out.shape[2], height, factor};
  const Axis columns = {size.second, out.shape[3], width, factor + 4 * factors.shape[1]};
  float* anchor = anchors.as<float>();
  const dim3 threads(kThreads);
  const cudaStream_t stream = where.stream;
  launch(factor_kernel, dim3(2), threads, 0, stream, rows, columns);
  launch(solve_kernel, dim3(blocks_of(planes * width, kThreads)), threads, 0, stream, rows, planes,
         width, static_cast<const float*>(anchor), half.as<float>());
  launch(turn_kernel, tiles_of(planes, rows.inside, width), threads,
         kTile * (kTile + 1) * sizeof(float), stream, rows.inside, width, half.as<const float>(),
         turned.as<float>());
  // Cells lie in the memory of the anchors, which have been read: [planes, n columns, n rows].
  launch(solve_kernel, dim3(blocks_of(planes * rows.inside, kThreads)), threads, 0, stream, columns,
         planes, rows.inside, turned.as<const float>(), anchor);
  switch (out.dtype) {
    case Dtype::float16:
      return finish<Half>(planes, columns.inside, rows.inside, anchor, out, stream);
    case Dtype::bfloat16:
      return finish<BFloat16>(planes, columns.inside, rows.inside, anchor, out, stream);
    case Dtype::uint8:
      return finish<uint8_t>(planes, columns.inside, rows.inside, anchor, out, stream);
    default:
      return finish<float>(planes, columns.inside, rows.inside, anchor, out, stream);
  }
}

}  // namespace pydream
