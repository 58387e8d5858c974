// The part of a ConvNet block after the convolution: norm, ReLU, 2 x 2 average pool; with its first
// and second derivative. See pydream/ops/block.py for the contract.
#pragma once

#include <cstdint>
#include <vector>

#include "common/host_device.h"
#include "common/view.h"

namespace pydream {

// Channels-last: images [N, H, W, C], pooled [N, H / 2, W / 2, C], halves rounded down. The images
// are `parts` batches of one size, one behind the other, each with its own row of parameters.
struct BlockShape {
  int64_t images;
  int64_t height;
  int64_t width;
  int64_t channels;
  int64_t parts;
  bool over_batch;  // statistics of a channel over a part (batch norm), or within each image

  int64_t pixels() const { return height * width; }
  int64_t pooled_pixels() const { return (height / 2) * (width / 2); }
  int64_t per_part() const { return images / parts; }
  int64_t groups() const { return over_batch ? parts : images; }  // that share statistics
};

// From images (N, C, H, W), the shape of a tensor, and weight (C) or (parts, C).
inline BlockShape block_shape(const View& images, const View& weight, bool over_batch) {
  return {images.shape[0],
          images.shape[2],
          images.shape[3],
          images.shape[1],
          weight.rank == 2 ? weight.shape[0] : 1,
          over_batch};
}

// A row of values for each part, [parts, C]; null stands for zeros.
struct PartRows {
  const float* values;
  int64_t stride;  // 0 where the parts share one row

  PYDREAM_HOST_DEVICE const float* row(int64_t part) const {
    return values == nullptr ? nullptr : values + part * stride;
  }
};

// From (C) or (parts, C), whose rows are contiguous.
inline PartRows part_rows(const View& view) {
  return {view.as<const float>(), view.rank == 2 ? view.stride[0] : 0};
}

// Parameters and statistics of the norm.
struct BlockNorm {
  PartRows weight;
  PartRows bias;
  float* mean;  // [groups, C], filled by the forward pass
  float* rstd;  // [groups, C], 1 / sqrt(variance + eps), also filled by the forward pass
};

inline BlockNorm block_norm(const View& weight, const View& bias, const View& mean,
                            const View& rstd) {
  return {part_rows(weight), part_rows(bias), mean.as<float>(), rstd.as<float>()};
}

// The slope of an image is scale * masked - constant - deviation * linear.
struct SlopeTerms {
  float constant;
  float linear;
};

// From sums over the `values` pixels of a group: of the masked slope g, and of its product with the
// deviation d from the mean.
PYDREAM_HOST_DEVICE inline SlopeTerms slope_terms(double rstd, double scale, double values,
                                                  double g, double g_d) {
  return {static_cast<float>(scale / values * g),
          static_cast<float>(scale / values * rstd * rstd * g_d)};
}

// Sums over the pixels of a group for the second derivative, with d the deviation from the mean, g
// the masked slope and v the slope of the image.
constexpr int kSecondSums = 5;
struct SecondSums {
  double v;
  double v_d;
  double g;
  double g_d;
  double v_g;
};

// The pooled result is the mean over a cell of v * scale + d * factor + offset where the ReLU is
// open; the image's is g * factor - v * v_factor - d * linear - constant.
struct SecondTerms {
  float factor;
  float offset;
  float v_factor;
  float linear;
  float constant;
  double weight;  // the slope with respect to the channel's weight
};

// From sums over the `values` pixels of a group, and the slopes with respect to those of weight and
// bias. With x the normalised deviation, h = g a - v scale mean(g x) is the slope with respect to
// x, where a = by_weight - scale mean(v x); the rest follows because x has mean 0 and variance 1.
PYDREAM_HOST_DEVICE inline SecondTerms second_terms(double rstd, double scale, double values,
                                                    const SecondSums& sums, double by_weight,
                                                    double by_bias) {
  const double g_mean = sums.g / values, gx_mean = rstd * (sums.g_d / values);
  const double v_mean = sums.v / values, vx_mean = rstd * (sums.v_d / values);
  const double covariance = sums.v_g / values - g_mean * v_mean - gx_mean * vx_mean;
  const double a = by_weight - scale * vx_mean;
  const double hx_mean = gx_mean * a - vx_mean * scale * gx_mean;
  return {static_cast<float>(rstd * a),
          static_cast<float>(by_bias - scale * v_mean),
          static_cast<float>(rstd * scale * gx_mean),
          static_cast<float>(rstd * rstd * (hx_mean + scale * covariance)),
          static_cast<float>(rstd * (g_mean * a - v_mean * scale * gx_mean)),
          rstd * values * covariance};
}

// Images, pooled values and their slopes are float32 and channels-last.

// Fills pooled [N, C, H / 2, W / 2], mean and rstd [groups, C] from images [N, C, H, W], weight and
// bias [C] or [parts, C].
void norm_relu_pool_cpu(const View& images, const View& weight, const View& bias, bool over_batch,
                        double eps, const View& pooled, const View& mean, const View& rstd,
                        int threads);

// Slopes of a loss. `kept` holds images, weight, bias, mean, rstd, and the slope with respect to
// the pooled values; `results` are the slopes with respect to images and, if they are asked for,
// weight and bias.
void norm_relu_pool_backward_cpu(const std::vector<View>& kept, bool over_batch,
                                 const std::vector<View>& results, int threads);

// Slopes of a function of those results, whose own slopes are `second`, null for weight and bias
// where they are 0; `results` are the slopes with respect to the slope of the pooled values, the
// images and, if it is asked for, the weight.
void norm_relu_pool_second_backward_cpu(const std::vector<View>& kept,
                                        const std::vector<View>& second, bool over_batch,
                                        const std::vector<View>& results, int threads);

// Pixels of one image, and the kernels' parameters of each channel: [C] unless said otherwise.
struct BlockImage {
  const float* images;        // [H, W, C]
  const float* pooled_slope;  // [H / 2, W / 2, C]
  int64_t height;
  int64_t width;
  int64_t channels;
  const float* mean;
  const float* scale;  // weight * rstd
  const float* bias;
};

// Terms and sums of each channel of an image: [C] each.
struct SlopeRows {
  const float* constant;
  const float* linear;
};

struct SecondSumRows {
  float* v;
  float* v_d;
  float* g;
  float* g_d;
  float* v_g;
};

struct SecondRows {
  const float* factor;
  const float* offset;
  const float* v_factor;
  const float* linear;
  const float* constant;
};

// One per instruction set, from block_kernel.cpp; each for `count` channels from `first` on.
struct BlockKernels {
  // Mean, and sum of squared deviations from it.
  void (*moments)(const BlockImage& image, int64_t first, int64_t count, float* mean,
                  float* squares);
  void (*forward)(const BlockImage& image, int64_t first, int64_t count, float* pooled);
  // Sums of the masked slope, and of its product with the deviation.
  void (*sums)(const BlockImage& image, int64_t first, int64_t count, float* slope,
               float* slope_deviation);
  void (*backward)(const BlockImage& image, int64_t first, int64_t count, const SlopeRows& terms,
                   float* slope);
  void (*second_sums)(const BlockImage& image, int64_t first, int64_t count, const float* v,
                      const SecondSumRows& sums);
  void (*second_backward)(const BlockImage& image, int64_t first, int64_t count, const float* v,
                          const SecondRows& terms, float* pooled, float* slope);
};

}  // namespace pydream
