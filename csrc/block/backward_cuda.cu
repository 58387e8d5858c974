// The slopes with respect to images, weight and bias on CUDA; block_device.h says of what shapes,
// and the limit.
#include "block/block_cuda.h"
#include "block/block_plan.h"

namespace pydream {
namespace {

constexpr int kSums = 2, kTerms = 2;

struct BackwardTask {
  const float* pooled_slope;  // [N, H / 2, W / 2, C]
  float* image_slope;         // [N, H, W, C]
  // [2, N, C]. With statistics of each image: its shares of the slopes of weight and bias. Over a
  // batch: its sums of g and g d.
  float* sums;
  float* terms;         // [2, groups, C], with statistics over a batch alone
  float* weight_slope;  // [parts, C], or null
  float* bias_slope;    // [parts, C], or null
  int64_t images;
  int64_t groups;
};

// Sums over an image, and without a batch what follows from them.
template <bool kWide, bool kKeep, Phase kPhase, class Memory>
__device__ void sum_slopes(const BlockTask& task, const BackwardTask& run, const Lane<kWide>& lane,
                           const Channels& channels, const Memory& memory) {
  const float* image = task.images + lane.image * task.size();
  const float* pooled_slope = run.pooled_slope + lane.image * task.pooled_size();
  Quad g{}, g_d{};
  lane.over_cells(task, [&](const CellPlace& place) {
    SlopeCell cell;
    cell.load(task, lane, place, image, pooled_slope);
    if constexpr (kKeep) cell.keep(memory, place.slot);
#pragma unroll
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        const float d = channels.deviation(cell.pixels[pixel].at[i], i);
        const float masked = channels.masked(d, cell.slope.at[i], i);
        g.at[i] += masked;
        g_d.at[i] = fmaf(masked, d, g_d.at[i]);
      }
    }
  });
  memory.add(0, g);
  memory.add(1, g_d);
  memory.over_channels(lane.slab, task.channels, [&](int place, int channel) {
    float* first = run.sums + lane.image * task.channels + channel;
    float* second = first + run.images * task.channels;
    const double of_g = memory.total(0, place), of_g_d = memory.total(1, place);
    if constexpr (kPhase == Phase::sums) {
      *first = static_cast<float>(of_g);
      *second = static_cast<float>(of_g_d);
      return;
    }
    const Spread spread(task, lane.image, lane.part, channel);
    const double pixels = static_cast<double>(task.height) * task.width;
    const SlopeTerms terms = slope_terms(spread.rstd, spread.scale, pixels, of_g, of_g_d);
    memory.terms[place] = terms.constant;
    memory.terms[slab_channels() + place] = terms.linear;
    if (run.weight_slope == nullptr) return;
    *first = static_cast<float>(spread.rstd * of_g_d);
    *second = static_cast<float>(of_g);
  });
}

template <bool kWide, bool kKeep, Phase kPhase>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const BlockTask task, const BackwardTask run) {
  const Lane<kWide> lane(task);
  const BlockMemory<kSums, kTerms, kSlopeKept> memory;
  const Channels channels(task, lane);
  if constexpr (kPhase != Phase::apply) {
    sum_slopes<kWide, kKeep, kPhase>(task, run, lane, channels, memory);
    if constexpr (kPhase == Phase::sums) return;
  }
  const auto term = [&](int number) {
    const int64_t row = number * run.groups + lane.group;
    return kPhase == Phase::all ? memory.term(number) : lane.load(run.terms + row * task.channels);
  };
  const Quad constant = term(0), linear = term(1);
  const float* image = task.images + lane.image * task.size();
  const float* pooled_slope = run.pooled_slope + lane.image * task.pooled_size();
  float* slopes = run.image_slope + lane.image * task.size();
  lane.over_cells(task, [&](const CellPlace& place) {
    SlopeCell cell;
    if constexpr (kKeep) {
      cell.recall(memory, place.slot);
    } else {
      cell.load(task, lane, place, image, pooled_slope);
    }
#pragma unroll
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
      if (!place.has(task, pixel)) continue;
      const Quad slope = each([&](int i) {
        const float d = channels.deviation(cell.pixels[pixel].at[i], i);
        const float masked = channels.masked(d, cell.slope.at[i], i);
        return masked * channels.scale.at[i] - constant.at[i] - d * linear.at[i];
      });
      lane.store(slope, slopes + place.pixel(task, pixel));
    }
  });
}

// Terms of a group, and the slopes of weight and bias, from sums over each image.
__global__ void __launch_bounds__(kColumns* kColumns)
    terms_kernel(const BlockTask task, const BackwardTask run) {
  const int64_t group = blockIdx.x, channels = task.channels;
  const int64_t channel = blockIdx.y * kColumns + threadIdx.x;
  const int64_t read = min(channel, channels - 1);
  const int64_t begin = group * task.per_part, end = begin + task.per_part;
  const ColumnSums<2> sums = column_sums<2>(begin, end, [&](int64_t row, int number) {
    return static_cast<double>(run.sums[(number * run.images + row) * channels + read]);
  });
  if (threadIdx.y > 0 || channel >= channels) return;
  const int64_t at = group * channels + channel;
  if (!task.over_batch) {  // these are the slopes
    run.weight_slope[at] = static_cast<float>(sums.at[0]);
    run.bias_slope[at] = static_cast<float>(sums.at[1]);
    return;
  }
  const Spread spread(task, group, group, static_cast<int>(channel));
  const double values =
      static_cast<double>(task.height) * task.width * static_cast<double>(task.per_part);
  const SlopeTerms terms = slope_terms(spread.rstd, spread.scale, values, sums.at[0], sums.at[1]);
  run.terms[at] = terms.constant;
  run.terms[run.groups * channels + at] = terms.linear;
  if (run.weight_slope == nullptr) return;
  run.weight_slope[at] = static_cast<float>(spread.rstd * sums.at[1]);
  run.bias_slope[at] = static_cast<float>(sums.at[0]);
}

template <Phase kPhase>
void launch_backward(const BlockPlan& plan, const BackwardTask& run, cudaStream_t stream) {
  plan.choose<kSums, kTerms, kSlopeKept, kPhase == Phase::all>(
      [&](auto wide, auto keep, size_t shared) {
        launch(backward_kernel<decltype(wide)::value, decltype(keep)::value, kPhase>, plan.grid,
               plan.block, shared, stream, plan.task, run);
      });
}

}  // namespace

void norm_relu_pool_backward_cuda(const std::vector<View>& kept, bool over_batch,
                                  const std::vector<View>& results, const View& workspace,
                                  const Launch& where) {
  const DeviceGuard guard(where.device);
  const BlockShape shape = block_shape(kept.at(0), kept.at(1), over_batch);
  const bool parameters = results.size() > 1;
  float* sums = workspace.as<float>();
  const BackwardTask run = {kept.at(5).as<const float>(),
                            results.at(0).as<float>(),
                            sums,
                            sums + kSums * shape.images * shape.channels,
                            parameters ? results[1].as<float>() : nullptr,
                            parameters ? results.at(2).as<float>() : nullptr,
                            shape.images,
                            shape.groups()};
  const BlockPlan plan(shape, kept[0].as<const float>(),
                       block_norm(kept[1], kept.at(2), kept.at(3), kept.at(4)),
                       all_aligned(shape, {kept[0].data, kept[5].data, results[0].data}));
  if (shape.channels == 0) return;
  const auto launch_terms = [&] {
    launch_columns<kSums>(terms_kernel, shape.parts, shape.channels, where.stream, plan.task, run);
  };
  if (over_batch) {
    launch_backward<Phase::sums>(plan, run, where.stream);
    launch_terms();
    return launch_backward<Phase::apply>(plan, run, where.stream);
  }
  if (shape.images > 0) launch_backward<Phase::all>(plan, run, where.stream);
  if (parameters) launch_terms();
}

}  // namespace pydream
