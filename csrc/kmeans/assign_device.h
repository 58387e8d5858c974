// For the kernels that search every sample's nearest centre: pieces of samples and centres in
// shared memory.
#pragma once

#include <algorithm>

#include "common/matrix.h"
#include "kmeans/kmeans_device.h"

namespace pydream {

constexpr int kCentres = 128;                   // in a step
constexpr int kRowTiles = 4, kColumnTiles = 4;  // of 16 x 8, of a warp: 64 samples by 32 centres

using Sums = float[kRowTiles][kColumnTiles][4];

// A block takes kRows samples of a tile: all, or half of them, so that few tiles keep more
// multiprocessors busy. Four warps share 64 samples.
template <int kRows>
constexpr int kBlockThreads = kRows * 2;

template <int kRows>
__device__ TileRows rows_of_block(const KmeansOnDevice& k) {
  constexpr int kBlocks = static_cast<int>(kTileRows) / kRows;  // of a tile
  TileRows rows = rows_of(k, blockIdx.x / kBlocks);
  rows.begin += blockIdx.x % kBlocks * kRows;
  rows.end = min(rows.begin + kRows, rows.end);
  return rows;
}

// Whether tiles are so few that blocks take halves of them: two blocks fit a multiprocessor.
inline bool in_halves(const KmeansOnDevice& k) { return k.tiles < 2 * multiprocessors(); }

// A word of a row of samples; 0 past its end.
__device__ inline uint32_t word_of(const float* row, int dim, int word) {
  return word < dim ? __float_as_uint(row[word]) : 0u;
}

template <class T>
__device__ uint32_t word_of(const T* row, int dim, int word) {
  const uint32_t low = 2 * word < dim ? row[2 * word].bits : 0u;
  const uint32_t high = 2 * word + 1 < dim ? row[2 * word + 1].bits : 0u;
  return high << 16 | low;
}

// Loads piece number `part` of the samples: kWords words of kRows rows, kStride apart. Rows past
// the last are copies of it. What is past the end of a row does not matter, because centres are 0
// there.
template <int kRows, int kWords, int kStride, class T>
__device__ void stage_samples(const KmeansOnDevice& k, const TileRows& rows, int part,
                              uint32_t* piece) {
  constexpr int kPacks = kWords / 4;  // of 16 bytes
  constexpr int kRowsAtOnce = kBlockThreads<kRows> / kPacks;
  const T* samples = static_cast<const T*>(k.x.data) + rows.begin * k.x.dim;
  const int dim = static_cast<int>(k.x.dim), last = static_cast<int>(rows.end - rows.begin) - 1;
  const int pack = static_cast<int>(threadIdx.x) % kPacks * 4;
  const int first = static_cast<int>(threadIdx.x) / kPacks;
  const int word = part * kWords + pack;
  uint32_t* to = piece + first * kStride + pack;
  if (dim * sizeof(T) % 16 == 0 && reinterpret_cast<uintptr_t>(samples) % 16 == 0) {
    const auto row_words = static_cast<uint32_t>(dim * sizeof(T) / 4);
    const uint32_t* from = reinterpret_cast<const uint32_t*>(samples);
    from += word < static_cast<int>(row_words) ? word : 0;
#pragma unroll
    for (int row = 0; row < kRows; row += kRowsAtOnce) {
      copy_async(to + row * kStride, from + min(first + row, last) * row_words);
    }
    return;
  }
#pragma unroll 1
  for (int row = 0; row < kRows; row += kRowsAtOnce) {
    const T* from = samples + static_cast<int64_t>(min(first + row, last)) * dim;
#pragma unroll 1
    for (int i = 0; i < 4; ++i) to[row * kStride + i] = word_of(from, dim, word + i);
  }
}

// Loads a piece of prepared centres, `words` words each, from word `word` of each; `from` is the
// first of them, and rows past the last are copies of it.
template <int kRows, int kWords, int kStride>
__device__ void stage_centres(const KmeansOnDevice& k, int64_t words, int from, int last, int word,
                              uint32_t* piece) {
  constexpr int kPacks = kWords / 4, kRowsAtOnce = kBlockThreads<kRows> / kPacks;
  const int pack = static_cast<int>(threadIdx.x) % kPacks * 4;
  const int first = static_cast<int>(threadIdx.x) / kPacks;
  const uint32_t* source = k.prepared + static_cast<int64_t>(from) * words + word + pack;
  uint32_t* to = piece + first * kStride + pack;
#pragma unroll
  for (int row = 0; row < kCentres; row += kRowsAtOnce) {
    copy_async(to + row * kStride, source + min(first + row, last) * static_cast<uint32_t>(words));
  }
}

}  // namespace pydream
