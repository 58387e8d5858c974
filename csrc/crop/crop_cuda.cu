// crop_resize on CUDA.
//
// Shapes: boxes of h x w x C bytes in, C x H x W values out on a canvas, P patches; a block makes
// kRows rows of the canvas and kColumns columns of the patch.
// Presumes: rows contiguous, 1 <= C <= 4; any size from 1 x 1 up. Source columns are processed
// kTile bytes at a time, taps kTapsAtOnce at a time: larger boxes take more rounds.
// Limit: bandwidth, the bytes under a box once and the canvas once (a 266 x 266 x 3 box to 112 x
// 112 in bfloat16 on a canvas of 224 x 224: 212 + 301 kB, mostly the canvas). Neighbouring blocks
// share source rows, which stay in the second-level cache.
//
// Vertical first, as on the CPU: a thread sums four neighbouring bytes down the taps of each row,
// and stores the sums in shared memory; then a thread sums one output pixel horizontally.
#include "common/report.h"
#include "common/threads.h"
#include "crop/crop_cuda.h"

namespace pydream {
namespace {

constexpr int kRows = 8;
constexpr int kColumns = 128;
constexpr int kRowsPerThread = kRows * kColumns / kThreads;
constexpr int kTile = 4 * kThreads;
constexpr int kTapsAtOnce = 64;

// The taps of one axis around the centre of an output pixel; weights are scaled by `norm`.
struct Axis {
  PixelTaps taps;
  float norm;
};

__device__ Axis axis_of(const Resampling& resampling, int64_t index) {
  const PixelTaps taps = pixel_taps(resampling, index);
  float sum = 0.0f;
  for (int32_t tap = 0; tap < taps.count; ++tap) sum += tap_weight(resampling, taps, tap);
  return {taps, 1.0f / sum};
}

struct Shared {
  float columns[kRows][kTile];        // vertical sums of the source's bytes
  float weights[kRows][kTapsAtOnce];  // of a round of taps
  Axis rows[kRows];
};

__device__ int64_t read_index(const void* values, bool wide, int64_t at) {
  return wide ? static_cast<const int64_t*>(values)[at] : static_cast<const int32_t*>(values)[at];
}

// Finds image and box of a patch. If there is none, one thread reports it; returns false.
__device__ bool find_box(const CropOnDevice& crop, int64_t patch, bool reporter, Image* image,
                         Box* box) {
  const int64_t index = crop.image_index != nullptr
                            ? read_index(crop.image_index, crop.wide_index, patch)
                            : patch / crop.task.patches_per_image;
  if (index < 0 || index >= crop.task.num_images) {
    if (reporter) report(crop.faults, Fault::image_index, patch);
    return false;
  }
  *image = crop.first;
  image->address += index * crop.image_stride;
  if (crop.task.images != nullptr) *image = crop.task.images[index];
  *box = {read_index(crop.boxes, crop.wide_boxes, 4 * patch),
          read_index(crop.boxes, crop.wide_boxes, 4 * patch + 1),
          read_index(crop.boxes, crop.wide_boxes, 4 * patch + 2),
          read_index(crop.boxes, crop.wide_boxes, 4 * patch + 3)};
  const bool empty = box->height < 1 || box->width < 1;
  if (!empty && inside(*box, *image)) return true;
  if (reporter) report(crop.faults, empty ? Fault::empty_box : Fault::box_outside, patch);
  return false;
}

// Four bytes at any address, read as two aligned words; bytes from `end` on are 0.
__device__ uint32_t load_four(const uint8_t* from, const uint8_t* end) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(from);
  const uint32_t* words = reinterpret_cast<const uint32_t*>(address & ~uintptr_t{3});
  if (reinterpret_cast<const uint8_t*>(words + 2) <= end) {
    return __funnelshift_r(words[0], words[1], 8 * (address & 3));
  }
  uint32_t value = 0;
  for (int byte = 0; byte < 4; ++byte) {
    if (from + byte < end) value |= static_cast<uint32_t>(from[byte]) << (8 * byte);
  }
  return value;
}

// The source of one block, from the box's first pixel on, and the end of the image.
struct Source {
  const uint8_t* corner;
  const uint8_t* end;
  int64_t row_stride;
};

// Sums bytes `column` to `column` + 3 down the taps of each row, a round of taps at a time.
__device__ void sum_down(const Source& source, const Resampling& vertical, int rows, int64_t column,
                         bool active, Shared& shared) {
  float sums[kRows][4] = {};
  const int thread = static_cast<int>(threadIdx.x);
  int32_t most = 0;
  for (int row = 0; row < rows; ++row) most = max(most, shared.rows[row].taps.count);
  for (int32_t round = 0; round < most; round += kTapsAtOnce) {
    __syncthreads();  // the weights of the last round, and the columns, have been read
    for (int at = thread; at < rows * kTapsAtOnce; at += kThreads) {
      const Axis& axis = shared.rows[at / kTapsAtOnce];
      const int32_t tap = round + at % kTapsAtOnce;
      shared.weights[at / kTapsAtOnce][at % kTapsAtOnce] =
          tap < axis.taps.count ? tap_weight(vertical, axis.taps, tap) * axis.norm : 0.0f;
    }
    __syncthreads();
    if (!active) continue;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (row >= rows) break;
      const PixelTaps& taps = shared.rows[row].taps;
      const int32_t count = min(taps.count - round, kTapsAtOnce);
      const uint8_t* bytes =
          source.corner + int64_t{taps.first + round} * source.row_stride + column;
      for (int32_t tap = 0; tap < count; ++tap, bytes += source.row_stride) {
        const uint32_t four = load_four(bytes, source.end);
        const float weight = shared.weights[row][tap];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          sums[row][k] += weight * static_cast<float>((four >> (8 * k)) & 0xFFu);
        }
      }
    }
  }
  if (active) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      *reinterpret_cast<float4*>(&shared.columns[row][4 * thread]) =
          make_float4(sums[row][0], sums[row][1], sums[row][2], sums[row][3]);
    }
  }
  __syncthreads();
}

// Writes `count` zeros from `to` on, by one warp.
template <class Value>
__device__ void clear(Value* to, int64_t count) {
  for (int64_t at = threadIdx.x % 32; at < count; at += 32) to[at] = Value{};
}

// The region that a block writes: rows [top, bottom) of the canvas, columns [left, right).
struct Region {
  int64_t top, bottom, left, right;
};

// Writes zeros to the block's part of the canvas: outside of the patch, or everywhere.
template <class Value>
__device__ void clear_margins(const CropResize& task, const Region& region, bool everywhere,
                              Value* canvas) {
  const int64_t interleaved = task.channels_last ? task.channels : 1;
  const int64_t planes = task.channels / interleaved;
  const int64_t top = (task.canvas_height - task.height) / 2;
  const int64_t left = (task.canvas_width - task.width) / 2;
  const int64_t rows = region.bottom - region.top;
  for (int64_t at = threadIdx.x / 32; at < planes * rows; at += kThreads / 32) {
    const int64_t y = region.top + at % rows;
    Value* row = canvas + (at / rows * task.canvas_height + y) * task.canvas_width * interleaved;
    if (everywhere || y < top || y >= top + task.height) {
      clear(row + region.left * interleaved, (region.right - region.left) * interleaved);
      continue;
    }
    if (region.left < left) {
      clear(row + region.left * interleaved, (left - region.left) * interleaved);
    }
    if (region.right > left + task.width) {
      clear(row + (left + task.width) * interleaved,
            (region.right - left - task.width) * interleaved);
    }
  }
}

template <class Value>
__device__ void put(float value, Value* to) {
  narrow(value, to);
}
__device__ void put(float value, uint8_t* to) {
  *to = static_cast<uint8_t>(fminf(fmaxf(value + 0.5f, 0.0f), 255.0f));
}

// One block: rows of the canvas by blockIdx.y, columns of the patch by blockIdx.z.
template <class Value, int kChannels>
__global__ void __launch_bounds__(kThreads) crop_kernel(const CropOnDevice crop) {
  Shared& shared = *shared_memory<Shared>();
  const CropResize& task = crop.task;
  const int64_t patch = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  Value* canvas = static_cast<Value*>(task.out) +
                  patch * kChannels * task.canvas_height * task.canvas_width;  // [C, H, W]
  const int64_t top = (task.canvas_height - task.height) / 2;
  const int64_t left = (task.canvas_width - task.width) / 2;
  const int64_t x0 = static_cast<int64_t>(blockIdx.z) * kColumns;
  const int64_t x1 = min(x0 + kColumns, task.width);
  const Region region = {blockIdx.y * int64_t{kRows},
                         min((blockIdx.y + 1) * int64_t{kRows}, task.canvas_height),
                         x0 == 0 ? 0 : left + x0, x1 == task.width ? task.canvas_width : left + x1};
  Image image;
  Box box;
  const bool reporter = thread == 0 && blockIdx.y == 0 && blockIdx.z == 0;
  const bool found = find_box(crop, patch, reporter, &image, &box);
  clear_margins(task, region, !found, canvas);
  const int64_t y0 = max(region.top, top) - top;
  const int rows = static_cast<int>(min(region.bottom, top + task.height) - top - y0);
  if (!found || rows <= 0) return;

  const Resampling vertical = resampling(box.height, task.height);
  const Resampling horizontal = resampling(box.width, task.width);
  if (thread < rows) shared.rows[thread] = axis_of(vertical, y0 + thread);
  const bool flip = task.flip != nullptr && task.flip[patch];
  const int64_t x = x0 + thread % kColumns;
  const int first_row = thread / kColumns * kRowsPerThread;
  Axis across = {{0, 0, 0.0f}, 0.0f};
  if (x < x1) across = axis_of(horizontal, flip ? task.width - 1 - x : x);
  const PixelTaps lowest = pixel_taps(horizontal, flip ? task.width - x1 : x0);
  const PixelTaps highest = pixel_taps(horizontal, flip ? task.width - 1 - x0 : x1 - 1);
  const int32_t end = highest.first + highest.count;
  __syncthreads();

  const uint8_t* pixels = reinterpret_cast<const uint8_t*>(image.address);
  const Source source = {pixels + box.top * image.row_stride + box.left * kChannels,
                         pixels + (image.height - 1) * image.row_stride + image.width * kChannels,
                         image.row_stride};
  float sums[kRowsPerThread][kChannels] = {};
  constexpr int kPixels = kTile / kChannels;  // of a tile
  for (int32_t begin = lowest.first; begin < end; begin += kPixels) {
    const int64_t column = int64_t{begin} * kChannels + 4 * thread;
    sum_down(source, vertical, rows, column, column < int64_t{end} * kChannels, shared);
    const int32_t from = max(across.taps.first, begin);
    const int32_t to = min(across.taps.first + across.taps.count, begin + kPixels);
    for (int32_t pixel = from; pixel < to; ++pixel) {
      const int32_t tap = pixel - across.taps.first;
      const float weight = tap_weight(horizontal, across.taps, tap) * across.norm;
      const int at = (pixel - begin) * kChannels;
#pragma unroll
      for (int row = 0; row < kRowsPerThread; ++row) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          sums[row][c] += weight * shared.columns[first_row + row][at + c];
        }
      }
    }
  }
  if (x >= x1) return;
#pragma unroll
  for (int row = 0; row < kRowsPerThread; ++row) {
    if (first_row + row >= rows) return;
    const int64_t pixel = (top + y0 + first_row + row) * task.canvas_width + left + x;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const int64_t at = task.channels_last ? pixel * kChannels + c
                                            : c * task.canvas_height * task.canvas_width + pixel;
      put(sums[row][c] * task.scale[c] + task.shift[c], canvas + at);
    }
  }
}

int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

template <class Value, int kChannels>
void launch_crop(const CropOnDevice& crop, cudaStream_t stream) {
  const CropResize& task = crop.task;
  const dim3 grid(static_cast<unsigned>(task.num_patches),
                  static_cast<unsigned>(pieces(task.canvas_height, kRows)),
                  static_cast<unsigned>(pieces(task.width, kColumns)));
  launch(crop_kernel<Value, kChannels>, grid, dim3(kThreads), sizeof(Shared), stream, crop);
}

template <class Value>
void launch_channels(const CropOnDevice& crop, cudaStream_t stream) {
  switch (crop.task.channels) {
    case 1:
      return launch_crop<Value, 1>(crop, stream);
    case 2:
      return launch_crop<Value, 2>(crop, stream);
    case 3:
      return launch_crop<Value, 3>(crop, stream);
    default:
      return launch_crop<Value, 4>(crop, stream);
  }
}

}  // namespace

void crop_resize_cuda(const View& images, const View& boxes, const View& image_index,
                      const View& flip, std::pair<int64_t, int64_t> size, const Scaling& scaling,
                      const View& out, const Launch& where) {
  constexpr int64_t kMostPatches = 0x7FFFFFFF;
  constexpr int64_t kMostBlocks = 65535;
  CropOnDevice crop{};
  crop.task = crop_task(images.shape[0], flip, size, scaling, out);
  const CropResize& task = crop.task;
  if (task.num_patches == 0) return;
  if (task.num_patches > kMostPatches || pieces(task.canvas_height, kRows) > kMostBlocks ||
      pieces(task.width, kColumns) > kMostBlocks) {
    throw std::invalid_argument(
        "crop_resize makes at most 2^31 - 1 patches of 524280 rows at once");
  }
  if (images.rank == 4) {
    const int64_t address = reinterpret_cast<int64_t>(images.data);
    crop.first = {address, images.shape[1], images.shape[2], images.stride[1]};
    crop.image_stride = images.stride[0];
  } else {
    crop.task.images = images.as<const Image>();
  }
  crop.boxes = boxes.data;
  crop.image_index = image_index.data;
  crop.wide_boxes = boxes.dtype == Dtype::int64;
  crop.wide_index = image_index.dtype == Dtype::int64;
  crop.faults = where.faults;
  const DeviceGuard guard(where.device);
  switch (task.dtype) {
    case Dtype::float16:
      return launch_channels<Half>(crop, where.stream);
    case Dtype::bfloat16:
      return launch_channels<BFloat16>(crop, where.stream);
    case Dtype::uint8:
      return launch_channels<uint8_t>(crop, where.stream);
    default:
      return launch_channels<float>(crop, where.stream);
  }
}

}  // namespace pydream
