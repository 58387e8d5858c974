// The part of a ConvNet block after the convolution: norm, ReLU, 2 x 2 average pool; with its first
// and second derivative. See pydream/ops/block.py for the contract.
#pragma once

#include <cstdint>
#include <vector>

#include "common/view.h"

namespace pydream {

// Channels-last: images [N, H, W, C], pooled [N, H / 2, W / 2, C], halves rounded down.
struct BlockShape {
  int64_t images;
  int64_t height;
  int64_t width;
  int64_t channels;
  bool over_batch;  // statistics of a channel over all images (batch norm), or within each

  int64_t pixels() const { return height * width; }
  int64_t pooled_pixels() const { return (height / 2) * (width / 2); }
  int64_t groups() const { return over_batch ? 1 : images; }
};

// From images (N, C, H, W), the shape of a tensor.
inline BlockShape block_shape(const View& images, bool over_batch) {
  return {images.shape[0], images.shape[2], images.shape[3], images.shape[1], over_batch};
}

// Parameters and statistics of the norm.
struct BlockNorm {
  const float* weight;  // [C]
  const float* bias;    // [C]
  float* mean;          // [groups, C], filled by block_forward
  float* rstd;          // [groups, C], 1 / sqrt(variance + eps), also filled by block_forward
};

// Images, pooled values and their slopes are float32 and channels-last.

// Fills pooled [N, C, H / 2, W / 2], mean and rstd [groups, C] from images [N, C, H, W], weight and
// bias [C].
void norm_relu_pool_cpu(const View& images, const View& weight, const View& bias, bool over_batch,
                        double eps, const View& pooled, const View& mean, const View& rstd,
                        int threads);

// Slopes of a loss. `kept` holds images, weight, bias, mean, rstd, and the slope with respect to
// the pooled values; `results` are the slopes with respect to images, weight and bias.
void norm_relu_pool_backward_cpu(const std::vector<View>& kept, bool over_batch,
                                 const std::vector<View>& results, int threads);

// Slopes of a function of those results, whose own slopes are `second`; `results` are the slopes
// with respect to the slope of the pooled values, the images and the weight.
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

// The slope of an image is scale * masked - constant - deviation * linear.
struct SlopeTerms {
  const float* constant;  // [C]
  const float* linear;    // [C]
};

// Sums over an image for the second derivative, with d the deviation from the mean, g the masked
// slope and v the slope of the image: [C] each.
struct SecondSums {
  float* v;
  float* v_d;
  float* g;
  float* g_d;
  float* v_g;
};

// The pooled result is the mean over a cell of v * scale + d * factor + offset where the ReLU is
// open; the image's is g * factor - v * v_factor - d * linear - constant. [C] each.
struct SecondTerms {
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
  void (*backward)(const BlockImage& image, int64_t first, int64_t count, const SlopeTerms& terms,
                   float* slope);
  void (*second_sums)(const BlockImage& image, int64_t first, int64_t count, const float* v,
                      const SecondSums& sums);
  void (*second_backward)(const BlockImage& image, int64_t first, int64_t count, const float* v,
                          const SecondTerms& terms, float* pooled, float* slope);
};

}  // namespace pydream
