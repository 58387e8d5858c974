// log p(label) of rows of logits, and the best crop of each image, on CUDA.
//
// Shapes: logits [N * M, K] with contiguous columns, scores [N, M], best [N].
// Presumes: nothing of K. Up to kLongRow columns a warp processes a row, above it a block. Loads
// are of 16 bytes if rows are aligned to that, else of single logits. Limit: one read of the
// logits.
//
// One pass over a row: a running maximum, and a running sum of exponentials that is rescaled
// whenever the maximum grows. The label's own column stays out of the sum, so that a score near
// zero (a confident observer) keeps its relative accuracy: log p = -log1p(sum of the others). The
// exponentials are powers of two of a rounded product, one instruction and one multiplication each;
// the factors of a whole sum are exact to the last bits.
#include <limits>

#include "common/division.h"
#include "common/host_device.h"
#include "common/report.h"
#include "common/threads.h"
#include "score/score_cuda.h"

namespace pydream {
namespace {

constexpr int64_t kLongRow = 8192;
constexpr float kNotANumber = std::numeric_limits<float>::quiet_NaN();
constexpr float kLog2E = 1.44269504f;

// The sum of exp(logit) so far, as sum * exp(maximum); NaN and +inf make the sum NaN.
struct Partial {
  float maximum;
  float sum;
};

// The reference of exponents: while all logits are -inf, exp(-inf - 0) is 0.
__device__ float reference_of(float maximum) { return maximum == -kInfinity ? 0.0f : maximum; }

__device__ Partial merge(Partial a, Partial b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  const float reference = reference_of(maximum);
  return {maximum, a.sum * expf(a.maximum - reference) + b.sum * expf(b.maximum - reference)};
}

template <int kCount>
__device__ Partial add(Partial total, const float (&values)[kCount]) {
  float maximum = total.maximum;
#pragma unroll
  for (int i = 0; i < kCount; ++i) maximum = fmaxf(maximum, values[i]);
  const float reference = reference_of(maximum);
  float sum = total.sum * expf(total.maximum - reference);
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum += exp2f((values[i] - reference) * kLog2E);
  return {maximum, sum};
}

// Packs of 16 bytes, if the row is aligned to 16 bytes.
template <bool kAligned, class T, int kPack>
__device__ void load_pack(const T* from, T (&values)[kPack]) {
  if constexpr (kAligned) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(values, &bits, sizeof bits);
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = from[i];
  }
}

// Every `step`-th pack of a row [columns], from `start` on.
template <bool kAligned, class T>
__device__ Partial sum_packs(const T* row, int64_t columns, int64_t label, int start, int step) {
  constexpr int kPack = 16 / sizeof(T);
  const uint32_t packs = static_cast<uint32_t>(columns / kPack);
  const uint32_t own = static_cast<uint32_t>(label / kPack);  // that with the label
  const int place = static_cast<int>(label % kPack);
  const T* from = row + start * kPack;
  Partial total = {-kInfinity, 0.0f};
  for (uint32_t pack = start; pack < packs; pack += step, from += step * kPack) {
    T loaded[kPack];
    load_pack<kAligned>(from, loaded);
    float values[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = widen(loaded[i]);
    if (pack == own) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) values[i] = i == place ? -kInfinity : values[i];
    }
    total = add(total, values);
  }
  return total;
}

// The part of a row for one thread: some packs, and every `step`-th logit of the rest. The
// alignment of the row does not change the order of the additions.
template <class T>
__device__ Partial sum_part(const T* row, int64_t columns, int64_t label, int start, int step) {
  constexpr int64_t kPack = 16 / sizeof(T);
  const bool aligned = reinterpret_cast<uintptr_t>(row) % 16 == 0;
  Partial total = aligned ? sum_packs<true>(row, columns, label, start, step)
                          : sum_packs<false>(row, columns, label, start, step);
#pragma unroll 1
  for (int64_t column = columns / kPack * kPack + start; column < columns; column += step) {
    const float value[1] = {column == label ? -kInfinity : widen(row[column])};
    total = add(total, value);
  }
  return total;
}

__device__ Partial merge_warp(Partial part) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Partial other = {__shfl_xor_sync(kAllLanes, part.maximum, distance),
                           __shfl_xor_sync(kAllLanes, part.sum, distance)};
    part = merge(part, other);
  }
  return part;
}

// log p = difference - log(others + exp(difference)), where the difference is the label's logit
// minus the maximum of the row.
__device__ float score_of(Partial others, float own) {
  const float maximum = fmaxf(others.maximum, own);
  if (!isfinite(maximum) || isnan(own)) return kNotANumber;
  const float sum = others.sum * expf(others.maximum - maximum);
  const double difference = static_cast<double>(own) - maximum;
  if (difference == 0.0) return 0.0f - log1pf(sum);
  return static_cast<float>(difference -
                            static_cast<double>(logf(sum + expf(static_cast<float>(difference)))));
}

struct ScoreTask {
  const void* logits;     // [N * M, K]
  const int64_t* labels;  // [N]
  int64_t images, crops, columns, stride;
  int images_per_block;
  Division by_crops;  // for rows, fewer than 2^31
  CropScores result;
  Faults faults;
};

// Scores one row by a warp (whole = false) or by the block; all its threads get the score.
template <class T>
__device__ float score_row(const ScoreTask& task, int64_t row, bool whole) {
  Partial* parts = shared_memory<Partial>();  // [kWarps]
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int64_t label = task.labels[task.by_crops.quotient(static_cast<uint32_t>(row))];
  const T* logits = static_cast<const T*>(task.logits) + row * task.stride;
  const int threads = whole ? static_cast<int>(blockDim.x) : 32;
  Partial part = merge_warp(
      sum_part(logits, task.columns, label, whole ? static_cast<int>(threadIdx.x) : lane, threads));
  if (whole) {
    if (lane == 0) parts[warp] = part;
    __syncthreads();
    part = {-kInfinity, 0.0f};
    for (int each = 0; each < threads / 32; ++each) part = merge(part, parts[each]);
    __syncthreads();  // before the next row's parts
  }
  const bool reporter = whole ? threadIdx.x == 0 : lane == 0;
  if (label < 0 || label >= task.columns) {
    if (reporter && row % task.crops == 0) {
      report(task.faults, Fault::label, row / task.crops);
    }
    return kNotANumber;
  }
  const float score = score_of(part, widen(logits[label]));
  if (reporter && isnan(score)) report(task.faults, Fault::logits, row);
  return score;
}

// A block scores all crops of images_per_block images, then finds the best crop of each.
template <class T, bool kWhole>
__global__ void __launch_bounds__(kWarps * 32) score_kernel(const ScoreTask task) {
  float* scores =
      reinterpret_cast<float*>(shared_memory<Partial>() + kWarps);  // of the block's rows
  const int64_t first = blockIdx.x * static_cast<int64_t>(task.images_per_block);
  const int64_t images = min(static_cast<int64_t>(task.images_per_block), task.images - first);
  const int64_t rows = images * task.crops;
  const int warps = static_cast<int>(blockDim.x / 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const bool writes = kWhole ? threadIdx.x == 0 : threadIdx.x % 32 == 0;
  for (int64_t row = kWhole ? 0 : warp; row < rows; row += kWhole ? 1 : warps) {
    const float score = score_row<T>(task, first * task.crops + row, kWhole);
    if (!writes) continue;
    if (task.result.score != nullptr) task.result.score[first * task.crops + row] = score;
    if (task.result.best != nullptr) scores[row] = score;
  }
  if (task.result.best == nullptr) return;
  __syncthreads();
  for (int64_t image = threadIdx.x; image < images; image += blockDim.x) {
    float best = -kInfinity;
    int64_t crop = 0;
    for (int64_t each = 0; each < task.crops; ++each) {
      const float score = scores[image * task.crops + each];
      if (score > best) {
        best = score;
        crop = each;
      }
    }
    task.result.best[first + image] = best;
    task.result.crop[first + image] = crop;
  }
}

template <class T>
void launch_scores(const ScoreTask& task, cudaStream_t stream) {
  const int64_t blocks = (task.images + task.images_per_block - 1) / task.images_per_block;
  const int64_t rows = task.images_per_block * task.crops;
  const bool whole = task.columns > kLongRow;
  const int warps = whole || rows > kWarps ? kWarps : static_cast<int>(rows);
  const size_t kept = task.result.best == nullptr ? 0 : static_cast<size_t>(rows) * sizeof(float);
  launch(whole ? score_kernel<T, true> : score_kernel<T, false>,
         dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(warps * 32)),
         kWarps * sizeof(Partial) + kept, stream, task);
}

// The best crop of each image, by a warp per image.
__global__ void best_crops(const float* scores, int64_t stride, int64_t images, int64_t crops,
                           float* best, int64_t* best_crop, Faults faults) {
  const int64_t image = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (image >= images) return;
  float score = -kInfinity;
  int64_t crop = 0;
  bool complete = true;
  for (int64_t each = lane; each < crops; each += 32) {
    const float value = scores[image * stride + each];
    complete = complete && !isnan(value);
    if (value > score) {
      score = value;
      crop = each;
    }
  }
  complete = __all_sync(kAllLanes, complete);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, score, distance);
    const int64_t other_crop = __shfl_xor_sync(kAllLanes, static_cast<long long>(crop), distance);
    if (other > score || (other == score && other_crop < crop)) {
      score = other;
      crop = other_crop;
    }
  }
  if (lane != 0) return;
  if (!complete) report(faults, Fault::scores, image);
  best[image] = score;
  best_crop[image] = crop;
}

}  // namespace

void realism_scores_cuda(const View& logits, const View& labels, const View& score,
                         const View& best, const View& crop, const Launch& where) {
  // The scores of a block's images are in shared memory, after kWarps partial sums.
  constexpr int64_t kMostCrops = 10000;
  constexpr int64_t kMostRows = 0x7FFFFFFF;
  const Logits given = logits_of(logits);
  const int64_t images = labels.shape[0];
  if (images == 0) return;
  const int64_t crops = given.rows / images;
  if (crops > kMostCrops || given.rows > kMostRows) {
    throw std::invalid_argument("logits may have at most 10000 crops an image and 2^31 - 1 rows");
  }
  const int64_t together = crops < kWarps ? kWarps / crops : 1;
  const ScoreTask task = {given.data,
                          labels.as<const int64_t>(),
                          images,
                          crops,
                          given.classes,
                          given.stride,
                          static_cast<int>(together),
                          division_by(crops),
                          {score.as<float>(), best.as<float>(), crop.as<int64_t>()},
                          where.faults};
  const DeviceGuard guard(where.device);
  switch (given.type) {
    case Dtype::float16:
      return launch_scores<Half>(task, where.stream);
    case Dtype::bfloat16:
      return launch_scores<BFloat16>(task, where.stream);
    default:
      return launch_scores<float>(task, where.stream);
  }
}

void best_crops_cuda(const View& scores, const View& best, const View& crop, const Launch& where) {
  const int64_t images = scores.shape[0];
  if (images == 0) return;
  const DeviceGuard guard(where.device);
  const int64_t blocks = (images + kWarps - 1) / kWarps;
  launch(best_crops, dim3(static_cast<unsigned>(blocks)), dim3(kWarps * 32), 0, where.stream,
         scores.as<const float>(), scores.stride[0], images, scores.shape[1], best.as<float>(),
         crop.as<int64_t>(), where.faults);
}

}  // namespace pydream
