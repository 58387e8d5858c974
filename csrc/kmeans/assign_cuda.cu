// The nearest centre of every sample in the format of the tensor cores, without a matrix of
// distances; exact_cuda.cu has the comparison by float32 distances.
//
// Shapes: samples [T, D], prepared centres [C, words], nearest [T]; a block processes 128 samples,
// or 64, of one problem and its centres 128 at a time, 32 words of each row at a time.
// Presumes: rows of samples that are a multiple of 16 bytes and aligned to it, for asynchronous
// copies; other rows are copied word by word. Any D below 2^24; fewer than 2^31 centres. If all
// words of the samples and two pieces of the centres fit in 99 KiB (96 words: D = 96 of float32 or
// 192 of 16 bits), the samples are read once; otherwise they are read again for every 128 centres,
// from the second-level cache.
// Limit: the larger of 2 * N * k * D operations at the rate of the tensor cores, and one read of
// the samples. At D = 128 of 16 bits a warp issues 263 instructions for the 64 products of a step,
// by the compiler's output for sm_90: the 4 warps of a scheduler take 1052 cycles to issue what, by
// the model, its tensor core takes 1600 to multiply. The words that shared memory supplies take a
// fifth longer than that.
//
// Centres, and samples of float32, are rounded to the format of the tensor cores. Centres are taken
// relative to a point near the samples, so that the compared values are small if the samples are
// close together (kmeans_kernel.h has the formula). Sums of products start at minus the bias, so
// that the largest sum is the smallest score.
#include <type_traits>

#include "common/host_device.h"
#include "common/threads.h"
#include "kmeans/assign_device.h"

namespace pydream {
namespace {

constexpr int kWords = 32;                  // of a row, in a step
constexpr int kStride = kWords + 4;         // rows start in different banks
constexpr int kPiece = kCentres * kStride;  // words

// Adds the products of a piece: a warp takes 64 samples by 32 centres.
template <class Format>
__device__ void multiply_piece(const uint32_t* samples, const uint32_t* centres, Sums& sum) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  // Of the tiles that a lane supplies a row of: two above each other and two beside them of
  // samples, two beside each other of two groups of 8 centres.
  const uint32_t* x = samples + (warp / 4 * 64 + lane % 16) * kStride + lane / 16 * 4;
  const uint32_t* c =
      centres + (warp % 4 * 32 + lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 4;
#pragma unroll
  for (int step = 0; step < kWords; step += 8) {
    uint32_t b[kColumnTiles][2];
#pragma unroll
    for (int j = 0; j < kColumnTiles; j += 2) {
      uint32_t words[4];
      load_tiles(words, c + j * 8 * kStride + step);
#pragma unroll
      for (int i = 0; i < 4; ++i) b[j + i / 2][i % 2] = words[i];
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      uint32_t a[4];
      load_tiles(a, x + r * 16 * kStride + step);
      if constexpr (std::is_same_v<Format, Tf32>) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = to_tf32(__uint_as_float(a[i]));
      }
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) Format::multiply(sum[r][j], a, b[j]);
    }
  }
}

// Largest sum so far, of the 8 samples for which a thread has sums: a sum starts at minus the
// centre's bias, and is minus the score.
struct Best {
  float sum[kRowTiles * 2];
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
        if (value > best.sum[row]) {
          best.sum[row] = value;
          best.centre[row] = centre;
        }
      }
    }
  }
}

// The smallest score of a sample, over some of the centres.
struct Least {
  float score;
  int32_t centre;
};

__device__ Least least_of(Least one, Least other) {
  const bool equal = other.score == one.score;
  if (other.score < one.score || (equal && other.centre < one.centre)) one = other;
  return one;
}

// The smallest score of every sample, over the threads that share its sums.
template <int kRows>
__device__ void write_nearest(const KmeansOnDevice& k, const Best& best, Least* shared) {
  // Searched again, so that no registers keep them until here.
  const TileRows rows = rows_of_block<kRows>(k);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int row = 0; row < kRowTiles * 2; ++row) {
    Least here = {-best.sum[row], best.centre[row]};
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      here = least_of(here, {__shfl_xor_sync(kAllLanes, here.score, distance),
                             __shfl_xor_sync(kAllLanes, here.centre, distance)});
    }
    const int place = warp / 4 * 64 + row / 2 * 16 + row % 2 * 8 + lane / 4;
    if (lane % 4 == 0) shared[warp % 4 * kRows + place] = here;
  }
  __syncthreads();
  const int place = static_cast<int>(threadIdx.x);
  if (place >= kRows || rows.begin + place >= rows.end) return;
  Least all = shared[place];
  for (int part = 1; part < 4; ++part) all = least_of(all, shared[part * kRows + place]);
  k.next[rows.begin + place] = all.centre;
}

// With kParts pieces of a row, the samples stay in shared memory; with 0, there are any number, and
// a piece of the samples comes with every piece of the centres.
template <class T, class Format, int kParts, int kRows>
__global__ void __launch_bounds__(kBlockThreads<kRows>, kRows == 128 ? 2 : 3)
    assign_kernel(const KmeansOnDevice k) {
  constexpr bool kResident = kParts > 0;
  constexpr int kSamplePiece = kRows * kStride;
  const TileRows rows = rows_of_block<kRows>(k);
  if (k.done[rows.problem] || rows.begin >= rows.end) return;
  const int parts = kResident ? kParts : static_cast<int>(k.padded) / kWords;
  uint32_t* samples = shared_memory<uint32_t>();  // [kParts or 2, kRows, kStride]
  uint32_t* centres = samples + (kResident ? kParts : 2) * kSamplePiece;  // [2, 128, kStride]
  const int first_centre = static_cast<int>(k.table[rows.problem].first_centre);
  const int count = static_cast<int>(k.table[rows.problem + 1].first_centre) - first_centre;
  Sums sum;
  Best best;
#pragma unroll
  for (int row = 0; row < kRowTiles * 2; ++row) {
    best.sum[row] = -kInfinity;
    best.centre[row] = 0;
  }
  for (int part = 0; part < (kResident ? kParts : 1); ++part) {
    stage_samples<kRows, kWords, kStride, T>(k, rows, part, samples + part * kSamplePiece);
  }
  stage_centres<kRows, kWords, kStride>(k, k.padded, first_centre, count - 1, 0, centres);
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
        if (!kResident) {
          stage_samples<kRows, kWords, kStride, T>(k, rows, after,
                                                   samples + (1 - turn) * kSamplePiece);
        }
        const int next = last ? first + kCentres : first;
        stage_centres<kRows, kWords, kStride>(k, k.padded, first_centre + next, count - 1 - next,
                                              after * kWords, centres + (1 - turn) * kPiece);
        commit_copies();
      }
      multiply_piece<Format>(samples + (kResident ? part : turn) * kSamplePiece,
                             centres + turn * kPiece, sum);
      turn = 1 - turn;
    }
    if (first + kCentres < count) {
      starts = load_starts(k, first_centre, first + kCentres, count);
    }
    take_sums(first, sum, best);
  }
  __syncthreads();  // before the samples and centres are overwritten
  write_nearest<kRows>(k, best, reinterpret_cast<Least*>(samples));  // [4, kRows]
}

template <class T, class Format, int kParts, int kRows = 128>
void launch_assign(const KmeansOnDevice& k, cudaStream_t stream) {
  constexpr int kStaged = (kParts > 0 ? kParts : 2) * kRows + 2 * kCentres;  // rows
  launch(assign_kernel<T, Format, kParts, kRows>, blocks(k.tiles * (kTileRows / kRows)),
         dim3(kBlockThreads<kRows>), kStaged * kStride * sizeof(uint32_t), stream, k);
}

template <class T, class Format>
void assign(const KmeansOnDevice& k, cudaStream_t stream) {
  if (in_halves(k)) return launch_assign<T, Format, 0, 64>(k, stream);
  switch (k.padded / kWords) {
    case 1:
      return launch_assign<T, Format, 1>(k, stream);
    case 2:
      return launch_assign<T, Format, 2>(k, stream);
    case 3:
      return launch_assign<T, Format, 3>(k, stream);
    default:
      return launch_assign<T, Format, 0>(k, stream);
  }
}

}  // namespace

void assign_cuda(const KmeansOnDevice& k, CudaStream stream) {
  switch (k.x.type) {
    case Dtype::float16:
      return assign<Half, Fp16>(k, stream);
    case Dtype::bfloat16:
      return assign<BFloat16, Bf16>(k, stream);
    default:
      return assign<float, Tf32>(k, stream);
  }
}

}  // namespace pydream
