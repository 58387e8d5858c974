// The second derivative on CUDA: slopes of a function of what backward_cuda.cu finds.
// block_device.h says of what shapes, and the limit.
#include "block/block_cuda.h"
#include "block/block_plan.h"

namespace pydream {
namespace {

constexpr int kTerms = 5;
constexpr int kKept = kSlopeKept + kCellPixels;

struct SecondTask {
  const float* pooled_slope;  // [N, H / 2, W / 2, C]
  const float* v;             // [N, H, W, C], with respect to the slope of the images
  PartRows by_weight;         // with respect to that of the weight
  PartRows by_bias;           // with respect to that of the bias
  float* pooled;              // [N, H / 2, W / 2, C], results
  float* image;               // [N, H, W, C]
  // [kSecondSums, N, C], of which statistics of each image take the first row: their shares of the
  // slope of the weight. Over a batch: sums over each image.
  float* sums;
  float* terms;   // [kTerms, groups, C], with statistics over a batch alone
  float* weight;  // [parts, C], or null
  int64_t images;
  int64_t groups;

  __device__ SecondTerms terms_of(const Spread& spread, double values, const SecondSums& sums_of,
                                  int64_t part, int channel) const {
    const float* weights = by_weight.row(part);
    const float* biases = by_bias.row(part);
    return second_terms(spread.rstd, spread.scale, values, sums_of,
                        weights == nullptr ? 0.0 : weights[channel],
                        biases == nullptr ? 0.0 : biases[channel]);
  }
};

// Writes what the last pass reads, in its order.
template <class Put>
__device__ void put_terms(const SecondTerms& terms, const Put& put) {
  put(0, terms.factor);
  put(1, terms.offset);
  put(2, terms.v_factor);
  put(3, terms.linear);
  put(4, terms.constant);
}

// A cell with the slopes v of its pixels.
struct SecondCell {
  SlopeCell cell;
  Quad v[kCellPixels];

  template <bool kWide>
  __device__ void load(const BlockTask& task, const SecondTask& run, const Lane<kWide>& lane,
                       const CellPlace& place) {
    const int64_t start = lane.image * task.size();
    lane.load_cell(task, place, run.v + start, v);
    cell.load(task, lane, place, task.images + start,
              run.pooled_slope + lane.image * task.pooled_size());
  }

  template <class Memory>
  __device__ void keep(const Memory& memory, int slot) const {
    cell.keep(memory, slot);
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
      memory.own(slot, kSlopeKept + pixel) = v[pixel];
    }
  }

  template <class Memory>
  __device__ void recall(const Memory& memory, int slot) {
    cell.recall(memory, slot);
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
      v[pixel] = memory.own(slot, kSlopeKept + pixel);
    }
  }
};

// Sums over an image, and without a batch what follows from them.
template <bool kWide, bool kKeep, Phase kPhase, class Memory>
__device__ void sum_second(const BlockTask& task, const SecondTask& run, const Lane<kWide>& lane,
                           const Channels& channels, const Memory& memory) {
  Quad sums[kSecondSums] = {};  // as in SecondSums
  lane.over_cells(task, [&](const CellPlace& place) {
    SecondCell found;
    found.load(task, run, lane, place);
    if constexpr (kKeep) found.keep(memory, place.slot);
#pragma unroll
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        const float d = channels.deviation(found.cell.pixels[pixel].at[i], i);
        const float g = channels.masked(d, found.cell.slope.at[i], i);
        const float v = found.v[pixel].at[i];
        sums[0].at[i] += v;
        sums[1].at[i] = fmaf(v, d, sums[1].at[i]);
        sums[2].at[i] += g;
        sums[3].at[i] = fmaf(g, d, sums[3].at[i]);
        sums[4].at[i] = fmaf(v, g, sums[4].at[i]);
      }
    }
  });
#pragma unroll
  for (int number = 0; number < kSecondSums; ++number) memory.add(number, sums[number]);
  memory.over_channels(lane.slab, task.channels, [&](int place, int channel) {
    float* own = run.sums + lane.image * task.channels + channel;
    if constexpr (kPhase == Phase::sums) {
      for (int number = 0; number < kSecondSums; ++number) {
        own[number * run.images * task.channels] = static_cast<float>(memory.total(number, place));
      }
      return;
    }
    const SecondSums totals = {memory.total(0, place), memory.total(1, place),
                               memory.total(2, place), memory.total(3, place),
                               memory.total(4, place)};
    const SecondTerms terms =
        run.terms_of(Spread(task, lane.image, lane.part, channel),
                     static_cast<double>(task.height) * task.width, totals, lane.part, channel);
    put_terms(terms, [&](int number, float term) {
      memory.terms[number * slab_channels() + place] = term;
    });
    if (run.weight != nullptr) *own = static_cast<float>(terms.weight);
  });
}

template <bool kWide, bool kKeep, Phase kPhase>
__global__ void __launch_bounds__(kThreads, 2)
    second_kernel(const BlockTask task, const SecondTask run) {
  const Lane<kWide> lane(task);
  const BlockMemory<kSecondSums, kTerms, kKept> memory;
  const Channels channels(task, lane);
  if constexpr (kPhase != Phase::apply) {
    sum_second<kWide, kKeep, kPhase>(task, run, lane, channels, memory);
    if constexpr (kPhase == Phase::sums) return;
  }
  const auto term = [&](int number) {
    const int64_t row = number * run.groups + lane.group;
    return kPhase == Phase::all ? memory.term(number) : lane.load(run.terms + row * task.channels);
  };
  const Quad factor = term(0), offset = term(1), v_factor = term(2), linear = term(3),
             constant = term(4);
  float* results = run.image + lane.image * task.size();
  float* pooled = run.pooled + lane.image * task.pooled_size();
  lane.over_cells(task, [&](const CellPlace& place) {
    SecondCell found;
    if constexpr (kKeep) {
      found.recall(memory, place.slot);
    } else {
      found.load(task, run, lane, place);
    }
    Quad sum{};
#pragma unroll
    for (int pixel = 0; pixel < kCellPixels; ++pixel) {
      if (!place.has(task, pixel)) continue;
      const Quad result = each([&](int i) {
        const float d = channels.deviation(found.cell.pixels[pixel].at[i], i);
        const float g = channels.masked(d, found.cell.slope.at[i], i);
        const float v = found.v[pixel].at[i];
        const float part = fmaf(v, channels.scale.at[i], fmaf(d, factor.at[i], offset.at[i]));
        sum.at[i] += channels.masked(d, part, i);
        return g * factor.at[i] - v * v_factor.at[i] - d * linear.at[i] - constant.at[i];
      });
      lane.store(result, results + place.pixel(task, pixel));
    }
    if (!place.whole) return;
    lane.store(each([&](int i) { return sum.at[i] * kQuarter; }), pooled + place.pooled(task));
  });
}

// Terms of a group, and the slope of the weight, from sums over each image.
__global__ void __launch_bounds__(kColumns* kColumns)
    second_terms_kernel(const BlockTask task, const SecondTask run) {
  const int64_t group = blockIdx.x, channels = task.channels;
  const int64_t channel = blockIdx.y * kColumns + threadIdx.x;
  const int64_t read = min(channel, channels - 1);
  const int64_t begin = group * task.per_part, end = begin + task.per_part;
  const int64_t at = group * channels + channel;
  const auto entry = [&](int64_t row, int number) {
    return static_cast<double>(run.sums[(number * run.images + row) * channels + read]);
  };
  if (!task.over_batch) {  // the first rows are shares of the slope
    const double sum = column_sums<1>(begin, end, entry).at[0];
    if (threadIdx.y == 0 && channel < channels) run.weight[at] = static_cast<float>(sum);
    return;
  }
  const ColumnSums<kSecondSums> sums = column_sums<kSecondSums>(begin, end, entry);
  if (threadIdx.y > 0 || channel >= channels) return;
  const int own = static_cast<int>(channel);
  const double values =
      static_cast<double>(task.height) * task.width * static_cast<double>(task.per_part);
  const SecondTerms terms =
      run.terms_of(Spread(task, group, group, own), values,
                   {sums.at[0], sums.at[1], sums.at[2], sums.at[3], sums.at[4]}, group, own);
  put_terms(terms,
            [&](int number, float term) { run.terms[number * run.groups * channels + at] = term; });
  if (run.weight != nullptr) run.weight[at] = static_cast<float>(terms.weight);
}

template <Phase kPhase>
void launch_second(const BlockPlan& plan, const SecondTask& run, cudaStream_t stream) {
  plan.choose<kSecondSums, kTerms, kKept, kPhase == Phase::all>(
      [&](auto wide, auto keep, size_t shared) {
        launch(second_kernel<decltype(wide)::value, decltype(keep)::value, kPhase>, plan.grid,
               plan.block, shared, stream, plan.task, run);
      });
}

}  // namespace

void norm_relu_pool_second_backward_cuda(const std::vector<View>& kept,
                                         const std::vector<View>& second, bool over_batch,
                                         const std::vector<View>& results, const View& workspace,
                                         const Launch& where) {
  const DeviceGuard guard(where.device);
  const BlockShape shape = block_shape(kept.at(0), kept.at(1), over_batch);
  const bool parameters = results.size() > 2;
  float* sums = workspace.as<float>();
  const SecondTask run = {kept.at(5).as<const float>(),
                          second.at(0).as<const float>(),
                          part_rows(second.at(1)),
                          part_rows(second.at(2)),
                          results.at(0).as<float>(),
                          results.at(1).as<float>(),
                          sums,
                          sums + kSecondSums * shape.images * shape.channels,
                          parameters ? results[2].as<float>() : nullptr,
                          shape.images,
                          shape.groups()};
  const BlockPlan plan(
      shape, kept[0].as<const float>(), block_norm(kept[1], kept.at(2), kept.at(3), kept.at(4)),
      all_aligned(shape,
                  {kept[0].data, kept[5].data, second[0].data, results[0].data, results[1].data}));
  if (shape.channels == 0) return;
  const auto launch_terms = [&] {
    launch_columns<kSecondSums>(second_terms_kernel, shape.parts, shape.channels, where.stream,
                                plan.task, run);
  };
  if (over_batch) {
    launch_second<Phase::sums>(plan, run, where.stream);
    launch_terms();
    return launch_second<Phase::apply>(plan, run, where.stream);
  }
  if (shape.images > 0) launch_second<Phase::all>(plan, run, where.stream);
  if (parameters) launch_terms();
}

}  // namespace pydream
