// The nearest centre of every sample by float32 distances, on tensor cores of 16 bits.
//
// Shapes: samples [T, D], prepared centres [C, terms, padded], nearest [T]; a block processes 128
// or 64 samples of one problem and its centres 128 at a time, 32 values of each row at a time.
// Presumes: rows of samples that are a multiple of 16 bytes and aligned to it, for asynchronous
// copies; other rows are copied word by word. Any D below 2^24; fewer than 2^31 centres.
// Limit: 2 * N * k * D operations, times 2 for float16 and 3 for the others, at the rate of the
// tensor cores; samples are read again for every 128 centres, from the second-level cache. At the
// pace of the tensor cores, by the model, samples and centres take 27 to 31 bytes a cycle and
// multiprocessor from there, which the model does not look at.
//
// A centre, relative to a point near the samples and scaled by a power of two so that its largest
// value is just below 2^15, is a sum of two float16 numbers, or of three bfloat16 numbers, which
// `prepare` has split it into. Samples of 16 bits are multiplied as they are; those of float32 are
// scaled and split in two float16 numbers on the way to the tensor cores, and the product of the
// two low parts is dropped. The score of a centre is its bias less the product, as in
// kmeans_kernel.h. The three smallest scores are kept: if the first two are closer than their
// errors, distances to these two centres decide, and if the third is as close, distances to all
// (move_cuda.cu).
//
// The error of a score. Of a sample x, the origin o and c' = c - o, rounded to float32, let X be
// |x - o| + |o|, which |x| does not exceed, R be |c'|, and e be 2^-24. With u the power of two that
// undoes a scale, a term in float16 is off by 2^-25 u at most where it is below the normal numbers;
// with X and R larger by u sqrt(D) / 8, which k.reach includes, such errors are within the others:
// 1. c' is rounded: e R (X + R). The bias is rounded: e R (R / 2 + X). So is their difference, e of
//    the bias and the product: e R (R / 2 + 2 X).
// 2. Terms: of c' and, in float32, of x, each 2^-22 of the value, and the product of the low parts:
//    12.1 e X R, over all parts.
// 3. Sums of n products per value (n = 2, or 3), at most X R in absolute value at any time. Tensor
//    cores add 8 products or more to a sum at a time, exactly but for bits more than 24 below the
//    leading one of the largest of these 9 numbers, and cut the result off to 24 bits (Fasi et al.,
//    "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7, 2021): 9 e + 2 e of X R
//    for 8 products, so 11 / 8 n (D + 16) e X R.
// Together less than e (3 / 2 n D + 96) R (X + R), which leaves a twelfth of the third part for the
// rounding of X and R themselves.
#include "common/host_device.h"
#include "common/threads.h"
#include "kmeans/assign_device.h"

namespace pydream {
namespace {

constexpr int kWords = 16;                      // of a term of a centre, in a step: 32 values
constexpr int kStride = kWords + 4;             // 8 rows of 4 words lie in different banks
constexpr int kTermPiece = kCentres * kStride;  // words
constexpr int kFloats = 32, kFloatStride = 48;  // rows of 16 words, of which two are in 32 banks
constexpr float kTiny = 0x1p-126f;              // what float32 may have lost at its lower end

// How samples of a type are multiplied.
template <class T>
struct Multiplied {
  using Format = Fp16;
  static constexpr bool kSplits = std::is_same_v<T, float>;
  static constexpr int kProducts = kSplits ? 3 : 2;
  static constexpr int kSampleWords = kSplits ? kFloats : kWords;
  static constexpr int kSampleStride = kSplits ? kFloatStride : kStride;
};
template <>
struct Multiplied<BFloat16> : Multiplied<Half> {
  using Format = Bf16;
  static constexpr int kProducts = 3;
};

// The words of a tile of 16 rows of samples by 16 values, as tensor cores take them.
struct Tile {
  uint32_t high[4], low[4];
};

// Of float32, from row g = lane / 4 and row g + 8: lane t of four supplies values 4 t to 4 t + 3,
// in the order in which prepared centres have them.
__device__ Tile load_floats(const uint32_t* row, float scale) {
  Tile tile;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 value = *reinterpret_cast<const float4*>(row + half * 8 * kFloatStride);
    float first = value.x * scale, second = value.y * scale;
    tile.high[half] = split_halves(&first, &second);
    tile.low[half] = pack_halves(first, second);
    first = value.z * scale, second = value.w * scale;
    tile.high[half + 2] = split_halves(&first, &second);
    tile.low[half + 2] = pack_halves(first, second);
  }
  return tile;
}

// Adds the products of a piece: a warp takes 64 samples by 32 centres.
template <class T>
__device__ void multiply_piece(const uint32_t* samples, const uint32_t* centres, float scale,
                               Sums& sum) {
  using M = Multiplied<T>;
  constexpr int kTerms = kExactTerms<T>;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  // Of the tiles that a lane supplies a row of: two above each other and two beside them of
  // samples, two beside each other of two groups of 8 centres.
  const uint32_t* x = samples + warp / 4 * 64 * M::kSampleStride;
  x += M::kSplits ? lane / 4 * M::kSampleStride + lane % 4 * 4
                  : lane % 16 * M::kSampleStride + lane / 16 * 4;
  const uint32_t* c =
      centres + (warp % 4 * 32 + lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 4;
#pragma unroll
  for (int step = 0; step < kWords; step += 8) {
    uint32_t b[kTerms][kColumnTiles][2];
#pragma unroll
    for (int at = 0; at < kTerms * kColumnTiles; at += 2) {
      const int term = at / kColumnTiles, j = at % kColumnTiles;
      uint32_t words[4];
      load_tiles(words, c + term * kTermPiece + j * 8 * kStride + step);
#pragma unroll
      for (int i = 0; i < 4; ++i) b[term][j + i / 2][i % 2] = words[i];
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      Tile a;
      const uint32_t* from = x + r * 16 * M::kSampleStride;
      if constexpr (M::kSplits) {
        a = load_floats(from + 2 * step, scale);
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) M::Format::multiply(sum[r][j], a.low, b[0][j]);
      } else {
        load_tiles(a.high, from + step);
      }
#pragma unroll
      for (int term = kTerms - 1; term >= 0; --term) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) M::Format::multiply(sum[r][j], a.high, b[term][j]);
      }
    }
  }
}

// The three smallest scores of a sample, over some of the centres: of the first its centre, of the
// second too, or -1 if it is not known; then the third is a bound.
struct Least {
  float score, second, third;
  int32_t centre, rival;
};

__device__ Least choose(bool which, const Least& one, const Least& other) {
  return {which ? one.score : other.score, which ? one.second : other.second,
          which ? one.third : other.third, which ? one.centre : other.centre,
          which ? one.rival : other.rival};
}

__device__ Least least_of(const Least& one, const Least& other) {
  const bool swapped =
      other.score < one.score || (other.score == one.score && other.centre < one.centre);
  Least winner = choose(swapped, other, one);
  const Least loser = choose(swapped, one, other);
  const bool known = loser.score <= winner.second;  // the second smallest is the loser's first
  winner.third = known ? fminf(winner.second, loser.second) : fminf(winner.third, loser.score);
  winner.second = known ? loser.score : winner.second;
  winner.rival = known ? loser.centre : winner.rival;
  return winner;
}

__device__ Least of_lane_xor(const Least& own, int distance) {
  return {__shfl_xor_sync(kAllLanes, own.score, distance),
          __shfl_xor_sync(kAllLanes, own.second, distance),
          __shfl_xor_sync(kAllLanes, own.third, distance),
          __shfl_xor_sync(kAllLanes, own.centre, distance),
          __shfl_xor_sync(kAllLanes, own.rival, distance)};
}

// Of the samples in `own`, which a lane and another one have: joins the first half or the second,
// and leaves the rest to the other lane.
template <int kRows>
__device__ void join_half(Least* own, int distance) {
  const bool upper = threadIdx.x & static_cast<unsigned>(distance);
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) {
    const Least given = choose(upper, own[i], own[i + kRows / 2]);
    own[i] = least_of(choose(upper, own[i + kRows / 2], own[i]), of_lane_xor(given, distance));
  }
}

// Where a warp has the least scores of the two samples that a lane keeps, of the 8 samples of four
// lanes: the first one, in one of four tiles; the second one is 8 places behind.
template <int kRows>
__device__ int kept_place() {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int tile = lane % 2 * 2 + lane / 2 % 2;
  return warp % 4 * kRows + warp / 4 * 64 + tile * 16 + lane / 4;
}

// Takes the scores of 128 centres, from number `first` of the problem; the least so far are in
// `best` [4, kRows], because registers would not suffice.
template <int kRows>
__device__ void take_sums(const KmeansOnDevice& k, int first_centre, int first, int count,
                          const Sums& sum, Least* best) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int own = first + warp % 4 * 32 + lane % 4 * 2;
  float bias[kColumnTiles * 2], factor[kColumnTiles * 2];
#pragma unroll
  for (int at = 0; at < kColumnTiles * 2; ++at) {
    const int centre = own + at / 2 * 8 + at % 2;
    bias[at] = centre < count ? k.bias[first_centre + centre] : kInfinity;
    factor[at] = centre < count ? k.factor[first_centre + centre] : 0.0f;
  }
  Least here[kRowTiles * 2];
#pragma unroll
  for (int row = 0; row < kRowTiles * 2; ++row) {
    Least least = {kInfinity, kInfinity, kInfinity, 0, -1};
#pragma unroll
    for (int at = 0; at < kColumnTiles * 2; ++at) {
      const float score = fmaf(-sum[row / 2][at / 2][row % 2 * 2 + at % 2], factor[at], bias[at]);
      least.second = fminf(least.second, fmaxf(score, least.score));
      if (score < least.score) {
        least.score = score;
        least.centre = own + at / 2 * 8 + at % 2;
      }
    }
    least.third = least.second;
    here[row] = least;
  }
  join_half<8>(here, 1);
  join_half<4>(here, 2);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    Least& least = best[kept_place<kRows>() + i * 8];
    least = first == 0 ? here[i] : least_of(least, here[i]);
  }
}

// Upper bound of the distances between a problem's centres and the origin; by a block, to all
// threads.
__device__ float farthest_reach(const KmeansOnDevice& k, int64_t first_centre, int64_t count,
                                float* shared) {
  float most = 0.0f;
  for (int64_t centre = threadIdx.x; centre < count; centre += blockDim.x) {
    most = fmaxf(most, k.reach[first_centre + centre]);
  }
  return block_max(most, shared);
}

// The label of a row, and how sure it is; `farthest` is the largest reach of the problem's centres.
template <class T>
__device__ void decide(const KmeansOnDevice& k, int64_t problem, int64_t row, const Least& least,
                       float farthest) {
  using M = Multiplied<T>;
  const float* reach = k.reach + k.table[problem].first_centre;
  const auto dim = static_cast<float>(k.x.dim);
  const float lost = M::kSplits ? sqrtf(dim) / 8 / scale_for(k.largest[problem]) : 0.0f;
  const float far = sqrtf(k.length[row]) + k.origin_length[problem] + lost;
  const float slack = (1.5f * M::kProducts * dim + 96.0f) * 0x1p-24f;
  const auto error = [&](float of) { return slack * of * (far + of) + kTiny; };
  const float own = error(reach[least.centre]), beyond = error(farthest);
  const bool of_two = least.third - least.score > own + beyond;
  const int32_t rival = of_two ? least.rival : -1;
  const float other = rival < 0 ? beyond : error(reach[rival]);
  const bool sure = of_two && least.second - least.score > own + other;
  k.next[row] = sure ? least.centre : ~least.centre;
  k.rival[row] = rival;
}

// The smallest score of every sample, over the warps that share its centres.
template <class T, int kRows>
__device__ void write_nearest(const KmeansOnDevice& k, const Least* best, float farthest) {
  // Searched again, so that no registers keep them until here.
  const TileRows rows = rows_of_block<kRows>(k);
  const int place = static_cast<int>(threadIdx.x);
  if (place >= kRows || rows.begin + place >= rows.end) return;
  Least all = best[place];
  for (int part = 1; part < 4; ++part) all = least_of(all, best[part * kRows + place]);
  decide<T>(k, rows.problem, rows.begin + place, all, farthest);
}

template <class T, int kRows>
__global__ void __launch_bounds__(kBlockThreads<kRows>, kRows == 128 ? 2 : 3)
    exact_kernel(const KmeansOnDevice k) {
  using M = Multiplied<T>;
  constexpr int kTerms = kExactTerms<T>, kCentrePiece = kTerms * kTermPiece;
  constexpr int kSamplePiece = kRows * M::kSampleStride;
  const TileRows rows = rows_of_block<kRows>(k);
  if (k.done[rows.problem] || rows.begin >= rows.end) return;
  uint32_t* samples = shared_memory<uint32_t>();                      // [2, kRows, kSampleStride]
  uint32_t* centres = samples + 2 * kSamplePiece;                     // [2, kTerms, 128, kStride]
  auto* best = reinterpret_cast<Least*>(centres + 2 * kCentrePiece);  // [4, kRows]
  const int first_centre = static_cast<int>(k.table[rows.problem].first_centre);
  const int count = static_cast<int>(k.table[rows.problem + 1].first_centre) - first_centre;
  const int parts = static_cast<int>(k.padded) / kWords;
  const float scale = M::kSplits ? scale_for(k.largest[rows.problem]) : 1.0f;
  const auto stage = [&](int first, int part, int turn) {
    stage_samples<kRows, M::kSampleWords, M::kSampleStride, T>(k, rows, part,
                                                               samples + turn * kSamplePiece);
#pragma unroll
    for (int term = 0; term < kTerms; ++term) {
      stage_centres<kRows, kWords, kStride>(k, kTerms * k.padded, first_centre + first,
                                            count - 1 - first,
                                            term * static_cast<int>(k.padded) + part * kWords,
                                            centres + turn * kCentrePiece + term * kTermPiece);
    }
    commit_copies();
  };
  stage(0, 0, 0);
  int turn = 0;
  for (int first = 0; first < count; first += kCentres) {
    Sums sum = {};
#pragma unroll 1
    for (int part = 0; part < parts; ++part) {
      await_copies<0>();
      __syncthreads();  // what is multiplied has come to all, and what is copied over has been used
      const bool last = part + 1 == parts;
      const int next = last ? first + kCentres : first;
      if (next < count) stage(next, last ? 0 : part + 1, 1 - turn);
      multiply_piece<T>(samples + turn * kSamplePiece, centres + turn * kCentrePiece, scale, sum);
      turn = 1 - turn;
    }
    take_sums<kRows>(k, first_centre, first, count, sum, best);
  }
  __syncthreads();  // all have kept their scores, and use no centres any more
  float* shared = reinterpret_cast<float*>(centres);  // [warps]
  write_nearest<T, kRows>(k, best, farthest_reach(k, first_centre, count, shared));
}

template <class T, int kRows>
void launch_exact(const KmeansOnDevice& k, CudaStream stream) {
  constexpr int kWordsUsed =
      2 * (kRows * Multiplied<T>::kSampleStride + kExactTerms<T> * kTermPiece);
  launch(exact_kernel<T, kRows>, blocks(k.tiles * (kTileRows / kRows)), dim3(kBlockThreads<kRows>),
         kWordsUsed * sizeof(uint32_t) + 4 * kRows * sizeof(Least), stream, k);
}

}  // namespace

void assign_exact_cuda(const KmeansOnDevice& k, CudaStream stream) {
  PYDREAM_BY_TYPE(k.x.type,
                  in_halves(k) ? launch_exact<T, 64>(k, stream) : launch_exact<T, 128>(k, stream));
}

}  // namespace pydream
