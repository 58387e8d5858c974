// DSA's augmentations and their adjoint on CUDA, one launch each.
//
// Shapes: images [N, C, H, W]; a block makes an image, from its mean to its last pixel.
// Presumes: planes of less than 2^31 pixels. Images of up to kStaged values (73 x 73 with three
// channels) are staged in shared memory in float32; larger ones are read again in place, mostly
// from the second-level cache. The adjoint presumes maps that do not crowd many output pixels
// around one input pixel; for a singular map it checks all outputs for each input pixel, which is
// slow but right.
// Limit: bandwidth, one read and one write of the batch.
//
// A pixel's neighbours are summed before its colours are mixed, which gives the same by linearity.
// The adjoint gathers: an input pixel looks for the outputs that read it, so no sum depends on the
// order of threads.
#include "augment/augment_cuda.h"
#include "common/launch.h"
#include "common/sums.h"

namespace pydream {
namespace {

constexpr int kImageThreads = 512;
constexpr int kImageWarps = kImageThreads / 32;
constexpr int kBlocks = 2;  // per multiprocessor: 64 registers a thread, almost no spills
constexpr int64_t kStaged = 16384;
constexpr int kTogether = 4;  // channels summed at once, in registers

struct Shape {
  int channels;
  int height;
  int width;
  int64_t area;
};

struct Place {
  int x, y;
};

// In 32 bits, because a 64-bit division takes a GPU many instructions.
__device__ Place place_of(uint32_t pixel, const Shape& shape) {
  const uint32_t width = static_cast<uint32_t>(shape.width);
  return {static_cast<int>(pixel % width), static_cast<int>(pixel / width)};
}

__device__ bool inside(const Cutout& cutout, int x, int y) {
  const float across = static_cast<float>(x), down = static_cast<float>(y);
  return down >= cutout.top && down < cutout.top + cutout.height && across >= cutout.left &&
         across < cutout.left + cutout.width;
}

// The pixels that an output reads along one side: `first` and the next one, with their weights; 0
// for a pixel outside of the image.
struct Taps {
  int first;
  float weight[2];
};

__device__ Taps find_taps(float position, int side) {
  const float most = static_cast<float>(side);
  const float at = fminf(fmaxf(position, -1.0f), most);  // -1 for NaN
  const float below = floorf(at);
  const int first = static_cast<int>(below);
  return {first,
          {first >= 0 && first < side ? 1.0f - (at - below) : 0.0f,
           first + 1 < side ? at - below : 0.0f}};
}

__device__ float map_x(const AffineMap& map, int x, int y) {
  return fmaf(map.a, static_cast<float>(x), fmaf(map.b, static_cast<float>(y), map.tx));
}

__device__ float map_y(const AffineMap& map, int x, int y) {
  return fmaf(map.c, static_cast<float>(x), fmaf(map.d, static_cast<float>(y), map.ty));
}

// The input of an output pixel: a weighted sum of four input pixels.
struct Reading {
  Taps across, down;

  __device__ Reading(const AffineMap& map, const Shape& shape, int x, int y)
      : across(find_taps(map_x(map, x, y), shape.width)),
        down(find_taps(map_y(map, x, y), shape.height)) {}

  // The sum of the weights: less than 1 at the border.
  __device__ float share() const {
    return (across.weight[0] + across.weight[1]) * (down.weight[0] + down.weight[1]);
  }

  // Calls each(pixel, weight) for those inside.
  template <class Each>
  __device__ void operator()(const Shape& shape, const Each& each) const {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float weight = down.weight[j] * across.weight[i];
        if (weight == 0.0f) continue;
        each(static_cast<int64_t>(down.first + j) * shape.width + across.first + i, weight);
      }
    }
  }
};

// The inverse of a map's linear part, and the extent, along each side, of the outputs that read a
// pixel. Infinite or NaN if there is no inverse.
struct Inverse {
  float a, b, c, d;
  float reach_x, reach_y;

  __device__ explicit Inverse(const AffineMap& map) {
    const double determinant =
        static_cast<double>(map.a) * map.d - static_cast<double>(map.b) * map.c;
    a = static_cast<float>(map.d / determinant);
    b = static_cast<float>(-map.b / determinant);
    c = static_cast<float>(-map.c / determinant);
    d = static_cast<float>(map.a / determinant);
    reach_x = fabsf(a) + fabsf(b);
    reach_y = fabsf(c) + fabsf(d);
  }
};

// The outputs that read an input pixel: those in a box whose weight for it is not 0. Outputs at the
// rim of the box that rounding excludes have almost no weight.
struct Readers {
  const AffineMap& map;
  const Cutout& cutout;
  int x, y;
  int left, right, top, bottom;

  __device__ Readers(const AugmentRow& row, const Inverse& inverse, const Shape& shape, int x,
                     int y)
      : map(row.map), cutout(row.cutout), x(x), y(y) {
    const float from_x = static_cast<float>(x) - map.tx, from_y = static_cast<float>(y) - map.ty;
    const float middle_x = inverse.a * from_x + inverse.b * from_y;
    const float middle_y = inverse.c * from_x + inverse.d * from_y;
    // NaN becomes the border of the image on either side.
    const float last_x = static_cast<float>(shape.width - 1);
    const float last_y = static_cast<float>(shape.height - 1);
    left = static_cast<int>(fminf(fmaxf(ceilf(middle_x - inverse.reach_x), 0.0f), last_x));
    right = static_cast<int>(fmaxf(fminf(floorf(middle_x + inverse.reach_x), last_x), -1.0f));
    top = static_cast<int>(fminf(fmaxf(ceilf(middle_y - inverse.reach_y), 0.0f), last_y));
    bottom = static_cast<int>(fmaxf(fminf(floorf(middle_y + inverse.reach_y), last_y), -1.0f));
  }

  template <class Each>
  __device__ void operator()(const Shape& shape, const Each& each) const {
    for (int v = top; v <= bottom; ++v) {
      for (int u = left; u <= right; ++u) {
        const float across = 1.0f - fabsf(map_x(map, u, v) - static_cast<float>(x));
        const float down = 1.0f - fabsf(map_y(map, u, v) - static_cast<float>(y));
        if (!(across > 0.0f && down > 0.0f) || inside(cutout, u, v)) continue;
        each(static_cast<int64_t>(v) * shape.width + u, across * down);
      }
    }
  }
};

// The weighted sums of some channels.
template <class T, class Neighbours>
__device__ void sum_channels(const T* image, const Shape& shape, const Neighbours& neighbours,
                             int first, float (&sums)[kTogether]) {
#pragma unroll
  for (int k = 0; k < kTogether; ++k) sums[k] = 0.0f;
  const T* planes = image + first * shape.area;
  const int count = min(kTogether, shape.channels - first);
  neighbours(shape, [&](int64_t pixel, float weight) {
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (k < count) sums[k] += weight * widen(planes[k * shape.area + pixel]);
    }
  });
}

// Sums a pixel's neighbours, mixes the colours of the sums and adds a constant. With more than
// kTogether channels, the sums are computed twice: for their mean, and for the pixel.
template <class T, class Out, class Neighbours>
__device__ void make_pixel(const T* image, const Shape& shape, const Neighbours& neighbours,
                           const ColourMix& mix, float constant, Out* out) {
  float sums[kTogether];
  float total = 0.0f;
  const int last = (shape.channels - 1) / kTogether * kTogether;
  for (int first = 0; first <= last; first += kTogether) {
    sum_channels(image, shape, neighbours, first, sums);
#pragma unroll
    for (int k = 0; k < kTogether; ++k) total += sums[k];
  }
  const float added = fmaf(mix.channels / static_cast<float>(shape.channels), total, constant);
  for (int first = last; first >= 0; first -= kTogether) {
    if (first < last) sum_channels(image, shape, neighbours, first, sums);
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (first + k < shape.channels) {
        narrow(fmaf(mix.own, sums[k], added), out + (first + k) * shape.area);
      }
    }
  }
}

// Copies the image to shared memory, if there is any, and returns the sum of its values; for the
// adjoint, the sum over what its pixels read.
template <class T, bool kAdjoint>
__device__ double stage(const T* image, const Shape& shape, const AugmentRow& row, float* staged) {
  float sum = 0.0f;
  for (uint32_t pixel = threadIdx.x; pixel < shape.area; pixel += kImageThreads) {
    float channels = 0.0f;
    for (int c = 0; c < shape.channels; ++c) {
      const float value = widen(image[c * shape.area + pixel]);
      if (staged != nullptr) staged[c * shape.area + pixel] = value;
      channels += value;
    }
    if constexpr (kAdjoint) {
      const auto [x, y] = place_of(pixel, shape);
      if (!inside(row.cutout, x, y)) sum += Reading(row.map, shape, x, y).share() * channels;
    } else {
      sum += channels;
    }
  }
  return sum;
}

template <class T, class Out, bool kAdjoint>
__device__ void make_image(const T* image, const Shape& shape, const AugmentRow& row, float mean,
                           Out* out) {
  const Inverse inverse(row.map);
  for (uint32_t pixel = threadIdx.x; pixel < shape.area; pixel += kImageThreads) {
    const auto [x, y] = place_of(pixel, shape);
    if constexpr (kAdjoint) {
      make_pixel(image, shape, Readers(row, inverse, shape, x, y), row.mix, mean, out + pixel);
    } else if (inside(row.cutout, x, y)) {
      for (int c = 0; c < shape.channels; ++c) narrow(0.0f, out + c * shape.area + pixel);
    } else {
      const Reading reading(row.map, shape, x, y);
      const float constant = (mean + row.mix.brightness) * reading.share();
      make_pixel(image, shape, reading, row.mix, constant, out + pixel);
    }
  }
}

template <class T, bool kAdjoint>
__global__ void __launch_bounds__(kImageThreads, kBlocks)
    augment_kernel(const Augment task, const Shape shape, bool in_shared) {
  double* sums = shared_memory<double>();  // [kImageWarps]
  float* staged = in_shared ? reinterpret_cast<float*>(sums + kImageWarps) : nullptr;  // [C, H, W]
  const int64_t number = blockIdx.x;
  const AugmentRow row = augment_row(task.parameters + number / task.together * kAugmentColumns);
  const int64_t values = shape.channels * shape.area;
  const T* image = static_cast<const T*>(task.from) + number * values;  // [C, H, W]
  T* out = static_cast<T*>(task.to) + number * values;                  // [C, H, W]
  float mean = 0.0f;
  if (in_shared || row.mix.image != 0.0f) {
    const double sum = block_sum(stage<T, kAdjoint>(image, shape, row, staged), sums);
    if (row.mix.image != 0.0f) {
      mean = row.mix.image * static_cast<float>(sum / static_cast<double>(values));
    }
  }
  if (in_shared) {
    make_image<float, T, kAdjoint>(staged, shape, row, mean, out);
  } else {
    make_image<T, T, kAdjoint>(image, shape, row, mean, out);
  }
}

template <class T, bool kAdjoint>
void launch_augment(const Augment& task, cudaStream_t stream) {
  const Shape shape = {static_cast<int>(task.channels), static_cast<int>(task.height),
                       static_cast<int>(task.width), task.height * task.width};
  const int64_t values = task.channels * shape.area;
  const bool in_shared = values <= kStaged;
  const size_t shared = kImageWarps * sizeof(double) + (in_shared ? values * sizeof(float) : 0);
  launch(augment_kernel<T, kAdjoint>, dim3(static_cast<unsigned>(task.images)), dim3(kImageThreads),
         shared, stream, task, shape, in_shared);
}

template <class T>
void launch_augment(const Augment& task, bool adjoint, cudaStream_t stream) {
  if (adjoint) return launch_augment<T, true>(task, stream);
  return launch_augment<T, false>(task, stream);
}

}  // namespace

void diff_augment_cuda(const View& x, const View& parameters, const View& result, bool adjoint,
                       const Launch& where) {
  const DeviceGuard guard(where.device);
  const Augment task = augment_task(x, parameters, result);
  switch (task.type) {
    case Dtype::float16:
      return launch_augment<Half>(task, adjoint, where.stream);
    case Dtype::bfloat16:
      return launch_augment<BFloat16>(task, adjoint, where.stream);
    default:
      return launch_augment<float>(task, adjoint, where.stream);
  }
}

}  // namespace pydream
