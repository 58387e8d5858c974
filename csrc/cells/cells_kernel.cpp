// Cells that match their anchors, compiled once per instruction set.
//
// Shapes: planes [enlarged height, enlarged width] of anchors in, planes [n, m] of cells out.
// Presumes: nothing; any cell no larger than its anchor. Limit: arithmetic, about 12 operations for
// each pixel of an anchor: two products on the way down, half a step of substitution there and
// back, and half of that again across.
//
// Down first, four vectors of columns at a time, so that what is eliminated stays in the
// first-level cache. Then across, for as many rows as a vector has lanes: they are transposed, so
// that a vector holds one column of them and each lane its own row.
#include <cstring>

#include "cells/cells_cpu.h"
#include "crop/vectors.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

constexpr int kTogether = 4;  // vectors that go down side by side

int64_t padded(int64_t values) { return (values + kLanes - 1) / kLanes * kLanes; }

// Solves Vectors * kLanes systems at once, one in each lane: `in` [fit.to, in_stride] to `out`
// [fit.pixels, out_stride].
template <int Vectors>
void solve(const Fit& fit, const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  Floats last[Vectors] = {};
  for (int64_t q = 0; q < fit.pixels; ++q) {
    const float* from = in + fit.first[q] * in_stride;
    const float* weights = fit.weight + q * fit.most;
    const Floats lower = splat(-fit.lower[q]);
    Floats sums[Vectors];
#pragma GCC unroll 4
    for (int k = 0; k < Vectors; ++k) sums[k] = lower * last[k];
    for (int32_t tap = 0; tap < fit.count[q]; ++tap, from += in_stride) {
      const Floats weight = splat(weights[tap]);
#pragma GCC unroll 4
      for (int k = 0; k < Vectors; ++k) sums[k] += weight * load_as<Floats>(from + k * kLanes);
    }
#pragma GCC unroll 4
    for (int k = 0; k < Vectors; ++k) {
      last[k] = sums[k];
      store(out + q * out_stride + k * kLanes, sums[k]);
    }
  }
  Floats next[Vectors] = {};
  float upper = 0.0f;
  for (int64_t q = fit.pixels - 1; q >= 0; --q) {
    float* row = out + q * out_stride;
    const Floats inverse = splat(fit.inverse[q]);
    const Floats above = splat(upper);
#pragma GCC unroll 4
    for (int k = 0; k < Vectors; ++k) {
      next[k] = load_as<Floats>(row + k * kLanes) * inverse - above * next[k];
      store(row + k * kLanes, next[k]);
    }
    upper = fit.lower[q];
  }
}

// Transposes a block of kLanes x kLanes.
inline void turn(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  Floats block[kLanes];
#pragma GCC unroll 16
  for (int row = 0; row < kLanes; ++row) block[row] = load_as<Floats>(in + row * in_stride);
  transpose(block);
#pragma GCC unroll 16
  for (int row = 0; row < kLanes; ++row) store(out + row * out_stride, block[row]);
}

// A value of [-1/2, 1/2] as Pixel has it, from [0, 1] or, as bytes, from 0 to 255.
template <class Pixel>
inline Floats finished(Floats value) {
  const Floats zero = {}, one = splat(1.0f);
  const Floats shifted = value + 0.5f;
  const Floats least = shifted > zero ? shifted : zero;
  const Floats clamped = least < one ? least : one;
  return sizeof(typename Pixel::Value) == 1 ? clamped * 255.0f : clamped;
}

// Writes `rows` rows of `length` values: source [padded length, kLanes], a lane a row.
template <class Pixel>
void store_rows(const float* source, int64_t length, int64_t rows, typename Pixel::Value* out) {
  for (int64_t at = 0; at < length; at += kLanes) {
    float block[kLanes * kLanes];
    turn(source + at * kLanes, kLanes, block, kLanes);
    const int64_t count = length - at < kLanes ? length - at : kLanes;
    for (int64_t row = 0; row < rows; ++row) {
      typename Pixel::Value values[kLanes];
      Pixel::put(values, finished<Pixel>(load_as<Floats>(block + row * kLanes)));
      std::memcpy(out + row * length + at, values, count * sizeof values[0]);
    }
  }
}

// The scratch memory: `half` [padded rows, padded anchor width], the anchor after its rows have
// been solved; `turned` [padded anchor width, kLanes], some rows of that; `cell` [padded columns,
// kLanes].
struct Parts {
  int64_t stride, half, turned, cell;

  Parts(const Fit& rows, const Fit& columns)
      : stride(padded(columns.to)),
        half(padded(rows.pixels) * stride),
        turned(stride * kLanes),
        cell(padded(columns.pixels) * kLanes) {}
};

int64_t scratch(const Fit& rows, const Fit& columns) {
  const Parts parts(rows, columns);
  return parts.half + parts.turned + parts.cell;
}

template <class Pixel>
void match_typed(const Fit& rows, const Fit& columns, const float* anchor,
                 typename Pixel::Value* out, float* memory) {
  const Parts parts(rows, columns);
  float* half = memory;
  float* turned = half + parts.half;
  float* cell = turned + parts.turned;
  int64_t x = 0;
  for (; x + kTogether * kLanes <= parts.stride; x += kTogether * kLanes) {
    solve<kTogether>(rows, anchor + x, columns.to, half + x, parts.stride);
  }
  for (; x < parts.stride; x += kLanes) {
    solve<1>(rows, anchor + x, columns.to, half + x, parts.stride);
  }
  for (int64_t row = 0; row < rows.pixels; row += kLanes) {
    for (int64_t at = 0; at < parts.stride; at += kLanes) {
      turn(half + row * parts.stride + at, parts.stride, turned + at * kLanes, kLanes);
    }
    solve<1>(columns, turned, kLanes, cell, kLanes);
    const int64_t count = rows.pixels - row < kLanes ? rows.pixels - row : kLanes;
    store_rows<Pixel>(cell, columns.pixels, count, out + row * columns.pixels);
  }
}

void match(const Fit& rows, const Fit& columns, const float* anchor, Dtype dtype, void* out,
           float* memory) {
  switch (dtype) {
    case Dtype::float16:
      return match_typed<AsFloat16>(rows, columns, anchor, static_cast<uint16_t*>(out), memory);
    case Dtype::bfloat16:
      return match_typed<AsBFloat16>(rows, columns, anchor, static_cast<uint16_t*>(out), memory);
    case Dtype::uint8:
      return match_typed<AsUint8>(rows, columns, anchor, static_cast<uint8_t*>(out), memory);
    default:
      return match_typed<AsFloat32>(rows, columns, anchor, static_cast<float*>(out), memory);
  }
}

}  // namespace

extern const CellsKernels cells_kernels_table;
const CellsKernels cells_kernels_table = {scratch, match};

}  // namespace PYDREAM_ISA
}  // namespace pydream
