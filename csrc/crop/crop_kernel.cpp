// crop_resize on the CPU, compiled once per instruction set (csrc/common/isa.h).
//
// Shapes: boxes of h x w bytes x C in, C x H x W values out, P patches; a patch is one item.
// Presumes: rows contiguous, 1 <= C <= 4, everything in range; any size from 1 x 1 up.
// Limit: arithmetic, closely followed by memory. Every byte under a box is widened, converted and
// multiplied for each of the two output rows it contributes to, and every column sum is multiplied
// twice in the second pass: some 110,000 vector operations of 16 lanes for 112 x 112 out of 266 x
// 266 x 3.
// Measured on one core with AVX-512: 33 us with all data in cache, of which the vertical sums take
// 18 and the transposes, the horizontal sums and the stores 5 each; 49 us from and to memory.
//
// The rows of the output are made in strips of kLanes. The vertical pass comes first, because in
// that direction the bytes of a row need no shuffling, for any C. The sums are transposed in
// registers, so that a vector holds one column of the strip. The horizontal pass then is plain
// multiply-adds, too, and flip, layout and normalisation only change the address and the constants
// of a store.
#include "crop/crop_kernel.h"

#include <algorithm>
#include <cstring>

#include "crop/vectors.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

// Source pixels per output pixel from which it is faster to sum output rows in pairs. Between 1 and
// this, a pair shares a row or two, and the loops over them cost more than they save.
constexpr float kWorthPairs = 2.0f;

// The source pixels under each output pixel of an axis, and their weights.
struct Taps {
  int64_t stride;  // between the weights of two output pixels
  int32_t* first;  // [outputs]
  int32_t* count;  // [outputs]
  float* weights;  // [outputs, stride]
  bool in_pairs;   // step is large, and no source pixel lies under more than two output pixels

  void fill(const Resampling& axis, int64_t outputs, bool reversed) {
    for (int64_t index = 0; index < outputs; ++index) {
      const int64_t at = reversed ? outputs - 1 - index : index;
      count[at] = pixel_weights(axis, index, &first[at], weights + at * stride);
    }
    in_pairs = axis.step >= kWorthPairs;
    for (int64_t index = 2; index < outputs; ++index) {
      in_pairs = in_pairs && end(index - 2) <= first[index];
    }
  }

  int32_t end(int64_t index) const { return first[index] + count[index]; }
};

constexpr int kBlock = 4;  // vectors of a row that are summed vertically at once

// Processors do not predict the access pattern of going down the rows block by block. So the bytes
// two cache lines ahead are prefetched explicitly, which saves a fifth of the time.
constexpr int kAhead = 128;

// A thread's working memory for one patch.
struct Workspace {
  Taps down;
  Taps across;
  float* tile;      // [kLanes, kBlock * kLanes], sums of a strip: row by row
  float* columns;   // [box width * C, kLanes], the same of the whole strip, transposed
  float* result;    // [W * C, kLanes]
  uint8_t* padded;  // [box height, kLanes], of a box narrower than a vector

  Workspace(const CropResize& task, const Box& box, const Resampling& vertical,
            const Resampling& horizontal) {
    const int64_t bytes = box.width * task.channels;
    int64_t used = 0;
    const auto reserve = [&used](int64_t floats) {
      const int64_t offset = used;
      used += (floats + 15) / 16 * 16;  // multiples of 64 bytes: no vector crosses a cache line
      return offset;
    };
    down.stride = max_taps(vertical);
    across.stride = max_taps(horizontal);
    const int64_t offsets[] = {
        reserve(task.height),
        reserve(task.height),
        reserve(task.height * down.stride),
        reserve(task.width),
        reserve(task.width),
        reserve(task.width * across.stride),
        reserve(kLanes * kBlock * kLanes),
        reserve((bytes < kLanes ? kLanes : bytes) * kLanes),
        reserve((task.width * task.channels + kLanes) * kLanes),
        reserve(bytes < kLanes ? box.height * kLanes / 4 : 0),
    };
    float* base = thread_scratch(used);
    down.first = reinterpret_cast<int32_t*>(base + offsets[0]);
    down.count = reinterpret_cast<int32_t*>(base + offsets[1]);
    down.weights = base + offsets[2];
    across.first = reinterpret_cast<int32_t*>(base + offsets[3]);
    across.count = reinterpret_cast<int32_t*>(base + offsets[4]);
    across.weights = base + offsets[5];
    tile = base + offsets[6];
    columns = base + offsets[7];
    result = base + offsets[8];
    padded = reinterpret_cast<uint8_t*>(base + offsets[9]);
  }
};

// A strip of output rows [begin, begin + rows), rows <= kLanes.
struct Strip {
  int64_t begin;
  int64_t rows;
};

// Sums Vectors * kLanes neighbouring bytes down the taps of each row of the strip; tile [rows,
// Vectors * kLanes].
template <int Vectors>
void sum_down(const uint8_t* source, int64_t row_stride, const Taps& taps, Strip strip,
              float* tile) {
  for (int64_t row = 0; row < strip.rows; ++row) {
    const int64_t index = strip.begin + row;
    const uint8_t* bytes = source + taps.first[index] * row_stride;
    const float* weights = taps.weights + index * taps.stride;
    Floats sums[Vectors] = {};
    for (int32_t tap = 0; tap < taps.count[index]; ++tap, bytes += row_stride) {
      __builtin_prefetch(bytes + kAhead);
      const Floats weight = splat(weights[tap]);
#pragma GCC unroll 4
      for (int k = 0; k < Vectors; ++k) sums[k] += weight * load_bytes(bytes + k * kLanes);
    }
#pragma GCC unroll 4
    for (int k = 0; k < Vectors; ++k) store(tile + (row * Vectors + k) * kLanes, sums[k]);
  }
}

// The same sums in the same order, where no row of bytes lies under more than two output rows
// (Taps::in_pairs): each is widened and converted once for both. That is 9 % of the time for 112 x
// 112 out of 266 x 266 and 12 % out of 330 x 330 with AVX-512, 4 and 6 % with AVX2.
template <int Vectors>
void sum_down_in_pairs(const uint8_t* source, int64_t row_stride, const Taps& taps, Strip strip,
                       float* tile) {
  Floats above[Vectors] = {};  // the sums of output row index - 1
  for (int64_t row = 0; row < strip.rows; ++row) {
    const int64_t index = strip.begin + row;
    const int32_t end = taps.end(index);
    const float* weights = taps.weights + index * taps.stride;
    int32_t tap = 0;
    const uint8_t* bytes = source + taps.first[index] * row_stride;
    Floats sums[Vectors] = {};
    if (row > 0) {
      const int32_t shared = taps.end(index - 1) - taps.first[index];
      const float* weights_above =
          weights - taps.stride + taps.first[index] - taps.first[index - 1];
      for (; tap < shared; ++tap, bytes += row_stride) {
        __builtin_prefetch(bytes + kAhead);
        const Floats weight = splat(weights[tap]);
        const Floats weight_above = splat(weights_above[tap]);
#pragma GCC unroll 4
        for (int k = 0; k < Vectors; ++k) {
          const Floats values = load_bytes(bytes + k * kLanes);
          above[k] += weight_above * values;
          sums[k] += weight * values;
        }
      }
#pragma GCC unroll 4
      for (int k = 0; k < Vectors; ++k) store(tile + ((row - 1) * Vectors + k) * kLanes, above[k]);
    }
    const int32_t own =
        (row + 1 < strip.rows ? std::min(taps.first[index + 1], end) : end) - taps.first[index];
    for (; tap < own; ++tap, bytes += row_stride) {
      __builtin_prefetch(bytes + kAhead);
      const Floats weight = splat(weights[tap]);
#pragma GCC unroll 4
      for (int k = 0; k < Vectors; ++k) sums[k] += weight * load_bytes(bytes + k * kLanes);
    }
#pragma GCC unroll 4
    for (int k = 0; k < Vectors; ++k) above[k] = sums[k];
  }
#pragma GCC unroll 4
  for (int k = 0; k < Vectors; ++k) {
    store(tile + ((strip.rows - 1) * Vectors + k) * kLanes, above[k]);
  }
}

// Sums Vectors * kLanes neighbouring bytes down the taps of each row of the strip, and writes the
// sums transposed to `columns` [Vectors * kLanes, kLanes].
template <int Vectors>
void sum_columns(const uint8_t* source, int64_t row_stride, const Taps& taps, Strip strip,
                 float* tile, float* columns) {
  if (taps.in_pairs) {
    sum_down_in_pairs<Vectors>(source, row_stride, taps, strip, tile);
  } else {
    sum_down<Vectors>(source, row_stride, taps, strip, tile);
  }
  for (int k = 0; k < Vectors; ++k) {
    Floats block[kLanes];
#pragma GCC unroll 16
    for (int row = 0; row < kLanes; ++row) {
      block[row] = load_as<Floats>(tile + (row * Vectors + k) * kLanes);
    }
    transpose(block);
#pragma GCC unroll 16
    for (int column = 0; column < kLanes; ++column) {
      store(columns + (k * kLanes + column) * kLanes, block[column]);
    }
  }
}

// All bytes of the strip's rows; `bytes` >= kLanes, and the last vector overlaps its neighbour.
void sum_strip(const uint8_t* source, int64_t row_stride, int64_t bytes, Strip strip,
               const Workspace& work) {
  constexpr int64_t kWide = kBlock * kLanes;
  int64_t at = 0;
  for (; at + kWide <= bytes; at += kWide) {
    sum_columns<kBlock>(source + at, row_stride, work.down, strip, work.tile,
                        work.columns + at * kLanes);
  }
  for (; at < bytes; at += kLanes) {
    at = at + kLanes > bytes ? bytes - kLanes : at;
    sum_columns<1>(source + at, row_stride, work.down, strip, work.tile,
                   work.columns + at * kLanes);
  }
}

// Sums `columns` [w, C, kLanes] across the taps of each output pixel and normalises; output
// pixel x of channel c goes to vector c * channel_stride + x * pixel_stride of `result`.
template <int Channels>
void sum_across(const CropResize& task, const Workspace& work, int64_t channel_stride,
                int64_t pixel_stride) {
  const Taps& taps = work.across;
  for (int64_t x = 0; x < task.width; ++x) {
    const float* column = work.columns + static_cast<int64_t>(taps.first[x]) * Channels * kLanes;
    const float* weights = taps.weights + x * taps.stride;
    Floats sums[Channels] = {};
    for (int32_t tap = 0; tap < taps.count[x]; ++tap, column += Channels * kLanes) {
      const Floats weight = splat(weights[tap]);
#pragma GCC unroll 4
      for (int c = 0; c < Channels; ++c) sums[c] += weight * load_as<Floats>(column + c * kLanes);
    }
#pragma GCC unroll 4
    for (int c = 0; c < Channels; ++c) {
      store(work.result + (c * channel_stride + x * pixel_stride) * kLanes,
            sums[c] * task.scale[c] + task.shift[c]);
    }
  }
}

// Stores `length` neighbouring values of each row of the strip: source [length, kLanes], one
// vector the strip's rows; out [rows, row_stride].
template <class Pixel>
void store_rows(const float* source, int64_t length, int64_t rows, typename Pixel::Value* out,
                int64_t row_stride) {
  for (int64_t at = 0; at < length; at += kLanes) {
    if (length >= kLanes && at + kLanes > length) at = length - kLanes;
    Floats block[kLanes];
#pragma GCC unroll 16
    for (int column = 0; column < kLanes; ++column) {
      block[column] = load_as<Floats>(source + (at + column) * kLanes);
    }
    transpose(block);
    typename Pixel::Value* corner = out + at;
    if (length < kLanes) {
      for (int64_t row = 0; row < rows; ++row) {
        typename Pixel::Value values[kLanes];
        Pixel::put(values, block[row]);
        std::memcpy(corner + row * row_stride, values, length * sizeof values[0]);
      }
    } else if (rows == kLanes) {
#pragma GCC unroll 16
      for (int row = 0; row < kLanes; ++row) Pixel::put(corner + row * row_stride, block[row]);
    } else {
      for (int64_t row = 0; row < rows; ++row) Pixel::put(corner + row * row_stride, block[row]);
    }
  }
}

// The position of a patch on its canvas. Channels-last has one plane, in which the C values of a
// pixel are neighbours; otherwise there are C planes.
struct Placement {
  int64_t planes;
  int64_t plane_stride;  // in values, as all fields
  int64_t row_stride;
  int64_t length;      // of a row of the patch within a plane
  int64_t left;        // of the patch within a row
  int64_t top;         // rows above the patch
  int64_t patch_size;  // the whole canvas

  explicit Placement(const CropResize& task) {
    const int64_t interleaved = task.channels_last ? task.channels : 1;
    planes = task.channels / interleaved;
    row_stride = task.canvas_width * interleaved;
    plane_stride = task.canvas_height * row_stride;
    length = task.width * interleaved;
    left = (task.canvas_width - task.width) / 2 * interleaved;
    top = (task.canvas_height - task.height) / 2;
    patch_size = planes * plane_stride;
  }
};

// Writes zeros around the patch.
template <class Value>
void clear_margins(const CropResize& task, const Placement& place, Value* canvas) {
  if (place.length == place.row_stride && task.height == task.canvas_height) return;
  const auto clear = [](Value* begin, int64_t count) {
    std::memset(begin, 0, static_cast<size_t>(count) * sizeof(Value));
  };
  const int64_t bottom = place.top + task.height;
  const int64_t right = place.left + place.length;
  for (int64_t plane = 0; plane < place.planes; ++plane) {
    Value* rows = canvas + plane * place.plane_stride;
    clear(rows, place.top * place.row_stride);
    for (int64_t row = place.top; row < bottom; ++row) {
      clear(rows + row * place.row_stride, place.left);
      clear(rows + row * place.row_stride + right, place.row_stride - right);
    }
    clear(rows + bottom * place.row_stride, (task.canvas_height - bottom) * place.row_stride);
  }
}

template <class Pixel>
void make_patch(const CropResize& task, const Placement& place, int64_t patch) {
  const Image image = task.image(task.image_of(patch));
  const Box& box = task.boxes[patch];
  const Resampling vertical = resampling(box.height, task.height);
  const Resampling horizontal = resampling(box.width, task.width);
  Workspace work(task, box, vertical, horizontal);
  work.down.fill(vertical, task.height, false);
  work.across.fill(horizontal, task.width, task.flip != nullptr && task.flip[patch]);

  const uint8_t* source = reinterpret_cast<const uint8_t*>(image.address) +
                          box.top * image.row_stride + box.left * task.channels;
  int64_t row_stride = image.row_stride;
  int64_t bytes = box.width * task.channels;
  if (bytes < kLanes) {
    for (int64_t row = 0; row < box.height; ++row) {
      uint8_t* copy = work.padded + row * kLanes;
      std::memset(copy, 0, kLanes);
      std::memcpy(copy, source + row * row_stride, bytes);
    }
    source = work.padded;
    row_stride = kLanes;
    bytes = kLanes;
  }

  auto* canvas = static_cast<typename Pixel::Value*>(task.out) + patch * place.patch_size;
  clear_margins(task, place, canvas);
  const int64_t channel_stride = task.channels_last ? 1 : task.width;
  const int64_t pixel_stride = task.channels_last ? task.channels : 1;
  for (int64_t begin = 0; begin < task.height; begin += kLanes) {
    const int64_t left = task.height - begin;
    const Strip strip{begin, left < kLanes ? left : kLanes};
    sum_strip(source, row_stride, bytes, strip, work);
    switch (task.channels) {
      case 1:
        sum_across<1>(task, work, channel_stride, pixel_stride);
        break;
      case 2:
        sum_across<2>(task, work, channel_stride, pixel_stride);
        break;
      case 3:
        sum_across<3>(task, work, channel_stride, pixel_stride);
        break;
      default:
        sum_across<4>(task, work, channel_stride, pixel_stride);
    }
    for (int64_t plane = 0; plane < place.planes; ++plane) {
      store_rows<Pixel>(
          work.result + plane * place.length * kLanes, place.length, strip.rows,
          canvas + plane * place.plane_stride + (place.top + begin) * place.row_stride + place.left,
          place.row_stride);
    }
  }
}

template <class Pixel>
void make_patches(const CropResize& task, int64_t begin, int64_t end) {
  const Placement place(task);
  for (int64_t patch = begin; patch < end; ++patch) make_patch<Pixel>(task, place, patch);
}

void crop_resize(const CropResize& task, int64_t begin, int64_t end) {
  switch (task.dtype) {
    case Dtype::float16:
      return make_patches<AsFloat16>(task, begin, end);
    case Dtype::bfloat16:
      return make_patches<AsBFloat16>(task, begin, end);
    case Dtype::uint8:
      return make_patches<AsUint8>(task, begin, end);
    default:
      return make_patches<AsFloat32>(task, begin, end);
  }
}

}  // namespace

extern const CropKernels crop_kernels_table;
const CropKernels crop_kernels_table = {crop_resize};

}  // namespace PYDREAM_ISA
}  // namespace pydream
