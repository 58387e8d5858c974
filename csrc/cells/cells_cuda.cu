// Matched cells on CUDA, from anchors that crop_resize has made.
//
// Shapes: anchors [P, C, H, W], cells [P, C, n, m]; rows down first, then columns.
// Presumes: below 2^31 strips in all, sides up to kMostPixels. Limit: bandwidth, the anchors once,
// and half of them (where a side is doubled) twice: what is solved down is written transposed, so
// that the way across reads and writes neighbouring values too.
//
// A block copies a strip of columns to shared memory, solves it there, a thread for each column
// from top to bottom and back, and writes it transposed. The tables of an axis, with all that
// divides, are those of all columns; one small block for each axis makes them first.
#include <algorithm>
#include <stdexcept>

#include "cells/cells_cuda.h"
#include "common/launch.h"
#include "common/threads.h"

namespace pydream {
namespace {

constexpr int kTogether = 4;  // weights that are read at once

// What there is to know of a pixel of a cell.
struct alignas(16) Entry {
  int32_t first;  // pixel of the enlargement that it contributes to
  int32_t count;  // of these
  float lower;    // U^T U = L D L^T, L[q, q - 1]; 0 for q = 0
  float inverse;  // 1 / D[q, q]
};

// One axis of all planes.
struct Axis {
  int64_t from;
  int64_t inside;  // n <= from
  int64_t to;
  int groups;       // of kTogether weights, for a pixel
  Entry* entries;   // [n]
  float4* weights;  // [n, groups], 0 where there are fewer
};

// The part of pixel q in pixel i of the enlargement, which it must have one in.
__device__ float part_of(const Between& place, int64_t q) {
  return place.low == q ? 1.0f - place.weight : place.weight;
}

// U^T U at (q, q) and at (q, q - 1).
struct Products {
  double own;
  double with_last;
};

__device__ Products products_of(const Axis& axis, int64_t q) {
  Products products = {};
  const int64_t end = first_from(q + 1, axis.from, axis.to);
  for (int64_t i = first_from(q - 1, axis.from, axis.to); i < end; ++i) {
    const Between place = between(i, axis.from, axis.to);
    const double part = part_of(place, q);
    products.own += part * part;
    if (place.low == q - 1) {
      products.with_last += part * static_cast<double>(1.0f - place.weight);
    }
  }
  return products;
}

__device__ void write_taps(const Axis& axis, int64_t q) {
  const int64_t begin = first_from(q - 1, axis.from, axis.to);
  const int64_t end = first_from(q + 1, axis.from, axis.to);
  axis.entries[q].first = static_cast<int32_t>(begin);
  axis.entries[q].count = static_cast<int32_t>(end - begin);
  float* weights = reinterpret_cast<float*>(axis.weights + q * axis.groups);
  for (int64_t i = 0; i < kTogether * axis.groups; ++i) {
    const bool within = begin + i < end;
    weights[i] = within ? part_of(between(begin + i, axis.from, axis.to), q) : 0.0f;
  }
}

__global__ void __launch_bounds__(kThreads) table_kernel(const Axis rows, const Axis columns) {
  Products* products = shared_memory<Products>();  // [kThreads]
  const Axis axis = blockIdx.x == 0 ? rows : columns;
  const int thread = static_cast<int>(threadIdx.x);
  double pivot = 1.0;
  for (int64_t first = 0; first < axis.inside; first += kThreads) {
    const int64_t q = first + thread;
    if (q < axis.inside) {
      products[thread] = products_of(axis, q);
      write_taps(axis, q);
    }
    __syncthreads();
    const int64_t here = min(axis.inside - first, static_cast<int64_t>(kThreads));
    for (int64_t i = 0; thread == 0 && i < here; ++i) {
      const double lower = first + i == 0 ? 0.0 : products[i].with_last / pivot;
      pivot = products[i].own - lower * products[i].with_last;
      axis.entries[first + i].lower = static_cast<float>(lower);
      axis.entries[first + i].inverse = static_cast<float>(1.0 / pivot);
    }
    __syncthreads();
  }
}

constexpr int kStripThreads = 128;
constexpr int kStripWarps = kStripThreads / 32;
constexpr int kWidest = 32;  // columns of a strip
constexpr int kLoads = 8;    // that a thread awaits together
constexpr int64_t kShared = 99 * 1024;
constexpr int64_t kMostPixels = 8192;  // of which strips of two columns fit

// The first weights of a pixel of a cell, with what they weigh.
struct Taps {
  Entry entry;
  float4 weight;
  float value[kTogether];
};

__device__ Taps taps_of(const Axis& axis, int q, const float* column, int step) {
  Taps taps;
  taps.entry = axis.entries[q];
  taps.weight = axis.weights[q * axis.groups];
  const float* from = column + taps.entry.first * step;
#pragma unroll
  for (int i = 0; i < kTogether; ++i) taps.value[i] = from[i * step];
  return taps;
}

__device__ void add(float& sum, const float4& weight, const float (&value)[kTogether]) {
  sum += weight.x * value[0];
  sum += weight.y * value[1];
  sum += weight.z * value[2];
  sum += weight.w * value[3];
}

// Solves a column of a strip in place: where a result is written, only weights of 0 read any more.
// What a pixel needs is read while the one before it is computed.
__device__ void solve(const Axis& axis, float* column, int step) {
  const int inside = static_cast<int>(axis.inside);
  float last = 0.0f;
  Taps next = taps_of(axis, 0, column, step);
  for (int q = 0; q < inside; ++q) {
    const Taps taps = next;
    next = taps_of(axis, min(q + 1, inside - 1), column, step);
    float sum = -taps.entry.lower * last;
    add(sum, taps.weight, taps.value);
#pragma unroll 1
    for (int i = kTogether; i < taps.entry.count; i += kTogether) {
      const float* from = column + (taps.entry.first + i) * step;
      const float value[] = {from[0], from[step], from[2 * step], from[3 * step]};
      add(sum, axis.weights[q * axis.groups + i / kTogether], value);
    }
    column[q * step] = last = sum;
  }
  float result = 0.0f, upper = 0.0f, value = last;
  Entry entry = next.entry;
  for (int q = inside - 1; q >= 0; --q) {
    const int before = max(q - 1, 0);
    const Entry entry_before = axis.entries[before];
    const float value_before = column[before * step];
    result = value * entry.inverse - upper * result;
    column[q * step] = result;
    upper = entry.lower;
    entry = entry_before;
    value = value_before;
  }
}

template <class Value>
__device__ void put(float value, Value* to) {
  narrow(value, to);
}
__device__ void put(float value, uint8_t* to) { *to = static_cast<uint8_t>(255.0f * value + 0.5f); }

// in [planes, axis.to, width] to out [planes, width, axis.inside]: what is left to be solved, or
// finished cells, as values of [0, 1] or bytes.
template <bool kFinished, class Value>
__global__ void __launch_bounds__(kStripThreads)
    solve_kernel(const Axis axis, int width, int strip, const float* in, Value* out) {
  float* pixels = shared_memory<float>();  // [axis.to + kTogether - 1, strip + 1]
  const int step = strip + 1;              // so that transposed reads meet all banks
  const unsigned strips = static_cast<unsigned>((width + strip - 1) / strip);
  const int64_t plane = blockIdx.x / strips;
  const int left = static_cast<int>(blockIdx.x % strips) * strip;
  const int columns = min(strip, width - left);
  const int thread = static_cast<int>(threadIdx.x);
  const int x = thread % strip;
  const float* from = in + plane * axis.to * width + left + x;
  const int rows = static_cast<int>(axis.to), rows_together = kStripThreads / strip;
  for (int y = thread / strip; x < columns && y < rows; y += kLoads * rows_together) {
    float loaded[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int row = y + i * rows_together;
      if (row < rows) loaded[i] = from[row * width];
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int row = y + i * rows_together;
      if (row < rows) pixels[row * step + x] = loaded[i];
    }
  }
  // Behind them, zeros for weights of 0.
  if (thread < (kTogether - 1) * step) pixels[rows * step + thread] = 0.0f;
  __syncthreads();
  // Blocks take turns, because a warp's number says which scheduler it has.
  const int solver = static_cast<int>(blockIdx.x % kStripWarps);
  if (thread / 32 == solver && thread % 32 < columns) solve(axis, pixels + thread % 32, step);
  __syncthreads();
  Value* to = out + (plane * width + left) * axis.inside;
  for (int column = thread / 32; column < columns; column += kStripWarps) {
    for (int q = thread % 32; q < axis.inside; q += 32) {
      const float value = pixels[q * step + column];
      Value* at = to + column * axis.inside + q;
      if constexpr (kFinished) {
        put(fminf(fmaxf(value + 0.5f, 0.0f), 1.0f), at);
      } else {
        *at = value;
      }
    }
  }
}

// An axis whose tables are at `memory`: at most 2 * from + to times 16 bytes.
Axis axis_of(int64_t from, int64_t inside, int64_t to, Entry* memory) {
  const int64_t most = (2 * to + from - 1) / from;  // weights of a pixel
  return {from,   inside,
          to,     static_cast<int>((most + kTogether - 1) / kTogether),
          memory, reinterpret_cast<float4*>(memory + inside)};
}

template <bool kFinished, class Value>
void launch_solve(const Axis& axis, int64_t planes, int64_t width, const float* in, Value* out,
                  cudaStream_t stream) {
  const auto bytes = [&](int strip) {
    return (axis.to + kTogether - 1) * (strip + 1) * static_cast<int64_t>(sizeof(float));
  };
  int strip = kWidest;
  while (bytes(strip) > kShared) strip /= 2;
  const int64_t blocks = planes * ((width + strip - 1) / strip);
  if (blocks > 0x7FFFFFFF) {
    throw std::invalid_argument("matched_cells makes fewer than 2^31 strips of cells at once");
  }
  launch(solve_kernel<kFinished, Value>, dim3(static_cast<unsigned>(blocks)), dim3(kStripThreads),
         static_cast<size_t>(bytes(strip)), stream, axis, static_cast<int>(width), strip, in, out);
}

}  // namespace

void match_cells_cuda(const View& anchors, std::pair<int64_t, int64_t> size, const View& turned,
                      const View& tables, const View& out, const Launch& where) {
  const int64_t planes = out.shape[0] * out.shape[1];
  const int64_t height = anchors.shape[2], width = anchors.shape[3];
  if (std::max(width, height) > kMostPixels) {
    throw std::invalid_argument("enlarged may be at most " + std::to_string(kMostPixels) +
                                " pixels a side on CUDA");
  }
  const DeviceGuard guard(where.device);
  const Axis rows = axis_of(size.first, out.shape[2], height, tables.as<Entry>());
  const Axis columns =
      axis_of(size.second, out.shape[3], width, tables.as<Entry>() + tables.shape[1]);
  const float* half = turned.as<const float>();
  const cudaStream_t stream = where.stream;
  launch(table_kernel, dim3(2), dim3(kThreads), kThreads * sizeof(Products), stream, rows, columns);
  launch_solve<false>(rows, planes, width, anchors.as<const float>(), turned.as<float>(), stream);
  const auto across = [&](auto* cells) {
    launch_solve<true>(columns, planes, rows.inside, half, cells, stream);
  };
  switch (out.dtype) {
    case Dtype::float16:
      return across(out.as<Half>());
    case Dtype::bfloat16:
      return across(out.as<BFloat16>());
    case Dtype::uint8:
      return across(out.as<uint8_t>());
    default:
      return across(out.as<float>());
  }
}

}  // namespace pydream
