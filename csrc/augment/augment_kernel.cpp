// DSA's augmentations of an image and their adjoint, compiled once per instruction set.
//
// Shapes: images [C, H, W], planes in the scratch [H + 3, W + 3]; all arithmetic in float32.
// Presumes: an image, its planes in the scratch and the result fit the second-level cache (3 x 224
// x 224 do); larger ones are right, and slower. An image is done by one thread from end to end, so
// the adjoint may add to its planes where the pixels were read, in a fixed order.
// Limit: at 32 x 32 the arithmetic of the bilinear reads; for shifts and flips bandwidth.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "augment/augment.h"
#include "common/half.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

#include "common/half_rows.h"

struct Shape {
  int64_t channels;
  int64_t height;
  int64_t width;
};

// The planes of an image, whose rows may have something between them.
template <class Value>
struct Planes {
  Value* first;
  int64_t row;    // values from a row to the next
  int64_t plane;  // and from a plane to the next

  Value* at(int64_t channel, int64_t y) const { return first + channel * plane + y * row; }
};

struct Scratch {
  Planes<float> padded;  // [C, H + 3, W + 3]
  Planes<float> inner;   // the same without the margin, [C, H, W]
  float* sums;           // [W]
  int32_t* tap;          // [W]
  float* right;          // [W]
  float* below;          // [W]
  float* values;         // [C, H, W]
};

Scratch lay_out(const Augment& task, float* memory) {
  const int64_t row = task.width + kAugmentMargin, plane = augment_plane(task);
  float* rows = memory + task.channels * plane;
  return {{memory, row, plane},
          {memory + row + 1, row, plane},
          rows,
          reinterpret_cast<int32_t*>(rows + task.width),
          rows + 2 * task.width,
          rows + 3 * task.width,
          rows + 4 * task.width};
}

// The image in float32: as it lies there, or widened into `values`.
const float* load_image(const Augment& task, int64_t image, float* values) {
  const int64_t count = task.channels * task.height * task.width;
  switch (task.type) {
    case FloatType::float16:
      widen(static_cast<const Half*>(task.from) + image * count, count, values);
      return values;
    case FloatType::bfloat16:
      widen(static_cast<const BFloat16*>(task.from) + image * count, count, values);
      return values;
    default:
      return static_cast<const float*>(task.from) + image * count;
  }
}

// Where float32 results go: to their place, or to `values`, from where store_image narrows them.
float* result_of(const Augment& task, int64_t image, float* values) {
  const int64_t count = task.channels * task.height * task.width;
  if (task.type != FloatType::float32) return values;
  return static_cast<float*>(task.to) + image * count;
}

void store_image(const Augment& task, int64_t image, const float* values) {
  const int64_t count = task.channels * task.height * task.width;
  if (task.type == FloatType::float16) {
    narrow(values, count, static_cast<Half*>(task.to) + image * count);
  } else if (task.type == FloatType::bfloat16) {
    narrow(values, count, static_cast<BFloat16*>(task.to) + image * count);
  }
}

// The mean of an image. Columns are summed first, over all rows: float32 is enough for these.
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

// Mixes each pixel with the mean of its channels and that of the image, and adds `brightness`.
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

// A map of whole pixels: output (x, y) is input (sign_x x + shift_x, sign_y y + shift_y).
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

// Of each pixel of output row y: the first of the four that it reads in a plane of the scratch, and
// the shares of the right and the lower two.
void find_taps(const AffineMap& map, const Shape& shape, int64_t y, const Scratch& scratch) {
  int32_t* __restrict tap = scratch.tap;
  float* __restrict right = scratch.right;
  float* __restrict below = scratch.below;
  const int32_t stride = static_cast<int32_t>(scratch.padded.row);
  const float most_x = static_cast<float>(shape.width + 1);
  const float most_y = static_cast<float>(shape.height + 1);
  const float from_x = map.b * static_cast<float>(y) + map.tx + 1.0f;  // the margin
  const float from_y = map.d * static_cast<float>(y) + map.ty + 1.0f;
  const int32_t width = static_cast<int32_t>(shape.width);
  for (int32_t x = 0; x < width; ++x) {
    float at_x = map.a * static_cast<float>(x) + from_x;
    float at_y = map.c * static_cast<float>(x) + from_y;
    at_x = at_x > 0.0f ? at_x : 0.0f;  // 0 for NaN
    at_y = at_y > 0.0f ? at_y : 0.0f;
    at_x = at_x < most_x ? at_x : most_x;
    at_y = at_y < most_y ? at_y : most_y;
    const int32_t column = static_cast<int32_t>(at_x), row = static_cast<int32_t>(at_y);
    right[x] = at_x - static_cast<float>(column);
    below[x] = at_y - static_cast<float>(row);
    tap[x] = row * stride + column;
  }
}

void warp(const Scratch& scratch, const Planes<float>& to, const Shape& shape,
          const AffineMap& map) {
  const int64_t stride = scratch.padded.row;
  for (int64_t y = 0; y < shape.height; ++y) {
    find_taps(map, shape, y, scratch);
    const int32_t* __restrict tap = scratch.tap;
    const float* __restrict right = scratch.right;
    const float* __restrict below = scratch.below;
    for (int64_t c = 0; c < shape.channels; ++c) {
      const float* __restrict in = scratch.padded.at(c, 0);
      const float* __restrict next = in + stride;
      float* __restrict out = to.at(c, y);
      for (int64_t x = 0; x < shape.width; ++x) {
        const float upper = (1.0f - right[x]) * in[tap[x]] + right[x] * in[tap[x] + 1];
        const float lower = (1.0f - right[x]) * next[tap[x]] + right[x] * next[tap[x] + 1];
        out[x] = (1.0f - below[x]) * upper + below[x] * lower;
      }
    }
  }
}

// The adjoint of warp: adds what each output pixel has to those that it reads. The channels of a
// pixel in turn, since the sums of neighbours wait for each other: 2.5 times as fast as plane by
// plane.
void warp_back(const Planes<const float>& from, const Scratch& scratch, const Shape& shape,
               const AffineMap& map) {
  const int64_t stride = scratch.padded.row;
  std::fill_n(scratch.padded.first, shape.channels * scratch.padded.plane, 0.0f);
  for (int64_t y = 0; y < shape.height; ++y) {
    find_taps(map, shape, y, scratch);
    const float* in = from.at(0, y);
    for (int64_t x = 0; x < shape.width; ++x) {
      const float right = scratch.right[x], below = scratch.below[x];
      float* to = scratch.padded.first + scratch.tap[x];
      for (int64_t c = 0; c < shape.channels; ++c, to += scratch.padded.plane) {
        const float value = in[x + c * from.plane];
        const float lower = below * value, upper = (1.0f - below) * value;
        to[0] += (1.0f - right) * upper;
        to[1] += right * upper;
        to[stride] += (1.0f - right) * lower;
        to[stride + 1] += right * lower;
      }
    }
  }
}

// The first pixel that does not lie before `position`, at most `side`.
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

extern const AugmentKernels augment_table;
const AugmentKernels augment_table = {forward, adjoint};

}  // namespace PYDREAM_ISA
}  // namespace pydream
