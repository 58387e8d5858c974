// The nearest centre of every sample, on tensor cores, without a matrix of distances.
//
// Shapes: samples [T, D], prepared centres [C, words], nearest [T]; a block processes 128 samples
// of one problem and its centres 128 at a time, 32 words of each row at a time.
// Presumes: rows of samples that are a multiple of 16 bytes and aligned to it, for asynchronous
// copies; other rows are copied word by word. Any D. If all words of the samples and two pieces of
// the centres fit in 99 KiB (96 words: D = 96 of float32 or 192 of 16 bits), the samples are read
// once; otherwise they are read again for every 128 centres, from the second-level cache.
// Limit: the larger of 2 * N * k * D operations (times 3 in float32, times 2 in 16 bits, unless
// `fast`) at the rate of the tensor cores, and one read of the samples.
//
// A float32 value is split into two tf32 values, high and low, and the product of the low parts is
// dropped: an error of 2^-21 of the product. 16-bit samples are exact in tf32. Centres are taken
// relative to a point near the samples, so that the compared values are small if the samples are
// close together (kmeans_kernel.h has the formula). Unless `fast`, the second smallest score is
// kept, too: if the two are closer than their rounding, the sample is marked, and distances decide
// (move_cuda.cu).
#include <type_traits>

#include "common/host_device.h"
#include "common/matrix.h"
#include "common/threads.h"
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

constexpr int kCentres = 128;        // in a step
constexpr int kWords = 32;           // of a row, in a step
constexpr int kStride = kWords + 4;  // rows start in different banks
constexpr int kPiece = kTileRows * kStride;
constexpr int kMostResident = 3;                // pieces of the samples that stay in shared memory
constexpr int kRowTiles = 4, kColumnTiles = 4;  // of 16 x 8, of a warp

// A word of a row of samples; 0 past its end.
template <class T, class Format>
__device__ uint32_t word_of(const T* row, int64_t dim, int64_t word) {
  if constexpr (std::is_same_v<Format, Tf32>) {
    return word < dim ? __float_as_uint(widen(row[word])) : 0u;
  } else {
    const uint32_t low = 2 * word < dim ? row[2 * word].bits : 0u;
    const uint32_t high = 2 * word + 1 < dim ? row[2 * word + 1].bits : 0u;
    return high << 16 | low;
  }
}

// Loads a piece of the samples: 32 words of 128 rows. Rows past the last are copies of it.
template <class T, class Format>
__device__ void stage_samples(const KmeansOnDevice& k, const TileRows& rows, int64_t first_word,
                              uint32_t* piece) {
  // Words in shared memory equal those in device memory, except for 16-bit samples, which are
  // widened.
  constexpr bool kSame = std::is_same_v<Format, Tf32> == (sizeof(T) == 4);
  constexpr int kPacks = kWords / 4;
  const T* samples = static_cast<const T*>(k.x.data);
  const int64_t dim = k.x.dim;
  const bool aligned =
      kSame && dim * sizeof(T) % 16 == 0 && reinterpret_cast<uintptr_t>(samples) % 16 == 0;
  const int64_t row_words = dim * static_cast<int64_t>(sizeof(T)) / 4;
  for (int at = static_cast<int>(threadIdx.x); at < kTileRows * kPacks; at += kThreads) {
    const int place = at / kPacks;
    const int64_t row = min(rows.begin + place, rows.end - 1);
    const int64_t word = first_word + at % kPacks * 4;
    uint32_t* to = piece + place * kStride + at % kPacks * 4;
    const T* from = samples + row * dim;
    if (aligned && word < row_words) {
      copy_async(to, reinterpret_cast<const uint32_t*>(from) + word);
    } else {
      for (int i = 0; i < 4; ++i) to[i] = word_of<T, Format>(from, dim, word + i);
    }
  }
}

__device__ void stage_centres(const KmeansOnDevice& k, int64_t first, int64_t last,
                              int64_t first_word, uint32_t* piece) {
  constexpr int kPacks = kWords / 4;
  for (int at = static_cast<int>(threadIdx.x); at < kCentres * kPacks; at += kThreads) {
    const int place = at / kPacks;
    const int64_t centre = min(first + place, last);
    const int64_t word = first_word + at % kPacks * 4;
    copy_async(piece + place * kStride + at % kPacks * 4, k.prepared + centre * k.padded + word);
  }
}

// The high part of a word, and with kSplit the low part.
template <bool kSplit>
__device__ uint32_t split(uint32_t word, uint32_t* low) {
  const uint32_t high = to_tf32(__uint_as_float(word));
  if (kSplit) *low = to_tf32(__uint_as_float(word) - __uint_as_float(high));
  return high;
}

using Sums = float[kRowTiles][kColumnTiles][4];

// Adds the products of a piece: a warp takes 64 samples by 32 centres.
template <class Format, int kTerms>
__device__ void multiply_piece(const uint32_t* samples, const uint32_t* centres, Sums& sum) {
  constexpr bool kSplits = std::is_same_v<Format, Tf32>;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  const uint32_t* x = samples + (warp / 4 * 64 + g) * kStride + t;
  const uint32_t* c = centres + (warp % 4 * 32 + g) * kStride + t;
#pragma unroll
  for (int step = 0; step < kWords; step += 8) {
    uint32_t b[kColumnTiles][2], b_low[kColumnTiles][2];
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t word = c[j * 8 * kStride + step + i * 4];
        b[j][i] = kSplits ? split<(kTerms > 1)>(word, &b_low[j][i]) : word;
      }
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      uint32_t a[4], a_low[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t word = x[(r * 16 + i % 2 * 8) * kStride + step + i / 2 * 4];
        a[i] = kSplits ? split<(kTerms > 2)>(word, &a_low[i]) : word;
      }
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        if constexpr (kTerms > 2) Format::multiply(sum[r][j], a_low, b[j]);
        if constexpr (kTerms > 1) Format::multiply(sum[r][j], a, b_low[j]);
        Format::multiply(sum[r][j], a, b[j]);
      }
    }
  }
}

// Smallest and second smallest score so far, of the 8 samples for which a thread has sums.
struct Best {
  float score[kRowTiles * 2];
  float second[kRowTiles * 2];
  int32_t centre[kRowTiles * 2];
};

// Centres of a problem, counted from 0; `first` is the first one of the step.
template <bool kExact>
__device__ void take_scores(const KmeansOnDevice& k, int64_t first_centre, int64_t first,
                            int64_t count, Sums& sum, Best& best) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int64_t centre = first + warp % 4 * 32 + j * 8 + lane % 4 * 2 + odd;
      const float bias = centre < count ? k.bias[first_centre + centre] : kInfinity;
#pragma unroll
      for (int row = 0; row < kRowTiles * 2; ++row) {
        float& product = sum[row / 2][j][row % 2 * 2 + odd];
        const float score = bias - product;
        if (kExact) best.second[row] = fminf(best.second[row], fmaxf(score, best.score[row]));
        if (score < best.score[row]) {
          best.score[row] = score;
          best.centre[row] = static_cast<int32_t>(centre);
        }
        product = 0.0f;
      }
    }
  }
}

// Smallest and second smallest score of a sample, over some of the centres.
struct Least {
  float score, second;
  int32_t centre;
};

__device__ Least least_of(const Least& a, const Least& b) {
  const bool first = a.score < b.score || (a.score == b.score && a.centre < b.centre);
  const float second = fminf(fmaxf(a.score, b.score), fminf(a.second, b.second));
  return {first ? a.score : b.score, second, first ? a.centre : b.centre};
}

// Upper bound of the distances between a problem's centres and the origin; by a block, to all
// threads.
__device__ float farthest_reach(const KmeansOnDevice& k, int64_t first_centre, int64_t count,
                                float* shared) {
  float most = 0.0f;
  for (int64_t centre = threadIdx.x; centre < count; centre += kThreads) {
    most = fmaxf(most, k.reach[first_centre + centre]);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, distance));
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) most = fmaxf(most, shared[warp]);
  return most;
}

// Twice the error bound of a score: of products |x| * reach, added in 3 * D / 8 steps of tensor
// cores that truncate below 2^-23, of the 2^-20 of their parts, and of biases.
__device__ float score_margin(const KmeansOnDevice& k, int64_t problem, int64_t row, float reach) {
  const float slack = static_cast<float>(k.x.dim + 72) * 0x1p-24f;
  const float origin = k.origin_length[problem];
  return 2.0f * slack * reach * (sqrtf(k.length[row]) + 2.0f * origin + reach);
}

// The smallest score of every sample, over the threads that share its sums.
template <bool kExact>
__device__ void write_nearest(const KmeansOnDevice& k, const TileRows& rows, const Best& best,
                              float reach, Least* least) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int row = 0; row < kRowTiles * 2; ++row) {
    Least here = {best.score[row], best.second[row], best.centre[row]};
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      const float score = __shfl_xor_sync(kAllLanes, here.score, distance);
      const float second = kExact ? __shfl_xor_sync(kAllLanes, here.second, distance) : kInfinity;
      const int32_t centre = __shfl_xor_sync(kAllLanes, here.centre, distance);
      here = least_of(here, {score, second, centre});
    }
    const int place = warp / 4 * 64 + row / 2 * 16 + row % 2 * 8 + lane / 4;
    if (lane % 4 == 0) least[warp % 4 * kTileRows + place] = here;
  }
  __syncthreads();
  const int place = static_cast<int>(threadIdx.x);
  if (place >= kTileRows || rows.begin + place >= rows.end) return;
  Least all = least[place];
  for (int part = 1; part < 4; ++part) all = least_of(all, least[part * kTileRows + place]);
  const int64_t row = rows.begin + place;
  const bool sure = !kExact || all.second - all.score > score_margin(k, rows.problem, row, reach);
  k.next[row] = sure ? all.centre : ~all.centre;
}

template <class T, class Format, int kTerms>
__global__ void __launch_bounds__(kThreads) assign_kernel(const KmeansOnDevice k, bool resident) {
  constexpr bool kExact = kTerms > 1;
  const TileRows rows = rows_of(k, blockIdx.x);
  if (k.done[rows.problem]) return;
  const int64_t parts = k.padded / kWords;
  const int64_t pieces = resident ? parts : 2;
  uint32_t* samples = shared_memory<uint32_t>();  // [pieces, 128, kStride]
  uint32_t* centres = samples + pieces * kPiece;  // [2, 128, kStride]
  const int64_t first_centre = k.table[rows.problem].first_centre;
  const int64_t count = k.table[rows.problem + 1].first_centre - first_centre;
  const int64_t steps = (count + kCentres - 1) / kCentres * parts;
  const auto stage = [&](int64_t step) {
    const int64_t part = step % parts;
    if (!resident || step < parts) {
      stage_samples<T, Format>(k, rows, part * kWords,
                               samples + (resident ? part : step % 2) * kPiece);
    }
    const int64_t first = first_centre + step / parts * kCentres;
    stage_centres(k, first, first_centre + count - 1, part * kWords, centres + step % 2 * kPiece);
    commit_copies();
  };
  Sums sum = {};
  Best best;
#pragma unroll
  for (int row = 0; row < kRowTiles * 2; ++row) {
    best.score[row] = best.second[row] = kInfinity;
    best.centre[row] = 0;
  }
  stage(0);
  for (int64_t step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      stage(step + 1);
      await_copies<1>();
    } else {
      await_copies<0>();
    }
    __syncthreads();
    const int64_t place = resident ? step % parts : step % 2;
    multiply_piece<Format, kTerms>(samples + place * kPiece, centres + step % 2 * kPiece, sum);
    if (step % parts == parts - 1) {
      take_scores<kExact>(k, first_centre, step / parts * kCentres, count, sum, best);
    }
    __syncthreads();  // before the pieces of the step after next arrive
  }
  auto* least = reinterpret_cast<Least*>(samples);     // [4, 128]
  float* reaches = reinterpret_cast<float*>(centres);  // [kWarps]
  const float reach = kExact ? farthest_reach(k, first_centre, count, reaches) : 0.0f;
  write_nearest<kExact>(k, rows, best, reach, least);
}

template <class T, class Format, int kTerms>
void launch_assign(const KmeansOnDevice& k, cudaStream_t stream) {
  const int64_t parts = k.padded / kWords;
  const bool resident = parts <= kMostResident;
  const int64_t pieces = (resident ? parts : 2) + 2;
  launch(assign_kernel<T, Format, kTerms>, dim3(static_cast<unsigned>(k.tiles)), dim3(kThreads),
         static_cast<size_t>(pieces) * kPiece * sizeof(uint32_t), stream, k, resident);
}

}  // namespace

void assign_cuda(const KmeansOnDevice& k, CudaStream stream) {
  switch (k.x.type) {
    case Dtype::float16:
      return k.fast ? launch_assign<Half, Fp16, 1>(k, stream)
                    : launch_assign<Half, Tf32, 2>(k, stream);
    case Dtype::bfloat16:
      return k.fast ? launch_assign<BFloat16, Bf16, 1>(k, stream)
                    : launch_assign<BFloat16, Tf32, 2>(k, stream);
    default:
      return k.fast ? launch_assign<float, Tf32, 1>(k, stream)
                    : launch_assign<float, Tf32, 3>(k, stream);
  }
}

}  // namespace pydream
