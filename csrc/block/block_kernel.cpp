// Norm, ReLU and average pool of one image, and their derivatives, compiled once per instruction
// set.
//
// Shapes: images [H, W, C], channels last; pooled [H / 2, W / 2, C].
// Presumes: the channels of an image processed together fit the second-level cache (32 x 32 x 128
// are 512 KiB), because each is read two or three times. Limit: bandwidth; forward reads the images
// once and writes a quarter, backward reads and writes as much. PyTorch's operations move four
// times that, and its group norm processes channels-last images pixel by pixel.
//
// Up to kBlock vectors of channels are processed side by side, with their sums in registers. For
// any width, the sums of a channel run over the pixels in the same order.
#include "block/block.h"
#include "common/simd.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

// As many as fit in the registers with two sums and four constants each.
constexpr int kBlock = kWidth == 16 ? 4 : 2;

// B vectors of channels, [B * lanes] in memory.
template <class V, int B>
struct Lanes {
  V value[B];

  static constexpr int64_t kStep = sizeof(V) / sizeof(float);

  static Lanes at(const float* from) {
    Lanes lanes;
    for (int b = 0; b < B; ++b) lanes.value[b] = load_as<V>(from + b * kStep);
    return lanes;
  }

  void put(float* to) const {
    for (int b = 0; b < B; ++b) store(to + b * kStep, value[b]);
  }
};

// Calls work.run<V, B>(channel) until all channels are processed.
template <class Work>
void over_channels(int64_t first, int64_t count, const Work& work) {
  const int64_t end = first + count;
  for (; end - first >= kBlock * kWidth; first += kBlock * kWidth) {
    work.template run<Floats, kBlock>(first);
  }
  if constexpr (kBlock > 2) {
    if (end - first >= 3 * kWidth) {
      work.template run<Floats, 3>(first);
      first += 3 * kWidth;
    } else if (end - first >= 2 * kWidth) {
      work.template run<Floats, 2>(first);
      first += 2 * kWidth;
    }
  }
  for (; end - first >= kWidth; first += kWidth) work.template run<Floats, 1>(first);
  for (; first < end; ++first) work.template run<float, 1>(first);
}

// Calls inside(pixel, cell) for every cell, with offsets in values, of the upper left pixel and of
// the cell; outside(pixel) for those of a last odd row or column; and end_row() now and then, so
// that sums can be taken by rows first, which rounds less.
template <class Inside, class Outside, class EndRow>
inline void over_pixels(const BlockImage& image, const Inside& inside, const Outside& outside,
                        const EndRow& end_row) {
  const int64_t step = image.channels, row = image.width * step;
  const int64_t rows = image.height / 2, columns = image.width / 2;
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < columns; ++x) {
      inside(2 * (y * row + x * step), (y * columns + x) * step);
    }
    if (image.width % 2 != 0) {
      outside(2 * y * row + row - step);
      outside((2 * y + 1) * row + row - step);
    }
    end_row();
  }
  if (image.height % 2 != 0) {
    for (int64_t x = 0; x < image.width; ++x) outside(2 * rows * row + x * step);
    end_row();
  }
}

// The four pixels of a cell, upper left first, as offsets in values.
struct Cell {
  int64_t places[4];

  Cell(const BlockImage& image, int64_t first) {
    const int64_t step = image.channels, row = image.width * step;
    const int64_t offsets[] = {0, step, row, row + step};
    for (int i = 0; i < 4; ++i) places[i] = first + offsets[i];
  }
};

struct Moments {
  const BlockImage& image;
  float* mean;
  float* squares;

  template <class V, int B>
  void run(int64_t channel) const {
    using L = Lanes<V, B>;
    const float* images = image.images + channel;
    const int64_t row = image.width * image.channels;
    const auto sum_rows = [&](const auto& term) {
      L total = {};
      for (int64_t y = 0; y < image.height; ++y) {
        L sum = {};
        for (int64_t at = y * row; at < (y + 1) * row; at += image.channels) {
          for (int b = 0; b < B; ++b) {
            sum.value[b] += term(load_as<V>(images + at + b * L::kStep), b);
          }
        }
        for (int b = 0; b < B; ++b) total.value[b] += sum.value[b];
      }
      return total;
    };
    L middle = sum_rows([](V value, int) { return value; });
    for (V& each : middle.value) each /= static_cast<float>(image.height * image.width);
    middle.put(mean + channel);
    sum_rows([&](V value, int b) {
      const V deviation = value - middle.value[b];
      return deviation * deviation;
    }).put(squares + channel);
  }
};

// The values of a channel that every pass needs: d, the ReLU's mask, and its output.
template <class V, int B>
struct Channels {
  using L = Lanes<V, B>;
  const L mean, scale, bias;

  Channels(const BlockImage& image, int64_t channel)
      : mean(L::at(image.mean + channel)),
        scale(L::at(image.scale + channel)),
        bias(L::at(image.bias + channel)) {}

  V deviation(const float* images, int b) const {
    return load_as<V>(images + b * L::kStep) - mean.value[b];
  }

  // `value` where the ReLU of deviation d is open, else 0; open for NaN, as in PyTorch.
  V masked(V d, V value, int b) const {
    const V normed = d * scale.value[b] + bias.value[b];
    return normed <= 0.0f ? V{} : value;
  }

  V rectified(V d, int b) const {
    const V normed = d * scale.value[b] + bias.value[b];
    return normed <= 0.0f ? V{} : normed;
  }
};

constexpr float kQuarter = 0.25f;  // weight of each pixel of a cell

struct Forward {
  const BlockImage& image;
  float* pooled;

  template <class V, int B>
  void run(int64_t channel) const {
    const Channels<V, B> channels(image, channel);
    const float* images = image.images + channel;
    const auto pool = [&](int64_t pixel, int64_t cell) {
      const Cell pixels(image, pixel);
      Lanes<V, B> sum = {};
      for (const int64_t place : pixels.places) {
        for (int b = 0; b < B; ++b) {
          sum.value[b] += channels.rectified(channels.deviation(images + place, b), b);
        }
      }
      for (V& each : sum.value) each *= kQuarter;
      sum.put(pooled + channel + cell);
    };
    over_pixels(image, pool, [](int64_t) {}, [] {});
  }
};

struct Sums {
  const BlockImage& image;
  float* slope;
  float* slope_deviation;

  template <class V, int B>
  void run(int64_t channel) const {
    using L = Lanes<V, B>;
    const Channels<V, B> channels(image, channel);
    const float* images = image.images + channel;
    L g = {}, g_d = {}, g_row = {}, g_d_row = {};
    const auto add = [&](int64_t pixel, int64_t cell) {
      const Cell pixels(image, pixel);
      for (int b = 0; b < B; ++b) {
        const V upstream =
            load_as<V>(image.pooled_slope + channel + cell + b * L::kStep) * kQuarter;
        for (const int64_t place : pixels.places) {
          const V d = channels.deviation(images + place, b);
          const V masked = channels.masked(d, upstream, b);
          g_row.value[b] += masked;
          g_d_row.value[b] += masked * d;
        }
      }
    };
    over_pixels(
        image, add, [](int64_t) {},
        [&] {
          for (int b = 0; b < B; ++b) {
            g.value[b] += g_row.value[b];
            g_d.value[b] += g_d_row.value[b];
          }
          g_row = g_d_row = {};
        });
    g.put(slope + channel);
    g_d.put(slope_deviation + channel);
  }
};

struct Backward {
  const BlockImage& image;
  const SlopeRows& terms;
  float* slope;

  template <class V, int B>
  void run(int64_t channel) const {
    using L = Lanes<V, B>;
    const Channels<V, B> channels(image, channel);
    const L constant = L::at(terms.constant + channel), linear = L::at(terms.linear + channel);
    const float* images = image.images + channel;
    const auto put = [&](int64_t place, V d, V masked, int b) {
      store(slope + channel + place + b * L::kStep,
            masked * channels.scale.value[b] - constant.value[b] - d * linear.value[b]);
    };
    const auto inside = [&](int64_t pixel, int64_t cell) {
      const Cell pixels(image, pixel);
      for (int b = 0; b < B; ++b) {
        const V upstream =
            load_as<V>(image.pooled_slope + channel + cell + b * L::kStep) * kQuarter;
        for (const int64_t place : pixels.places) {
          const V d = channels.deviation(images + place, b);
          put(place, d, channels.masked(d, upstream, b), b);
        }
      }
    };
    const auto outside = [&](int64_t place) {
      for (int b = 0; b < B; ++b) put(place, channels.deviation(images + place, b), V{}, b);
    };
    over_pixels(image, inside, outside, [] {});
  }
};

struct SecondSummed {
  const BlockImage& image;
  const float* slope;
  const SecondSumRows& sums;

  template <class V, int B>
  void run(int64_t channel) const {
    using L = Lanes<V, B>;
    const Channels<V, B> channels(image, channel);
    const float* images = image.images + channel;
    L total[kSecondSums] = {}, of_row[kSecondSums] = {};
    const auto add = [&](int64_t place, V masked, int b) {
      const V d = channels.deviation(images + place, b);
      const V g = channels.masked(d, masked, b);
      const V v = load_as<V>(slope + channel + place + b * L::kStep);
      const V terms[kSecondSums] = {v, v * d, g, g * d, v * g};
      for (int sum = 0; sum < kSecondSums; ++sum) of_row[sum].value[b] += terms[sum];
    };
    const auto inside = [&](int64_t pixel, int64_t cell) {
      const Cell pixels(image, pixel);
      for (int b = 0; b < B; ++b) {
        const V upstream =
            load_as<V>(image.pooled_slope + channel + cell + b * L::kStep) * kQuarter;
        for (const int64_t place : pixels.places) add(place, upstream, b);
      }
    };
    const auto outside = [&](int64_t place) {
      for (int b = 0; b < B; ++b) add(place, V{}, b);
    };
    over_pixels(image, inside, outside, [&] {
      for (int sum = 0; sum < kSecondSums; ++sum) {
        for (int b = 0; b < B; ++b) total[sum].value[b] += of_row[sum].value[b];
        of_row[sum] = {};
      }
    });
    float* results[kSecondSums] = {sums.v, sums.v_d, sums.g, sums.g_d, sums.v_g};
    for (int sum = 0; sum < kSecondSums; ++sum) total[sum].put(results[sum] + channel);
  }
};

struct SecondBackward {
  const BlockImage& image;
  const float* v_slope;
  const SecondRows& terms;
  float* pooled;
  float* slope;

  template <class V, int B>
  void run(int64_t channel) const {
    using L = Lanes<V, B>;
    const Channels<V, B> channels(image, channel);
    const L factor = L::at(terms.factor + channel), offset = L::at(terms.offset + channel);
    const L v_factor = L::at(terms.v_factor + channel);
    const L linear = L::at(terms.linear + channel), constant = L::at(terms.constant + channel);
    const float* images = image.images + channel;
    // Writes the slope of a pixel; returns its contribution to that of the cell.
    const auto put = [&](int64_t place, V upstream, int b) {
      const V d = channels.deviation(images + place, b);
      const V g = channels.masked(d, upstream, b);
      const V v = load_as<V>(v_slope + channel + place + b * L::kStep);
      store(slope + channel + place + b * L::kStep,
            g * factor.value[b] - v * v_factor.value[b] - d * linear.value[b] - constant.value[b]);
      const V part = v * channels.scale.value[b] + d * factor.value[b] + offset.value[b];
      return channels.masked(d, part, b);
    };
    const auto inside = [&](int64_t pixel, int64_t cell) {
      const Cell pixels(image, pixel);
      for (int b = 0; b < B; ++b) {
        const int64_t at = channel + cell + b * L::kStep;
        const V upstream = load_as<V>(image.pooled_slope + at) * kQuarter;
        V sum = {};
        for (const int64_t place : pixels.places) sum += put(place, upstream, b);
        store(pooled + at, sum * kQuarter);
      }
    };
    const auto outside = [&](int64_t place) {
      for (int b = 0; b < B; ++b) put(place, V{}, b);
    };
    over_pixels(image, inside, outside, [] {});
  }
};

void moments(const BlockImage& image, int64_t first, int64_t count, float* mean, float* squares) {
  over_channels(first, count, Moments{image, mean, squares});
}

void forward(const BlockImage& image, int64_t first, int64_t count, float* pooled) {
  over_channels(first, count, Forward{image, pooled});
}

void sums(const BlockImage& image, int64_t first, int64_t count, float* slope,
          float* slope_deviation) {
  over_channels(first, count, Sums{image, slope, slope_deviation});
}

void backward(const BlockImage& image, int64_t first, int64_t count, const SlopeRows& terms,
              float* slope) {
  over_channels(first, count, Backward{image, terms, slope});
}

void second_sums(const BlockImage& image, int64_t first, int64_t count, const float* v,
                 const SecondSumRows& results) {
  over_channels(first, count, SecondSummed{image, v, results});
}

void second_backward(const BlockImage& image, int64_t first, int64_t count, const float* v,
                     const SecondRows& terms, float* pooled, float* slope) {
  over_channels(first, count, SecondBackward{image, v, terms, pooled, slope});
}

}  // namespace

extern const BlockKernels block_kernels_table;
const BlockKernels block_kernels_table = {moments,  forward,     sums,
                                          backward, second_sums, second_backward};

}  // namespace PYDREAM_ISA
}  // namespace pydream
