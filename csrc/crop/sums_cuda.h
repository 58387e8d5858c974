// The sums of crop_cuda.cu: the bytes of source rows down the taps of each row of a patch, then
// across.
//
// The bytes come to shared memory by asynchronous copies. A thread sums four columns of bytes, for
// two rows of the patch at a time: both need most of the same source rows, which are converted once
// for them. The sums stay in shared memory. Then a thread sums a pixel of one row; the lanes of a
// warp take 8 rows by 4 pixels, whose values are in different banks.
#pragma once

#include "common/matrix.h"
#include "common/threads.h"
#include "crop/crop.h"
#include "crop/rows_cuda.h"

namespace pydream {

constexpr int kRows = 8;
constexpr int kColumns = 128;
constexpr int kPixelsPerThread = kRows * kColumns / kThreads;
constexpr int kTile = 4 * kThreads;
constexpr int kParts = kTile / kThreads;
// As many as let three blocks fit on a multiprocessor of 227 KiB. Boxes of up to 3.8 times as many
// rows as the patch take one round.
constexpr int kSourceRows = 36;

// The taps of one axis around the centre of an output pixel; weights are scaled by `norm`.
struct Axis {
  PixelTaps taps;
  float norm;
};

__device__ inline Axis axis_of(const Resampling& resampling, int64_t index) {
  const PixelTaps taps = pixel_taps(resampling, index);
  float sum = 0.0f;
  for (int32_t tap = 0; tap < taps.count; ++tap) sum += tap_weight(resampling, taps, tap);
  return {taps, 1.0f / sum};
}

// The source of one block, from the box's first pixel on, and the first and the last byte of the
// image.
struct Source {
  const uint8_t* corner;
  const uint8_t* begin;
  const uint8_t* end;
  int64_t row_stride;

  __device__ const uint8_t* at(int64_t row, int64_t column) const {
    return corner + row * row_stride + column;
  }
};

// The part of the patch that one block makes, and its place on the canvas.
struct Part {
  int top, left, rows, columns;
};

// The weights of a source row in two rows of the patch.
struct alignas(8) Pair {
  float row[2];
};

struct Shared {
  // Bytes of source rows, each from a multiple of 16 bytes in device memory on; at the end, rows of
  // the canvas.
  alignas(kPackBytes) uint8_t source[kSourceRows][kTile + kPackBytes];
  float columns[kRows][kTile + 1];  // vertical sums; rows start in different banks
  Pair weights[kRows / 2][kSourceRows];
  Axis rows[kRows];
  Axis across[kColumns];
  // The same for all threads, and not worth a register of each.
  Source origin;
  Resampling vertical, horizontal;
  Part part;
  int32_t begin, end;  // of the source columns
};

__device__ inline int lead_of_row(const uint8_t* from) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(from) % kPackBytes);
}

// Starts to copy `bytes` bytes of each of `rows` source rows. Packs of 16 bytes that are not all
// in the image are copied byte by byte.
__device__ inline void stage_source(int64_t row, int rows, int64_t column, int bytes,
                                    Shared& shared) {
  const Source source = shared.origin;
  for (int each = static_cast<int>(threadIdx.x) / 32; each < rows; each += kWarps) {
    const uint8_t* from = source.at(row + each, column);
    const int lead = lead_of_row(from);
    for (int at = static_cast<int>(threadIdx.x) % 32 * kPackBytes; at < lead + bytes;
         at += 32 * kPackBytes) {
      const uint8_t* pack = from - lead + at;
      uint8_t* to = shared.source[each] + at;
      if (pack >= source.begin && pack + kPackBytes <= source.end) {
        copy_async(to, pack);
      } else {
#pragma unroll 1
        for (int byte = 0; byte < kPackBytes; ++byte) {
          if (pack + byte >= from && pack + byte < from + bytes) to[byte] = pack[byte];
        }
      }
    }
  }
  commit_copies();
}

// The weights of kSourceRows source rows from `row` on, 0 where a row of the patch has no tap.
__device__ inline void find_weights(int32_t row, Shared& shared) {
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x); at < kRows * kSourceRows; at += kThreads) {
    const Axis& axis = shared.rows[at / kSourceRows];
    const int32_t tap = row + at % kSourceRows - axis.taps.first;
    const bool inside = tap >= 0 && tap < axis.taps.count;
    shared.weights[at / kSourceRows / 2][at % kSourceRows].row[at / kSourceRows % 2] =
        inside ? tap_weight(shared.vertical, axis.taps, tap) * axis.norm : 0.0f;
  }
}

// Adds `count` staged source rows from `row` on to the sums of each row, in their order; the sums
// begin with 0 if `fresh`. A thread has kUsed columns of bytes, kThreads apart.
template <int kUsed>
__device__ inline void add_rows(int32_t row, int count, int64_t column, bool fresh,
                                Shared& shared) {
  const unsigned first = static_cast<unsigned>(lead_of_row(shared.origin.at(row, column)));
  const unsigned more = static_cast<unsigned>(shared.origin.row_stride) % kPackBytes;
#pragma unroll 1
  for (int pair = 0; pair < kRows / 2; ++pair) {
    float* columns[2] = {shared.columns[2 * pair] + threadIdx.x,
                         shared.columns[2 * pair + 1] + threadIdx.x};
    float sums[2][kUsed];
#pragma unroll
    for (int each = 0; each < 2 * kUsed; ++each) {
      sums[each % 2][each / 2] = fresh ? 0.0f : columns[each % 2][each / 2 * kThreads];
    }
    const PixelTaps& even = shared.rows[2 * pair].taps;
    const PixelTaps& odd = shared.rows[2 * pair + 1].taps;
    const int from = max(even.first, row) - row;
    const int to = min(max(even.first + even.count, odd.first + odd.count) - row, count);
#pragma unroll 2
    for (int each = from; each < to; ++each) {
      const unsigned lead = (first + static_cast<unsigned>(each) * more) % kPackBytes;
      const uint8_t* bytes = shared.source[each] + lead + threadIdx.x;
      const Pair weights = shared.weights[pair][each];
#pragma unroll
      for (int part = 0; part < kUsed; ++part) {
        const float value = static_cast<float>(bytes[part * kThreads]);
        sums[0][part] += weights.row[0] * value;
        sums[1][part] += weights.row[1] * value;
      }
    }
#pragma unroll
    for (int each = 0; each < 2 * kUsed; ++each) {
      columns[each % 2][each / 2 * kThreads] = sums[each % 2][each / 2];
    }
  }
}

// Sums `bytes` columns of bytes, from `column` on, down the taps of each row.
__device__ inline void sum_down(int64_t column, int bytes, Shared& shared) {
  const PixelTaps& last = shared.rows[shared.part.rows - 1].taps;
  const int32_t begin = shared.rows[0].taps.first, end = last.first + last.count;
  for (int32_t row = begin; row < end; row += kSourceRows) {
    const int count = min(kSourceRows, end - row);
    __syncthreads();  // the last round, and the last tile, have been read
    stage_source(row, count, column, bytes, shared);
    find_weights(row, shared);
    await_copies<0>();
    __syncthreads();
    if (bytes <= kTile / 2) {
      add_rows<kParts / 2>(row, count, column, row == begin, shared);
    } else {
      add_rows<kParts>(row, count, column, row == begin, shared);
    }
  }
  __syncthreads();
}

// Adds the pixels of a tile, kPixels from `begin` on, to the sums of a thread's pixels: those of
// row threadIdx.x % kRows, and every 32nd column from threadIdx.x / kRows on.
template <int kChannels>
__device__ inline void sum_across(int32_t begin, const Shared& shared,
                                  float (&sums)[kPixelsPerThread][kChannels]) {
  constexpr int kPixels = kTile / kChannels;
  const float* values = shared.columns[threadIdx.x % kRows];
#pragma unroll
  for (int each = 0; each < kPixelsPerThread; ++each) {
    const int x = static_cast<int>(threadIdx.x) / kRows + each * (kThreads / kRows);
    if (x >= shared.part.columns) break;
    const Axis across = shared.across[x];
    const int32_t from = max(across.taps.first, begin);
    const int32_t to = min(across.taps.first + across.taps.count, begin + kPixels);
#pragma unroll 2
    for (int32_t pixel = from; pixel < to; ++pixel) {
      const int32_t tap = pixel - across.taps.first;
      const float weight = tap_weight(shared.horizontal, across.taps, tap) * across.norm;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        sums[each][c] += weight * values[(pixel - begin) * kChannels + c];
      }
    }
  }
}

}  // namespace pydream
