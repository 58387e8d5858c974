// crop_resize on CUDA.
//
// Shapes: boxes of h x w x C bytes in, C x H x W values out on a canvas, P patches; a block makes
// kRows rows of the canvas and kColumns columns of the patch.
// Presumes: rows contiguous, 1 <= C <= 4; any size from 1 x 1 up. Source rows are processed kTile
// bytes and kSourceRows rows at a time: larger boxes take more rounds.
// Limit: bandwidth, the bytes under a box once and the canvas once (a 295 x 295 x 3 box to 112 x
// 112 in bfloat16 on a canvas of 224 x 224: 261 + 301 kB, mostly the canvas). Neighbouring blocks
// share source rows, which stay in the second-level cache. By the model of docs/cuda-model.md the
// instructions allow 64 % of that.
//
// Vertical first, as on the CPU (sums_cuda.h). Finished rows are staged in shared memory and
// written 16 bytes at a time.
#include "common/report.h"
#include "common/threads.h"
#include "crop/crop_cuda.h"
#include "crop/rows_cuda.h"
#include "crop/sums_cuda.h"

namespace pydream {
namespace {

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

// The rows of a canvas [C, H, W] or [H, W, C].
template <class Value>
struct Canvas {
  Value* values;
  int height, width;
  int planes, interleaved;

  __device__ Canvas(const CropResize& task, int64_t patch)
      : values(static_cast<Value*>(task.out) +
               patch * task.channels * task.canvas_height * task.canvas_width),
        height(static_cast<int>(task.canvas_height)),
        width(static_cast<int>(task.canvas_width)),
        planes(task.channels_last ? 1 : static_cast<int>(task.channels)),
        interleaved(task.channels_last ? static_cast<int>(task.channels) : 1) {}

  __device__ Value* at(int plane, int row, int column) const {
    const int64_t pixel = (int64_t{plane} * height + row) * width + column;
    return values + pixel * interleaved;
  }
};

// Writes zeros to rows [top, bottom) and columns [left, right) of the canvas, outside of a part of
// the patch that has as many columns before it and behind it.
template <class Value>
__device__ void clear_margins(const Canvas<Value>& canvas, const Part& part, int top, int bottom,
                              int left, int right) {
  const int rows = bottom - top;
  for (int at = static_cast<int>(threadIdx.x) / 32; at < canvas.planes * rows; at += kWarps) {
    const int plane = at / rows, row = top + at % rows;
    const bool none = row < part.top || row >= part.top + part.rows;
    const int end = none ? right : part.left;
    const int begin = none ? right : part.left + part.columns;
    const Zeros<Value> zeros;
    write_row(canvas.at(plane, row, left), (end - left) * canvas.interleaved, zeros);
    write_row(canvas.at(plane, row, begin), (right - begin) * canvas.interleaved, zeros);
  }
}

template <class Value>
__device__ void put(float value, Value* to) {
  narrow(value, to);
}
__device__ void put(float value, uint8_t* to) {
  *to = static_cast<uint8_t>(fminf(fmaxf(value + 0.5f, 0.0f), 255.0f));
}

// Writes the pixels of all threads: to shared memory first, so that a warp then writes a row.
template <class Value, int kChannels>
__device__ void write_part(const CropResize& task, Shared& shared,
                           const float (&sums)[kPixelsPerThread][kChannels]) {
  constexpr int kValues = kPackBytes / static_cast<int>(sizeof(Value));
  const Canvas<Value> canvas(task, blockIdx.x);
  const Part part = shared.part;
  // Rows in shared memory have room for a pack before them, and its values as in the canvas.
  const auto staged = [&](int plane, int row) {
    return reinterpret_cast<Value*>(shared.source) +
           (plane * kRows + row) * (kColumns * canvas.interleaved + kValues) +
           lead_of(canvas.at(plane, part.top + row, part.left));
  };
  const int row = static_cast<int>(threadIdx.x) % kRows;
#pragma unroll
  for (int each = 0; each < kPixelsPerThread; ++each) {
    const int x = static_cast<int>(threadIdx.x) / kRows + each * (kThreads / kRows);
    if (x >= part.columns || row >= part.rows) break;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      Value* to = task.channels_last ? staged(0, row) + x * kChannels + c : staged(c, row) + x;
      put(sums[each][c] * task.scale[c] + task.shift[c], to);
    }
  }
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x) / 32; at < canvas.planes * part.rows; at += kWarps) {
    const int plane = at / part.rows, own = at % part.rows;
    const Staged<Value> values = {staged(plane, own)};
    write_row(canvas.at(plane, part.top + own, part.left), part.columns * canvas.interleaved,
              values);
  }
}

// Clears the margins, and prepares what all threads share. Returns false if nothing else is left to
// do for the block: rows of the canvas by blockIdx.y, columns of the patch by blockIdx.z.
template <class Value>
__device__ bool begin_part(const CropOnDevice& crop, Shared& shared) {
  const CropResize& task = crop.task;
  const Canvas<Value> canvas(task, blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int height = static_cast<int>(task.height), width = static_cast<int>(task.width);
  const int above = (canvas.height - height) / 2, before = (canvas.width - width) / 2;
  const int top = static_cast<int>(blockIdx.y) * kRows, bottom = min(top + kRows, canvas.height);
  const int x = static_cast<int>(blockIdx.z) * kColumns;
  const int columns = min(kColumns, width - x);
  Image image;
  Box box;
  const bool reporter = thread == 0 && blockIdx.y == 0 && blockIdx.z == 0;
  const bool found = find_box(crop, blockIdx.x, reporter, &image, &box);
  const int first = max(top, above);
  const int rows = found ? max(min(bottom, above + height) - first, 0) : 0;
  const Part part = {first, before + x, rows, columns};
  clear_margins(canvas, part, top, bottom, x == 0 ? 0 : part.left,
                x + columns == width ? canvas.width : part.left + columns);
  if (rows == 0) return false;

  const Resampling vertical = resampling(box.height, height);
  const Resampling horizontal = resampling(box.width, width);
  const bool flip = task.flip != nullptr && task.flip[blockIdx.x];
  if (thread < columns) {
    const int64_t pixel = x + thread;
    shared.across[thread] = axis_of(horizontal, flip ? task.width - 1 - pixel : pixel);
  } else if (const int row = thread - kColumns; row >= 0 && row < kRows) {
    shared.rows[row] =
        row < rows ? axis_of(vertical, first - above + row) : Axis{{0, 0, 0.0f}, 0.0f};
  }
  if (thread == 0) {
    const int64_t channels = task.channels;
    const uint8_t* pixels = reinterpret_cast<const uint8_t*>(image.address);
    shared.origin = {pixels + box.top * image.row_stride + box.left * channels, pixels,
                     pixels + (image.height - 1) * image.row_stride + image.width * channels,
                     image.row_stride};
    shared.vertical = vertical;
    shared.horizontal = horizontal;
    shared.part = part;
    const PixelTaps lowest = pixel_taps(horizontal, flip ? width - x - columns : x);
    const PixelTaps highest = pixel_taps(horizontal, flip ? width - 1 - x : x + columns - 1);
    shared.begin = lowest.first;
    shared.end = highest.first + highest.count;
  }
  __syncthreads();
  return true;
}

template <class Value, int kChannels>
__global__ void __launch_bounds__(kThreads, 3) crop_kernel(const CropOnDevice crop) {
  Shared& shared = *shared_memory<Shared>();
  if (!begin_part<Value>(crop, shared)) return;
  float sums[kPixelsPerThread][kChannels] = {};
  constexpr int kPixels = kTile / kChannels;  // of a tile
  for (int32_t begin = shared.begin; begin < shared.end; begin += kPixels) {
    sum_down(int64_t{begin} * kChannels, min(kPixels, shared.end - begin) * kChannels, shared);
    sum_across<kChannels>(begin, shared, sums);
  }
  write_part<Value, kChannels>(crop.task, shared, sums);
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
