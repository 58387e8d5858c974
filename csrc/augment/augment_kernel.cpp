// DSA's augmentations of an image and their adjoint, compiled once per instruction set.
//
// Shapes: images [C, H, W]; planes in the scratch [H + 3, W + 3], also with four channels
// interleaved; all arithmetic in float32.
// Presumes: an image, its planes in the scratch and the result fit the second-level cache
// (3 x 224 x 224 do); larger ones are right, but slower. One thread processes a whole image, so the
// adjoint can add to its planes at the pixels that were read, in a fixed order.
// Limit: at 32 x 32 the arithmetic of the bilinear reads; for shifts and flips, bandwidth.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "augment/augment.h"
#include "common/simd.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

struct Shape {
  int64_t channels;
  int64_t height;
  int64_t width;
};

// The planes of an image, with arbitrary strides between rows.
template <class Value>
struct Planes {
  Value* first;
  int64_t row;    // values from one row to the next
  int64_t plane;  // values from one plane to the next

  Value* at(int64_t channel, int64_t y) const { return first + channel * plane + y * row; }
};

constexpr int kTaps = 4;  // left and right, then the same of the row below

struct Scratch {
  Planes<float> padded;  // [C, H + 3, W + 3]
  Planes<float> inner;   // the same without the margin, [C, H, W]
  float* sums;           // [W]
  int32_t* tap;          // [W], rounded up to whole vectors
  float* weight[kTaps];  // [W] each, rounded up
  float* values;         // [C, H, W]
  float* pixels;         // [H + 3, W + 3, 4]
};

Scratch lay_out(const Augment& task, float* memory) {
  const int64_t row = task.width + kAugmentMargin, plane = augment_plane(task);
  const int64_t step = augment_row_values(task);
  float* rows = memory + task.channels * plane;
  return {{memory, row, plane},
          {memory + row + 1, row, plane},
          rows,
          reinterpret_cast<int32_t*>(rows + step),
          {rows + 2 * step, rows + 3 * step, rows + 4 * step, rows + 5 * step},
          rows + 6 * step,
          rows + 6 * step + task.channels * task.height * task.width};
}

// The image in float32: in place, or widened into `values`.
const float* load_image(const Augment& task, int64_t image, float* values) {
  const int64_t count = task.channels * task.height * task.width;
  switch (task.type) {
    case Dtype::float16:
      widen(static_cast<const Half*>(task.from) + image * count, count, values);
      return values;
    case Dtype::bfloat16:
      widen(static_cast<const BFloat16*>(task.from) + image * count, count, values);
      return values;
    default:
      return static_cast<const float*>(task.from) + image * count;
  }
}

// Destination of float32 results: the output itself, or `values`, from which store_image narrows.
float* result_of(const Augment& task, int64_t image, float* values) {
  const int64_t count = task.channels * task.height * task.width;
  if (task.type != Dtype::float32) return values;
  return static_cast<float*>(task.to) + image * count;
}

void store_image(const Augment& task, int64_t image, const float* values) {
  const int64_t count = task.channels * task.height * task.width;
  if (task.type == Dtype::float16) {
    narrow(values, count, static_cast<Half*>(task.to) + image * count);
  } else if (task.type == Dtype::bfloat16) {
    narrow(values, count, static_cast<BFloat16*>(task.to) + image * count);
  }
}

// The mean of an image. Columns are summed first, over all rows, for which float32 suffices.
float mean_of(const Planes<const float>& image, const Shape& shape, float* __restrict sums) {
  std::fill_n(sums, shape.width, 0.0f);
  for (int64_t c = 0; c < shape.channels; ++c) {
    for (int64_t y = 0; y < shape.height; ++y) {
      const float* __restrict row = image.at(c, y);
      for (int64_t x = 0; x < shape.width; ++x) sums[x] += row[x];
    }
  }
  double total = 0.0;
  for (int64_t x = 0; x < shape.width; ++x) total += static_cast<double>(sums[x]);
  return static_cast<float>(total /
                            static_cast<double>(shape.channels * shape.height * shape.width));
}

// Mixes each pixel with the mean of its channels and the mean of the image, and adds `brightness`.
void mix_colours(const Planes<const float>& from, const Planes<float>& to, const Shape& shape,
                 const ColourMix& mix, float brightness, float* __restrict sums) {
  const float constant =
      brightness + (mix.image == 0.0f ? 0.0f : mix.image * mean_of(from, shape, sums));
  const float share = mix.channels / static_cast<float>(shape.channels);
  const float own = mix.own;
  for (int64_t y = 0; y < shape.height; ++y) {
    std::fill_n(sums, shape.width, constant);
    for (int64_t c = 0; c < shape.channels && share != 0.0f; ++c) {
      const float* __restrict row = from.at(c, y);
      for (int64_t x = 0; x < shape.width; ++x) sums[x] += share * row[x];
    }
    for (int64_t c = 0; c < shape.channels; ++c) {
      const float* __restrict row = from.at(c, y);
      float* __restrict out = to.at(c, y);
      for (int64_t x = 0; x < shape.width; ++x) out[x] = own * row[x] + sums[x];
    }
  }
}

// A map by whole pixels: output (x, y) is input (sign_x x + shift_x, sign_y y + shift_y).
struct Move {
  int64_t sign_x, shift_x;
  int64_t sign_y, shift_y;

  Move inverse() const { return {sign_x, -sign_x * shift_x, sign_y, -sign_y * shift_y}; }
};

bool whole(float value) {
  return std::fabs(value) < 16777216.0f && value == std::trunc(value);  // 2^24
}

bool is_move(const AffineMap& map, Move* move) {
  if (map.b != 0.0f || map.c != 0.0f || std::fabs(map.a) != 1.0f || std::fabs(map.d) != 1.0f ||
      !whole(map.tx) || !whole(map.ty)) {
    return false;
  }
  *move = {static_cast<int64_t>(map.a), static_cast<int64_t>(map.tx), static_cast<int64_t>(map.d),
           static_cast<int64_t>(map.ty)};
  return true;
}

void move_rows(const Planes<const float>& from, const Planes<float>& to, const Shape& shape,
               const Move& move) {
  const int64_t before = move.sign_x > 0 ? -move.shift_x : move.shift_x - shape.width + 1;
  const int64_t begin = std::clamp<int64_t>(before, 0, shape.width);
  const int64_t end = std::clamp<int64_t>(before + shape.width, 0, shape.width);
  for (int64_t c = 0; c < shape.channels; ++c) {
    for (int64_t y = 0; y < shape.height; ++y) {
      const int64_t source = move.sign_y * y + move.shift_y;
      float* out = to.at(c, y);
      if (source < 0 || source >= shape.height) {
        std::fill_n(out, shape.width, 0.0f);
        continue;
      }
      const float* in = from.at(c, source) + move.shift_x;
      std::fill_n(out, begin, 0.0f);
      if (move.sign_x > 0) {
        std::copy(in + begin, in + end, out + begin);
      } else {
        for (int64_t x = begin; x < end; ++x) out[x] = in[-x];
      }
      std::fill(out + end, out + shape.width, 0.0f);
    }
  }
}

// Clamps to [0, most]; 0 for NaN.
inline Floats clamped(Floats values, float most) {
  const Floats low = {}, high = splat(most);
  values = values > low ? values : low;
  return values < high ? values : high;
}

// For each pixel of output row y: the first of the four pixels that it reads in a plane of the
// scratch, and their weights. Pixels that pad the last vector read valid memory, too.
void find_taps(const AffineMap& map, const Shape& shape, int64_t y, const Scratch& scratch) {
  const int32_t stride = static_cast<int32_t>(scratch.padded.row);
  const float from_x = map.b * static_cast<float>(y) + map.tx + 1.0f;  // the margin
  const float from_y = map.d * static_cast<float>(y) + map.ty + 1.0f;
  Floats across;
  for (int64_t i = 0; i < kWidth; ++i) across[i] = static_cast<float>(i);
  for (int64_t x = 0; x < shape.width; x += kWidth, across += static_cast<float>(kWidth)) {
    const Floats at_x = clamped(map.a * across + from_x, static_cast<float>(shape.width + 1));
    const Floats at_y = clamped(map.c * across + from_y, static_cast<float>(shape.height + 1));
    const Ints column = __builtin_convertvector(at_x, Ints);
    const Ints row = __builtin_convertvector(at_y, Ints);
    const Floats right = at_x - __builtin_convertvector(column, Floats), left = 1.0f - right;
    const Floats lower = at_y - __builtin_convertvector(row, Floats), upper = 1.0f - lower;
    store(scratch.tap + x, row * stride + column);
    store(scratch.weight[0] + x, upper * left);
    store(scratch.weight[1] + x, upper * right);
    store(scratch.weight[2] + x, lower * left);
    store(scratch.weight[3] + x, lower * right);
  }
}

// Two neighbours in a row of a plane, for each of some taps.
struct Neighbours {
  Floats left, right;
};

// Gathers pairs, which compilers do not do by themselves: less than half the time of warp.
inline Neighbours pick(const float* plane, const int32_t* tap) {
#if defined(__AVX512F__)
  const __m512i at = _mm512_loadu_si512(tap);
  const __m512 a = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_castsi512_si256(at), plane, 4));
  const __m512 b =
      _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_extracti64x4_epi64(at, 1), plane, 4));
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return {_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)};
#elif defined(__AVX2__)
  const double* pairs = reinterpret_cast<const double*>(plane);
  const __m128i* at = reinterpret_cast<const __m128i*>(tap);
  const __m256 a = _mm256_castpd_ps(_mm256_i32gather_pd(pairs, _mm_loadu_si128(at), 4));
  const __m256 b = _mm256_castpd_ps(_mm256_i32gather_pd(pairs, _mm_loadu_si128(at + 1), 4));
  const __m256d left = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
  const __m256d right = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xDD));
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(left, 0xD8)),
          _mm256_castpd_ps(_mm256_permute4x64_pd(right, 0xD8))};
#else
  Neighbours found;
  for (int64_t i = 0; i < kWidth; ++i) {
    found.left[i] = plane[tap[i]];
    found.right[i] = plane[tap[i] + 1];
  }
  return found;
#endif
}

void warp(const Scratch& scratch, const Planes<float>& to, const Shape& shape,
          const AffineMap& map) {
  for (int64_t y = 0; y < shape.height; ++y) {
    find_taps(map, shape, y, scratch);
    for (int64_t x = 0; x < shape.width; x += kWidth) {
      Floats weight[kTaps];
      for (int i = 0; i < kTaps; ++i) weight[i] = load(scratch.weight[i] + x);
      const int64_t count = std::min(kWidth, shape.width - x);
      for (int64_t c = 0; c < shape.channels; ++c) {
        const float* plane = scratch.padded.at(c, 0);
        const Neighbours upper = pick(plane, scratch.tap + x);
        const Neighbours lower = pick(plane + scratch.padded.row, scratch.tap + x);
        const Floats sum = (weight[0] * upper.left + weight[1] * upper.right) +
                           (weight[2] * lower.left + weight[3] * lower.right);
        if (count == kWidth) {
          store(to.at(c, y) + x, sum);
        } else {
          std::memcpy(to.at(c, y) + x, &sum, static_cast<size_t>(count) * sizeof(float));
        }
      }
    }
  }
}

// A pixel in some channels at once, the unit that the adjoint of warp adds.
typedef float Pixel __attribute__((vector_size(kAugmentTogether * sizeof(float))));

// The adjoint of warp in a few channels: adds each output pixel's value to the pixels that it
// reads. Neighbouring outputs share some of these, and their additions would wait for each other,
// so pixels a quarter of a row apart take turns.
template <int kChannels>
void spread_pixels(const Planes<const float>& from, int64_t channel, const Scratch& scratch,
                   const Shape& shape, const AffineMap& map) {
  const int64_t stride = scratch.padded.row, quarter = (shape.width + 3) / 4;
  std::fill_n(scratch.pixels, scratch.padded.plane * kAugmentTogether, 0.0f);
  const auto add = [](float* to, float weight, Pixel value) {
    store(to, load_as<Pixel>(to) + weight * value);
  };
  for (int64_t y = 0; y < shape.height; ++y) {
    find_taps(map, shape, y, scratch);
    const float* in = from.at(channel, y);
    for (int64_t begin = 0; begin < quarter; ++begin) {
      for (int64_t x = begin; x < shape.width; x += quarter) {
        Pixel value = {};
        for (int64_t c = 0; c < kChannels; ++c) value[c] = in[x + c * from.plane];
        float* upper = scratch.pixels + scratch.tap[x] * kAugmentTogether;
        float* lower = upper + stride * kAugmentTogether;
        add(upper, scratch.weight[0][x], value);
        add(upper + kAugmentTogether, scratch.weight[1][x], value);
        add(lower, scratch.weight[2][x], value);
        add(lower + kAugmentTogether, scratch.weight[3][x], value);
      }
    }
  }
}

// Channels are interleaved while they are summed, so that one addition does for four: rotating 256
// images of 3 x 32 x 32 back takes a thread 1.5 ms instead of 2.8.
void warp_back(const Planes<const float>& from, const Scratch& scratch, const Shape& shape,
               const AffineMap& map) {
  const int64_t stride = scratch.padded.row;
  for (int64_t channel = 0; channel < shape.channels; channel += kAugmentTogether) {
    const int64_t channels = std::min(kAugmentTogether, shape.channels - channel);
    constexpr decltype(&spread_pixels<1>) kSpread[] = {spread_pixels<1>, spread_pixels<2>,
                                                       spread_pixels<3>, spread_pixels<4>};
    kSpread[channels - 1](from, channel, scratch, shape, map);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < shape.height; ++y) {
        const float* in = scratch.pixels + ((y + 1) * stride + 1) * kAugmentTogether + c;
        float* out = scratch.inner.at(channel + c, y);
        for (int64_t x = 0; x < shape.width; ++x) out[x] = in[x * kAugmentTogether];
      }
    }
  }
}

// The first pixel at or after `position`, at most `side`.
int64_t first_from(float position, int64_t side) {
  const float most = static_cast<float>(side);
  const float first = std::ceil(position);
  return static_cast<int64_t>(first > 0.0f ? (first < most ? first : most) : 0.0f);  // 0 for NaN
}

struct Box {
  int64_t top, bottom, left, right;

  bool empty() const { return top >= bottom || left >= right; }
};

Box box_of(const Cutout& cutout, const Shape& shape) {
  return {
      first_from(cutout.top, shape.height), first_from(cutout.top + cutout.height, shape.height),
      first_from(cutout.left, shape.width), first_from(cutout.left + cutout.width, shape.width)};
}

void erase(const Planes<float>& image, const Shape& shape, const Box& box) {
  if (box.empty()) return;
  for (int64_t c = 0; c < shape.channels; ++c) {
    for (int64_t y = box.top; y < box.bottom; ++y) {
      std::fill(image.at(c, y) + box.left, image.at(c, y) + box.right, 0.0f);
    }
  }
}

template <class Value>
Planes<Value> contiguous(Value* first, const Shape& shape) {
  return {first, shape.width, shape.height * shape.width};
}

Planes<const float> reading(const Planes<float>& planes) {
  return {planes.first, planes.row, planes.plane};
}

void forward(const Augment& task, int64_t image, float* memory) {
  const Shape shape = {task.channels, task.height, task.width};
  const Scratch scratch = lay_out(task, memory);
  const AugmentRow row = augment_row(task.parameters + image / task.together * kAugmentColumns);
  const float* from = load_image(task, image, scratch.values);
  float* result = result_of(task, image, scratch.values);
  const Planes<float> to = contiguous(result, shape);
  mix_colours(contiguous(from, shape), scratch.inner, shape, row.mix, row.mix.brightness,
              scratch.sums);
  Move move;
  if (is_move(row.map, &move)) {
    move_rows(reading(scratch.inner), to, shape, move);
  } else {
    warp(scratch, to, shape, row.map);
  }
  erase(to, shape, box_of(row.cutout, shape));
  store_image(task, image, result);
}

void adjoint(const Augment& task, int64_t image, float* memory) {
  const Shape shape = {task.channels, task.height, task.width};
  const Scratch scratch = lay_out(task, memory);
  const AugmentRow row = augment_row(task.parameters + image / task.together * kAugmentColumns);
  const float* from = load_image(task, image, scratch.values);
  const Box box = box_of(row.cutout, shape);
  if (!box.empty()) {
    if (from != scratch.values) {
      std::copy_n(from, shape.channels * shape.height * shape.width, scratch.values);
    }
    erase(contiguous(scratch.values, shape), shape, box);
    from = scratch.values;
  }
  Move move;
  if (is_move(row.map, &move)) {
    move_rows(contiguous(from, shape), scratch.inner, shape, move.inverse());
  } else {
    warp_back(contiguous(from, shape), scratch, shape, row.map);
  }
  float* result = result_of(task, image, scratch.values);
  mix_colours(reading(scratch.inner), contiguous(result, shape), shape, row.mix, 0.0f,
              scratch.sums);
  store_image(task, image, result);
}

}  // namespace

extern const AugmentKernels augment_kernels_table;
const AugmentKernels augment_kernels_table = {forward, adjoint};

}  // namespace PYDREAM_ISA
}  // namespace pydream
