// Norm, ReLU and 2 x 2 average pool on CUDA; block_device.h says of what shapes, and the limit.
#include "block/block_cuda.h"
#include "block/block_plan.h"

namespace pydream {
namespace {

constexpr int kSums = 1, kTerms = 1, kKept = kCellPixels;

struct ForwardTask {
  float* pooled;   // [N, H / 2, W / 2, C]
  float* means;    // [N, C], with statistics over a batch alone
  float* squares;  // [N, C], sums of squared deviations from these means, the same
  double eps;
};

__device__ float rstd_of(double variance, double eps) {
  return static_cast<float>(1.0 / sqrt(variance + eps));
}

// Finds mean and 1 / deviation of an image's channels.
template <bool kWide, bool kKeep, Phase kPhase, class Memory>
__device__ void find_statistics(const BlockTask& task, const ForwardTask& run,
                                const Lane<kWide>& lane, const Memory& memory) {
  const float* image = task.images + lane.image * task.size();
  const double pixels = static_cast<double>(task.height) * task.width;
  Quad sum{};
  lane.over_cells(task, [&](const CellPlace& cell) {
    Quad values[kCellPixels];
    lane.load_cell(task, cell, image, values);
#pragma unroll
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
      if constexpr (kKeep) memory.own(cell.slot, pixel) = values[pixel];
      sum = each([&](int i) { return sum.at[i] + values[pixel].at[i]; });
    }
  });
  memory.add(0, sum);
  memory.over_channels(lane.slab, task.channels, [&](int place, int) {
    memory.terms[place] = static_cast<float>(memory.total(0, place) / pixels);
  });
  const Quad mean = memory.term(0);
  Quad squares{};
  lane.over_cells(task, [&](const CellPlace& cell) {
    Quad values[kCellPixels];
    if constexpr (!kKeep) lane.load_cell(task, cell, image, values);
#pragma unroll
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
      if (!cell.has(task, pixel)) continue;
      const Quad value = kKeep ? memory.own(cell.slot, pixel) : values[pixel];
      squares = each([&](int i) {
        const float d = value.at[i] - mean.at[i];
        return fmaf(d, d, squares.at[i]);
      });
    }
  });
  memory.add(0, squares);
  memory.over_channels(lane.slab, task.channels, [&](int place, int channel) {
    const int64_t at = lane.image * task.channels + channel;
    const double square = memory.total(0, place);
    if constexpr (kPhase == Phase::sums) {
      run.means[at] = memory.terms[place];
      run.squares[at] = static_cast<float>(square);
    } else {
      task.norm.mean[at] = memory.terms[place];
      task.norm.rstd[at] = rstd_of(square / pixels, run.eps);
    }
  });
}

template <bool kWide, bool kKeep, Phase kPhase>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const BlockTask task, const ForwardTask run) {
  const Lane<kWide> lane(task);
  const BlockMemory<kSums, kTerms, kKept> memory;
  if constexpr (kPhase != Phase::apply) {
    find_statistics<kWide, kKeep, kPhase>(task, run, lane, memory);
    if constexpr (kPhase == Phase::sums) return;
  }
  const Channels channels(task, lane);
  const float* image = task.images + lane.image * task.size();
  float* pooled = run.pooled + lane.image * task.pooled_size();
  lane.over_cells(task, [&](const CellPlace& cell) {
    if (!cell.whole) return;
    Quad values[kCellPixels];
    if constexpr (!kKeep) lane.load_cell(task, cell, image, values);
    Quad sum{};
#pragma unroll
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
      const Quad value = kKeep ? memory.own(cell.slot, pixel) : values[pixel];
      sum = each([&](int i) {
        const float d = channels.deviation(value.at[i], i);
        return sum.at[i] + channels.masked(d, channels.normed(d, i), i);
      });
    }
    lane.store(each([&](int i) { return sum.at[i] * kQuarter; }), pooled + cell.pooled(task));
  });
}

// Mean and 1 / deviation over the images of a group, from those of each image.
__global__ void __launch_bounds__(kColumns* kColumns)
    statistics_kernel(const BlockTask task, const ForwardTask run) {
  const int64_t group = blockIdx.x, channels = task.channels;
  const int64_t channel = blockIdx.y * kColumns + threadIdx.x;
  const int64_t read = min(channel, channels - 1);
  const int64_t begin = group * task.per_part, end = begin + task.per_part;
  const double pixels = static_cast<double>(task.height) * task.width;
  const double images = static_cast<double>(task.per_part);
  const double mean = column_sums<1>(begin, end,
                                     [&](int64_t row, int) {
                                       return static_cast<double>(run.means[row * channels + read]);
                                     })
                          .at[0] /
                      images;
  const double square = column_sums<1>(begin, end, [&](int64_t row, int) {
                          const double apart = run.means[row * channels + read] - mean;
                          return run.squares[row * channels + read] + pixels * apart * apart;
                        }).at[0];
  if (threadIdx.y > 0 || channel >= channels) return;
  task.norm.mean[group * channels + channel] = static_cast<float>(mean);
  task.norm.rstd[group * channels + channel] = rstd_of(square / (pixels * images), run.eps);
}

template <Phase kPhase>
void launch_forward(const BlockPlan& plan, const ForwardTask& run, cudaStream_t stream) {
  plan.choose<kSums, kTerms, kKept, kPhase != Phase::apply>(
      [&](auto wide, auto keep, size_t shared) {
        launch(forward_kernel<decltype(wide)::value, decltype(keep)::value, kPhase>, plan.grid,
               plan.block, shared, stream, plan.task, run);
      });
}

}  // namespace

void norm_relu_pool_cuda(const View& images, const View& weight, const View& bias, bool over_batch,
                         double eps, const View& pooled, const View& mean, const View& rstd,
                         const View& workspace, const Launch& where) {
  const DeviceGuard guard(where.device);
  const BlockShape shape = block_shape(images, weight, over_batch);
  if (shape.images == 0 || shape.channels == 0) return;
  const BlockPlan plan(shape, images.as<const float>(), block_norm(weight, bias, mean, rstd),
                       all_aligned(shape, {images.data, pooled.data}));
  float* sums = workspace.as<float>();
  const ForwardTask run = {pooled.as<float>(), sums, sums + shape.images * shape.channels, eps};
  if (!over_batch) return launch_forward<Phase::all>(plan, run, where.stream);
  launch_forward<Phase::sums>(plan, run, where.stream);
  launch_columns<1>(statistics_kernel, shape.groups(), shape.channels, where.stream, plan.task,
                    run);
  launch_forward<Phase::apply>(plan, run, where.stream);
}

}  // namespace pydream
