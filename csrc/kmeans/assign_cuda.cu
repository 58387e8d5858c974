// The nearest centre of every sample, on tensor cores, without a matrix of distances.
//
// Shapes: samples [T, D], prepared centres [C, words], nearest [T]; a block processes 128 samples
// of one problem and its centres 128 at a time, 32 words of each row at a time.
// Presumes: rows of samples that are a multiple of 16 bytes and aligned to it, for asynchronous
// copies; other rows are copied word by word. Any D below 2^24; fewer than 2^31 centres. If all
// words of the samples and two pieces of the centres fit in 99 KiB (96 words: D = 96 of float32 or
// 192 of 16 bits), the samples are read once; otherwise they are read again for every 128 centres,
// from the second-level cache.
// Limit: the larger of 2 * N * k * D operations (times 3 in float32, times 2 in 16 bits, unless
// `fast`) at the rate of the tensor cores, and one read of the samples. At D = 128 of 16 bits and
// `fast` a warp issues 265 instructions for the 64 products of a step, by the compiler's output for
// sm_90: the 4 warps of a scheduler take 1060 cycles to issue what, by the model, its tensor core
// takes 1600 to multiply. The words that shared memory supplies take a fifth longer than that.
//
// A float32 value is split into two tf32 values, high and low, and the product of the low parts is
// dropped: an error of 2^-21 of the product. 16-bit samples are exact in tf32. Centres are taken
// relative to a point near the samples, so that the compared values are small if the samples are
// close together (kmeans_kernel.h has the formula). Sums of products start at minus the bias, so
// that the largest sum is the smallest score. Unless `fast`, the second and the third smallest
// score are kept, too: if the first two are closer than their rounding, distances to these two
// centres decide, and if the third is as close, distances to all (move_cuda.cu).
#include <type_traits>

#include "common/host_device.h"
#include "common/matrix.h"
#include "common/threads.h"
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

constexpr int kCentres = 128;                   // in a step
constexpr int kWords = 32;                      // of a row, in a step
constexpr int kStride = kWords + 4;             // rows start in different banks
constexpr int kPiece = kTileRows * kStride;     // words
constexpr int kPacks = kWords / 4;              // of 16 bytes, of a row of a piece
constexpr int kRowsAtOnce = kThreads / kPacks;  // that the block copies
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
__device__ void stage_samples(const KmeansOnDevice& k, const TileRows& rows, int part,
                              uint32_t* piece) {
  // Words in shared memory equal those in device memory, except for 16-bit samples, which are
  // widened.
  constexpr bool kSame = std::is_same_v<Format, Tf32> == (sizeof(T) == 4);
  const T* samples = static_cast<const T*>(k.x.data) + rows.begin * k.x.dim;
  const int dim = static_cast<int>(k.x.dim), last = static_cast<int>(rows.end - rows.begin) - 1;
  const bool aligned =
      kSame && dim * sizeof(T) % 16 == 0 && reinterpret_cast<uintptr_t>(samples) % 16 == 0;
  const int row_words = dim * static_cast<int>(sizeof(T)) / 4;
  const int pack = static_cast<int>(threadIdx.x) % kPacks * 4;
  const int word = part * kWords + pack;
  for (int row = static_cast<int>(threadIdx.x) / kPacks; row < kTileRows; row += kRowsAtOnce) {
    uint32_t* to = piece + row * kStride + pack;
    const T* from = samples + static_cast<int64_t>(min(row, last)) * dim;
    if (aligned && word < row_words) {
      copy_async(to, reinterpret_cast<const uint32_t*>(from) + word);
    } else {
      for (int i = 0; i < 4; ++i) to[i] = word_of<T, Format>(from, dim, word + i);
    }
  }
}

// Loads a piece of the centres; `from` is the first of them, and rows past the last are copies of
// it.
__device__ void stage_centres(const KmeansOnDevice& k, int from, int last, int part,
                              uint32_t* piece) {
  const int pack = static_cast<int>(threadIdx.x) % kPacks * 4;
  const int first = static_cast<int>(threadIdx.x) / kPacks;
  const uint32_t* word = k.prepared + from * k.padded + part * kWords + pack;
  uint32_t* to = piece + first * kStride + pack;
#pragma unroll
  for (int row = 0; row < kCentres; row += kRowsAtOnce) {
    copy_async(to + row * kStride, word + min(first + row, last) * static_cast<uint32_t>(k.padded));
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
  // Of the tiles that a lane supplies a row of: two above each other and two beside them of
  // samples, two beside each other of two groups of 8 centres.
  const uint32_t* x = samples + (warp / 4 * 64 + lane % 16) * kStride + lane / 16 * 4;
  const uint32_t* c =
      centres + (warp % 4 * 32 + lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 4;
#pragma unroll
  for (int step = 0; step < kWords; step += 8) {
    uint32_t b[kColumnTiles][2], b_low[kColumnTiles][2];
#pragma unroll
    for (int j = 0; j < kColumnTiles; j += 2) {
      uint32_t words[4];
      load_tiles(words, c + j * 8 * kStride + step);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[j + i / 2][i % 2] =
            kSplits ? split<(kTerms > 1)>(words[i], &b_low[j + i / 2][i % 2]) : words[i];
      }
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      uint32_t a[4], a_low[4];
      load_tiles(a, x + r * 16 * kStride + step);
#pragma unroll
      for (int i = 0; kSplits && i < 4; ++i) a[i] = split<(kTerms > 2)>(a[i], &a_low[i]);
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        if constexpr (kTerms > 2) Format::multiply(sum[r][j], a_low, b[j]);
        if constexpr (kTerms > 1) Format::multiply(sum[r][j], a, b_low[j]);
        Format::multiply(sum[r][j], a, b[j]);
      }
    }
  }
}

// Largest and second largest sum so far, of the 8 samples for which a thread has sums: a sum starts
// at minus the centre's bias, and is minus the score.
struct Best {
  float sum[kRowTiles * 2];
  float second[kRowTiles * 2];
  int centre[kRowTiles * 2];
};

// What the sums of a thread's 8 centres start at; `first` is the first centre of the step, counted
// from the problem's.
struct Starts {
  float value[kColumnTiles][2];
};

__device__ Starts load_starts(const KmeansOnDevice& k, int first_centre, int first, int count) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int own = first + warp % 4 * 32 + lane % 4 * 2;
  Starts starts;
#pragma unroll
  for (int at = 0; at < kColumnTiles * 2; ++at) {
    const int centre = own + at / 2 * 8 + at % 2;
    starts.value[at / 2][at % 2] = centre < count ? -k.bias[first_centre + centre] : -kInfinity;
  }
  return starts;
}

__device__ void start_sums(const Starts& starts, Sums& sum) {
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[r][j][i] = starts.value[j][i % 2];
    }
  }
}

template <bool kExact>
__device__ void take_sums(int first, const Sums& sum, Best& best) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int own = first + warp % 4 * 32 + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int centre = own + j * 8 + odd;
#pragma unroll
      for (int row = 0; row < kRowTiles * 2; ++row) {
        const float value = sum[row / 2][j][row % 2 * 2 + odd];
        if (kExact) best.second[row] = fmaxf(best.second[row], fminf(value, best.sum[row]));
        if (value > best.sum[row]) {
          best.sum[row] = value;
          best.centre[row] = centre;
        }
      }
    }
  }
}

// The three smallest scores of a sample, over some of the centres: of the first its centre, of the
// second too, or -1 if it is not known. A thread knows two scores, and the second bounds the third.
struct Least {
  float score, second, third;
  int32_t centre, rival;
};

template <bool kExact>
__device__ Least least_of(Least winner, Least loser) {
  if (loser.score < winner.score || (loser.score == winner.score && loser.centre < winner.centre)) {
    const Least other = winner;  // by value: a reference to either would lie on the stack
    winner = loser;
    loser = other;
  }
  if (!kExact) return winner;
  const bool known = loser.score <= winner.second;  // the second smallest is the loser's first
  winner.third = known ? fminf(winner.second, loser.second) : fminf(winner.third, loser.score);
  winner.second = known ? loser.score : winner.second;
  winner.rival = known ? loser.centre : winner.rival;
  return winner;
}

template <bool kExact>
__device__ Least of_lane_xor(const Least& own, int distance) {
  Least other = own;
  other.score = __shfl_xor_sync(kAllLanes, own.score, distance);
  other.centre = __shfl_xor_sync(kAllLanes, own.centre, distance);
  if (kExact) {
    other.second = __shfl_xor_sync(kAllLanes, own.second, distance);
    other.third = __shfl_xor_sync(kAllLanes, own.third, distance);
    other.rival = __shfl_xor_sync(kAllLanes, own.rival, distance);
  }
  return other;
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

// Error bound of the score of a centre at distance `reach` from the origin: of a bias and products
// |x| * reach, added in 3 * D / 8 steps of tensor cores that truncate below 2^-23, of the 2^-20 of
// their parts, and of the bias itself.
__device__ float score_error(const KmeansOnDevice& k, int64_t problem, int64_t row, float reach) {
  const float slack = static_cast<float>(k.x.dim + 72) * 0x1p-24f;
  const float origin = k.origin_length[problem];
  return slack * reach * (sqrtf(k.length[row]) + 2.0f * origin + reach);
}

// The label of a row, and how sure it is; `farthest` is the largest reach of the problem's centres.
__device__ void decide(const KmeansOnDevice& k, int64_t problem, int64_t row, const Least& least,
                       float farthest) {
  const float* reach = k.reach + k.table[problem].first_centre;
  const float error = score_error(k, problem, row, reach[least.centre]);
  const float beyond = score_error(k, problem, row, farthest);
  const bool of_two = least.third - least.score > error + beyond;
  const int32_t rival = of_two ? least.rival : -1;
  const float other = rival < 0 ? beyond : score_error(k, problem, row, reach[rival]);
  const bool sure = of_two && least.second - least.score > error + other;
  k.next[row] = sure ? least.centre : ~least.centre;
  k.rival[row] = rival;
}

// The smallest score of every sample, over the threads that share its sums.
template <bool kExact>
__device__ void write_nearest(const KmeansOnDevice& k, const Best& best, float farthest,
                              Least* shared) {
  // Searched again, so that no registers keep them until here.
  const TileRows rows = rows_of(k, blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int row = 0; row < kRowTiles * 2; ++row) {
    const float second = kExact ? -best.second[row] : kInfinity;
    Least here = {-best.sum[row], second, second, best.centre[row], -1};
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      here = least_of<kExact>(here, of_lane_xor<kExact>(here, distance));
    }
    const int place = warp / 4 * 64 + row / 2 * 16 + row % 2 * 8 + lane / 4;
    if (lane % 4 == 0) shared[warp % 4 * kTileRows + place] = here;
  }
  __syncthreads();
  const int place = static_cast<int>(threadIdx.x);
  if (place >= kTileRows || rows.begin + place >= rows.end) return;
  Least all = shared[place];
  for (int part = 1; part < 4; ++part) {
    all = least_of<kExact>(all, shared[part * kTileRows + place]);
  }
  if (kExact) {
    decide(k, rows.problem, rows.begin + place, all, farthest);
  } else {
    k.next[rows.begin + place] = all.centre;
  }
}

// With kParts pieces of a row, the samples stay in shared memory; with 0, there are any number, and
// a piece of the samples comes with every piece of the centres.
template <class T, class Format, int kTerms, int kParts>
__global__ void __launch_bounds__(kThreads, kTerms > 1 ? 1 : 2)
    assign_kernel(const KmeansOnDevice k) {
  constexpr bool kExact = kTerms > 1, kResident = kParts > 0;
  const TileRows rows = rows_of(k, blockIdx.x);
  if (k.done[rows.problem]) return;
  const int parts = kResident ? kParts : static_cast<int>(k.padded) / kWords;
  uint32_t* samples = shared_memory<uint32_t>();                    // [kParts or 2, 128, kStride]
  uint32_t* centres = samples + (kResident ? kParts : 2) * kPiece;  // [2, 128, kStride]
  const int first_centre = static_cast<int>(k.table[rows.problem].first_centre);
  const int count = static_cast<int>(k.table[rows.problem + 1].first_centre) - first_centre;
  Sums sum;
  Best best;
#pragma unroll
  for (int row = 0; row < kRowTiles * 2; ++row) {
    best.sum[row] = best.second[row] = -kInfinity;
    best.centre[row] = 0;
  }
  for (int part = 0; part < (kResident ? kParts : 1); ++part) {
    stage_samples<T, Format>(k, rows, part, samples + part * kPiece);
  }
  stage_centres(k, first_centre, count - 1, 0, centres);
  commit_copies();
  Starts starts = load_starts(k, first_centre, 0, count);
  int turn = 0;
  for (int first = 0; first < count; first += kCentres) {
    start_sums(starts, sum);
#pragma unroll(kParts == 2 ? 2 : 1)  // of 3 pieces, registers would not suffice
    for (int part = 0; part < parts; ++part) {
      await_copies<0>();
      __syncthreads();  // what is multiplied has come to all, and what is copied over has been used
      const bool last = part + 1 == parts;
      const int after = last ? 0 : part + 1;
      if (!last || first + kCentres < count) {
        if (!kResident) stage_samples<T, Format>(k, rows, after, samples + (1 - turn) * kPiece);
        const int next = last ? first + kCentres : first;
        stage_centres(k, first_centre + next, count - 1 - next, after,
                      centres + (1 - turn) * kPiece);
        commit_copies();
      }
      multiply_piece<Format, kTerms>(samples + (kResident ? part : turn) * kPiece,
                                     centres + turn * kPiece, sum);
      turn = 1 - turn;
    }
    if (first + kCentres < count) {
      starts = load_starts(k, first_centre, first + kCentres, count);
    }
    take_sums<kExact>(first, sum, best);
  }
  __syncthreads();  // before the samples and centres are overwritten
  auto* least = reinterpret_cast<Least*>(samples);     // [4, 128]
  float* reaches = reinterpret_cast<float*>(centres);  // [kWarps]
  const float farthest = kExact ? farthest_reach(k, first_centre, count, reaches) : 0.0f;
  write_nearest<kExact>(k, best, farthest, least);
}

template <class T, class Format, int kTerms, int kParts>
void launch_assign(const KmeansOnDevice& k, cudaStream_t stream) {
  constexpr int kPieces = (kParts > 0 ? kParts : 2) + 2;
  launch(assign_kernel<T, Format, kTerms, kParts>, dim3(static_cast<unsigned>(k.tiles)),
         dim3(kThreads), kPieces * kPiece * sizeof(uint32_t), stream, k);
}

template <class T, class Format, int kTerms>
void assign(const KmeansOnDevice& k, cudaStream_t stream) {
  switch (k.padded / kWords) {
    case 1:
      return launch_assign<T, Format, kTerms, 1>(k, stream);
    case 2:
      return launch_assign<T, Format, kTerms, 2>(k, stream);
    case 3:
      return launch_assign<T, Format, kTerms, 3>(k, stream);
    default:
      return launch_assign<T, Format, kTerms, 0>(k, stream);
  }
}

}  // namespace

void assign_cuda(const KmeansOnDevice& k, CudaStream stream) {
  switch (k.x.type) {
    case Dtype::float16:
      return k.fast ? assign<Half, Fp16, 1>(k, stream) : assign<Half, Tf32, 2>(k, stream);
    case Dtype::bfloat16:
      return k.fast ? assign<BFloat16, Bf16, 1>(k, stream) : assign<BFloat16, Tf32, 2>(k, stream);
    default:
      return k.fast ? assign<float, Tf32, 1>(k, stream) : assign<float, Tf32, 3>(k, stream);
  }
}

}  // namespace pydream
