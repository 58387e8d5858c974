#include <algorithm>
#include <cmath>
#include <vector>

#include "block/block.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace pydream {

PYDREAM_KERNELS(BlockKernels, block_kernels)

namespace {

// Values of one image that a thread processes at a time; a few times this fits its second-level
// cache.
constexpr int64_t kPiece = 1 << 16;
// Channels processed together: the most that fit in a kernel's registers.
constexpr int64_t kChannels = 64;

// One or several rows of floats per image: [N, C] each.
class Table {
 public:
  Table(int64_t rows, int64_t channels) : channels_(channels), values_(rows * channels) {}
  float* row(int64_t index) { return values_.data() + index * channels_; }
  const float* row(int64_t index) const { return values_.data() + index * channels_; }

 private:
  int64_t channels_;
  std::vector<float> values_;
};

// Calls work(image, first channel, count) for all images and channels.
template <class Work>
void over_images(const BlockShape& shape, int threads, const Work& work) {
  const int64_t parts = (shape.channels + kChannels - 1) / kChannels;
  const int64_t together = shape.pixels() * std::min(shape.channels, kChannels);
  parallel_for(shape.images * parts, std::max<int64_t>(kPiece / together, 1), threads,
               [&](int64_t begin, int64_t end) {
                 for (int64_t item = begin; item < end; ++item) {
                   const int64_t first = item % parts * kChannels;
                   work(item / parts, first, std::min(kChannels, shape.channels - first));
                 }
               });
}

// The images of a group, which share statistics, or of a part.
struct ImageRange {
  int64_t from;
  int64_t to;
};

ImageRange images_of(const BlockShape& shape, int64_t part) {
  return {part * shape.per_part(), (part + 1) * shape.per_part()};
}

// Runs sum(image, first, count) for every image; combine(group, its images, first, count) for every
// group; then pass(image, first, count), which uses the combined sums.
// An image with statistics of its own is still in the cache at its second pass.
template <class Sum, class Combine, class Pass>
void in_two_passes(const BlockShape& shape, int threads, const Sum& sum, const Combine& combine,
                   const Pass& pass) {
  if (!shape.over_batch) {
    over_images(shape, threads, [&](int64_t image, int64_t first, int64_t count) {
      sum(image, first, count);
      combine(image, ImageRange{image, image + 1}, first, count);
      pass(image, first, count);
    });
    return;
  }
  over_images(shape, threads, sum);
  for (int64_t part = 0; part < shape.parts; ++part) {
    combine(part, images_of(shape, part), 0, shape.channels);
  }
  over_images(shape, threads, pass);
}

// The kernels' arguments for one image.
class Images {
 public:
  Images(const BlockShape& shape, const float* images, const float* pooled_slope,
         const BlockNorm& norm)
      : shape_(shape),
        images_(images),
        pooled_slope_(pooled_slope),
        norm_(norm),
        scale_(shape.groups(), shape.channels) {}

  int64_t part(int64_t image) const { return image / shape_.per_part(); }
  int64_t group(int64_t image) const { return shape_.over_batch ? part(image) : image; }
  int64_t part_of_group(int64_t group) const { return shape_.over_batch ? group : part(group); }
  float mean(int64_t group, int64_t channel) const {
    return norm_.mean[group * shape_.channels + channel];
  }
  float rstd(int64_t group, int64_t channel) const {
    return norm_.rstd[group * shape_.channels + channel];
  }
  float scale(int64_t group, int64_t channel) const { return scale_.row(group)[channel]; }

  void set_statistics(int64_t group, int64_t channel, double mean, double variance, double eps) {
    const int64_t at = group * shape_.channels + channel;
    norm_.mean[at] = static_cast<float>(mean);
    norm_.rstd[at] = static_cast<float>(1.0 / std::sqrt(variance + eps));
    set_scale(group, channel);
  }

  void set_scales() {
    for (int64_t group = 0; group < shape_.groups(); ++group) {
      for (int64_t channel = 0; channel < shape_.channels; ++channel) set_scale(group, channel);
    }
  }

  BlockImage at(int64_t image) const {
    const int64_t channels = shape_.channels, row = group(image);
    const float* slope = pooled_slope_ == nullptr
                             ? nullptr
                             : pooled_slope_ + image * shape_.pooled_pixels() * channels;
    return {images_ + image * shape_.pixels() * channels,
            slope,
            shape_.height,
            shape_.width,
            channels,
            norm_.mean + row * channels,
            scale_.row(row),
            norm_.bias.row(part(image))};
  }

 private:
  void set_scale(int64_t group, int64_t channel) {
    const float weight = norm_.weight.row(part_of_group(group))[channel];
    scale_.row(group)[channel] = weight * rstd(group, channel);
  }

  const BlockShape& shape_;
  const float* images_;
  const float* pooled_slope_;
  const BlockNorm& norm_;
  Table scale_;
};

// The sum of a channel over some images.
double total(const Table& sums, const ImageRange& images, int64_t channel) {
  double sum = 0.0;
  for (int64_t image = images.from; image < images.to; ++image) sum += sums.row(image)[channel];
  return sum;
}

// Fills mean, rstd and the pooled values, [N, H / 2, W / 2, C].
void forward(const BlockShape& shape, const float* images, double eps, const BlockNorm& norm,
             float* pooled, int threads) {
  Images all(shape, images, nullptr, norm);
  Table means(shape.images, shape.channels), squares(shape.images, shape.channels);
  const double pixels = static_cast<double>(shape.pixels());
  const auto combine = [&](int64_t group, const ImageRange& own, int64_t first, int64_t count) {
    const double together = static_cast<double>(own.to - own.from);
    for (int64_t channel = first; channel < first + count; ++channel) {
      const double mean = total(means, own, channel) / together;
      double square = total(squares, own, channel);
      for (int64_t image = own.from; image < own.to; ++image) {
        const double apart = means.row(image)[channel] - mean;
        square += pixels * apart * apart;
      }
      all.set_statistics(group, channel, mean, square / (pixels * together), eps);
    }
  };
  in_two_passes(
      shape, threads,
      [&](int64_t image, int64_t first, int64_t count) {
        block_kernels().moments(all.at(image), first, count, means.row(image), squares.row(image));
      },
      combine,
      [&](int64_t image, int64_t first, int64_t count) {
        block_kernels().forward(all.at(image), first, count,
                                pooled + image * shape.pooled_pixels() * shape.channels);
      });
}

// From the slope of the pooled values [N, H / 2, W / 2, C], computes those of the images [N, H, W,
// C] and, unless these are null, of weight and bias [parts, C].
void backward(const BlockShape& shape, const float* images, const BlockNorm& norm,
              const float* pooled_slope, float* image_slope, float* weight_slope, float* bias_slope,
              int threads) {
  Images all(shape, images, pooled_slope, norm);
  all.set_scales();
  Table g(shape.images, shape.channels), g_d(shape.images, shape.channels);
  Table constant(shape.groups(), shape.channels), linear(shape.groups(), shape.channels);
  const auto combine = [&](int64_t group, const ImageRange& own, int64_t first, int64_t count) {
    const double values = static_cast<double>((own.to - own.from) * shape.pixels());
    for (int64_t channel = first; channel < first + count; ++channel) {
      const SlopeTerms terms =
          slope_terms(all.rstd(group, channel), all.scale(group, channel), values,
                      total(g, own, channel), total(g_d, own, channel));
      constant.row(group)[channel] = terms.constant;
      linear.row(group)[channel] = terms.linear;
    }
  };
  in_two_passes(
      shape, threads,
      [&](int64_t image, int64_t first, int64_t count) {
        block_kernels().sums(all.at(image), first, count, g.row(image), g_d.row(image));
      },
      combine,
      [&](int64_t image, int64_t first, int64_t count) {
        const int64_t group = all.group(image);
        block_kernels().backward(all.at(image), first, count,
                                 {constant.row(group), linear.row(group)},
                                 image_slope + image * shape.pixels() * shape.channels);
      });
  if (weight_slope == nullptr) return;
  for (int64_t part = 0; part < shape.parts; ++part) {
    const ImageRange own = images_of(shape, part);
    for (int64_t channel = 0; channel < shape.channels; ++channel) {
      double sum = 0.0;
      for (int64_t image = own.from; image < own.to; ++image) {
        sum += static_cast<double>(all.rstd(all.group(image), channel)) * g_d.row(image)[channel];
      }
      weight_slope[part * shape.channels + channel] = static_cast<float>(sum);
      bias_slope[part * shape.channels + channel] = static_cast<float>(total(g, own, channel));
    }
  }
}

// Slopes with respect to the results of backward.
struct SecondSlopes {
  const float* image;  // [N, H, W, C], with respect to image_slope
  PartRows weight;     // with respect to weight_slope
  PartRows bias;       // with respect to bias_slope
};

// The results of a second derivative: the slopes with respect to pooled_slope, the images and,
// unless it is null, the weight [parts, C].
struct SecondResults {
  float* pooled;
  float* image;
  float* weight;
};

void second_backward(const BlockShape& shape, const float* images, const BlockNorm& norm,
                     const float* pooled_slope, const SecondSlopes& second,
                     const SecondResults& results, int threads) {
  Images all(shape, images, pooled_slope, norm);
  all.set_scales();
  const auto table = [&](int64_t rows) { return Table(rows, shape.channels); };
  Table v = table(shape.images), v_d = table(shape.images), g = table(shape.images),
        g_d = table(shape.images), v_g = table(shape.images);
  Table factor = table(shape.groups()), offset = table(shape.groups()),
        v_factor = table(shape.groups()), linear = table(shape.groups()),
        constant = table(shape.groups()), by_weight = table(shape.groups());
  const auto combine = [&](int64_t group, const ImageRange& own, int64_t first, int64_t count) {
    const double values = static_cast<double>((own.to - own.from) * shape.pixels());
    const int64_t part = all.part_of_group(group);
    const float* weights = second.weight.row(part);
    const float* biases = second.bias.row(part);
    for (int64_t channel = first; channel < first + count; ++channel) {
      const auto sum = [&](const Table& sums) { return total(sums, own, channel); };
      const SecondTerms terms = second_terms(all.rstd(group, channel), all.scale(group, channel),
                                             values, {sum(v), sum(v_d), sum(g), sum(g_d), sum(v_g)},
                                             weights == nullptr ? 0.0 : weights[channel],
                                             biases == nullptr ? 0.0 : biases[channel]);
      factor.row(group)[channel] = terms.factor;
      offset.row(group)[channel] = terms.offset;
      v_factor.row(group)[channel] = terms.v_factor;
      linear.row(group)[channel] = terms.linear;
      constant.row(group)[channel] = terms.constant;
      by_weight.row(group)[channel] = static_cast<float>(terms.weight);
    }
  };
  const int64_t size = shape.pixels() * shape.channels;
  in_two_passes(
      shape, threads,
      [&](int64_t image, int64_t first, int64_t count) {
        block_kernels().second_sums(
            all.at(image), first, count, second.image + image * size,
            {v.row(image), v_d.row(image), g.row(image), g_d.row(image), v_g.row(image)});
      },
      combine,
      [&](int64_t image, int64_t first, int64_t count) {
        const int64_t group = all.group(image);
        block_kernels().second_backward(
            all.at(image), first, count, second.image + image * size,
            {factor.row(group), offset.row(group), v_factor.row(group), linear.row(group),
             constant.row(group)},
            results.pooled + image * shape.pooled_pixels() * shape.channels,
            results.image + image * size);
      });
  if (results.weight == nullptr) return;
  for (int64_t part = 0; part < shape.parts; ++part) {
    const ImageRange own = shape.over_batch ? ImageRange{part, part + 1} : images_of(shape, part);
    for (int64_t channel = 0; channel < shape.channels; ++channel) {
      results.weight[part * shape.channels + channel] =
          static_cast<float>(total(by_weight, own, channel));
    }
  }
}

// The memory of a result, or null if it is not asked for.
float* result_at(const std::vector<View>& results, size_t number) {
  return number < results.size() ? results[number].as<float>() : nullptr;
}

}  // namespace

void norm_relu_pool_cpu(const View& images, const View& weight, const View& bias, bool over_batch,
                        double eps, const View& pooled, const View& mean, const View& rstd,
                        int threads) {
  forward(block_shape(images, weight, over_batch), images.as<const float>(), eps,
          block_norm(weight, bias, mean, rstd), pooled.as<float>(), threads);
}

void norm_relu_pool_backward_cpu(const std::vector<View>& kept, bool over_batch,
                                 const std::vector<View>& results, int threads) {
  backward(block_shape(kept.at(0), kept.at(1), over_batch), kept[0].as<const float>(),
           block_norm(kept[1], kept.at(2), kept.at(3), kept.at(4)), kept.at(5).as<const float>(),
           result_at(results, 0), result_at(results, 1), result_at(results, 2), threads);
}

void norm_relu_pool_second_backward_cpu(const std::vector<View>& kept,
                                        const std::vector<View>& second, bool over_batch,
                                        const std::vector<View>& results, int threads) {
  second_backward(
      block_shape(kept.at(0), kept.at(1), over_batch), kept[0].as<const float>(),
      block_norm(kept[1], kept.at(2), kept.at(3), kept.at(4)), kept.at(5).as<const float>(),
      {second.at(0).as<const float>(), part_rows(second.at(1)), part_rows(second.at(2))},
      {result_at(results, 0), result_at(results, 1), result_at(results, 2)}, threads);
}

}  // namespace pydream
