// What follows the convolution in a block of ConvNet: norm, ReLU, 2 x 2 average pool; with its
// first and second derivative. See pydream/ops/block.py for the contract.
#pragma once

#include <cstdint>
#include <vector>

namespace pydream {

// Channels-last: images [N, H, W, C], pooled [N, H / 2, W / 2, C], halves rounded down.
struct BlockShape {
  int64_t images;
  int64_t height;
  int64_t width;
  int64_t channels;
  bool over_batch;  // statistics of a channel over all images (batch norm), or of each one's

  int64_t pixels() const { return height * width; }
  int64_t pooled_pixels() const { return (height / 2) * (width / 2); }
  int64_t groups() const { return over_batch ? 1 : images; }
};

// From (N, C, H, W), as tensors have it.
inline BlockShape block_shape(const std::vector<int64_t>& shape, bool over_batch) {
  return {shape.at(0), shape.at(2), shape.at(3), shape.at(1), over_batch};
}

// What the norm knows.
struct BlockNorm {
  const float* weight;  // [C]
  const float* bias;    // [C]
  float* mean;          // [groups, C], filled by block_forward
  float* rstd;          // [groups, C], 1 / sqrt(variance + eps), filled likewise
};

// Fills mean, rstd and the pooled values, [N, H / 2, W / 2, C].
void block_forward_cpu(const BlockShape& shape, const float* images, double eps,
                       const BlockNorm& norm, float* pooled, int threads);

// Slopes of a loss: with respect to the pooled values it is given, [N, H / 2, W / 2, C]; those
// with respect to the images [N, H, W, C], the weight and the bias [C] it fills.
void block_backward_cpu(const BlockShape& shape, const float* images, const BlockNorm& norm,
                        const float* pooled_slope, float* image_slope, float* weight_slope,
                        float* bias_slope, int threads);

// The slopes of what depends on the results of block_backward.
struct SecondSlopes {
  const float* image;   // [N, H, W, C], with respect to image_slope
  const float* weight;  // [C], with respect to weight_slope
  const float* bias;    // [C], with respect to bias_slope
};

// Fills the slopes with respect to pooled_slope, the images and the weight.
void block_second_backward_cpu(const BlockShape& shape, const float* images, const BlockNorm& norm,
                               const float* pooled_slope, const SecondSlopes& second,
                               float* pooled_result, float* image_result, float* weight_result,
                               int threads);

// Pixels of one image, and what the kernels are told of each channel: [C] behind every pointer.
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

// Sums over an image of what the second derivative needs, with d the deviation from the mean, g
// the masked slope and v that of the image: [C] each.
struct SecondSums {
  float* v;
  float* v_d;
  float* g;
  float* g_d;
  float* v_g;
};

// The pooled result is the mean over a cell of v * scale + d * factor + offset where the ReLU let
// pass; the image's is g * factor - v * v_factor - d * linear - constant. [C] each.
struct SecondTerms {
  const float* factor;
  const float* offset;
  const float* v_factor;
  const float* linear;
  const float* constant;
};

// One per instruction set, from block_kernel.cpp; each for `count` channels from `first` on.
struct BlockKernels {
  // Mean, and the sum of squared deviations from it.
  void (*moments)(const BlockImage& image, int64_t first, int64_t count, float* mean,
                  float* squares);
  void (*forward)(const BlockImage& image, int64_t first, int64_t count, float* pooled);
  // Sums of the masked slope, and of it times the deviation.
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
