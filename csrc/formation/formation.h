// Multi-formation: the cells of an image, each upsampled to an image of its own. The part shared by
// all devices; see pydream/ops/formation.py for the contract.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/view.h"

namespace pydream {

// [B, N, C, H, W] images to [B, f^2 * N, C, S, S]; for derivatives, the reverse.
struct Formation {
  Dtype type;
  int64_t batches;
  int64_t images;  // N, of each batch
  int64_t channels;
  int64_t height;
  int64_t width;
  int64_t factor;
  int64_t size;
};

// From images [B, N, C, H, W] and the result [B, f^2 * N, C, S, S], or both without B.
inline Formation formation_of(const View& images, int64_t factor, const View& result) {
  const int64_t* shape = images.shape + images.rank - 4;
  return {
      images.dtype, images.rank == 5 ? images.shape[0] : 1, shape[0], shape[1], shape[2], shape[3],
      factor,       result.shape[result.rank - 1]};
}

// Side of a cell. If the factor does not divide the side, the last cells extend past the image.
PYDREAM_HOST_DEVICE inline int64_t cell_side(int64_t side, int64_t factor) {
  return (side + factor - 1) / factor;
}

// Source of a plane [S, S] of the result.
struct Cell {
  int64_t plane;  // of the images, [H, W]
  int64_t top;
  int64_t left;
};

// Plane ((b f^2 + k) N + i) C + c of the result is cell k of image i of batch b.
PYDREAM_HOST_DEVICE inline Cell cell_of(const Formation& shape, int64_t plane) {
  const int64_t own = shape.images * shape.channels;  // planes of one batch of images
  const int64_t cell = plane / own % (shape.factor * shape.factor);
  const int64_t batch = plane / own / (shape.factor * shape.factor);
  return {batch * own + plane % own, cell / shape.factor * cell_side(shape.height, shape.factor),
          cell % shape.factor * cell_side(shape.width, shape.factor)};
}

// Pixel i of `to` is (1 - weight) * pixel `low` + weight * pixel (low + 1) of `from`: the rule of
// torch's interpolate(mode="bilinear", align_corners=False), in integers and therefore exact.
struct Between {
  int64_t low;
  float weight;  // 0 if low is the last pixel
};

PYDREAM_HOST_DEVICE inline Between between(int64_t i, int64_t from, int64_t to) {
  const int64_t place = (2 * i + 1) * from - to;  // in pixels of `from`, times 2 * to
  if (place <= 0) return {0, 0.0f};
  const int64_t low = place / (2 * to);
  if (low >= from - 1) return {from - 1, 0.0f};
  return {low, static_cast<float>(place - low * 2 * to) / static_cast<float>(2 * to)};
}

// The first pixel of `to` at or past pixel `low` of `from`; `to` if there is none. So pixel q of
// `from` contributes to the pixels [first_from(q - 1), first_from(q + 1)).
PYDREAM_HOST_DEVICE inline int64_t first_from(int64_t low, int64_t from, int64_t to) {
  const int64_t least = (2 * low + 1) * to - from;  // of 2 * i * from
  if (least <= 0) return 0;
  const int64_t first = (least + 2 * from - 1) / (2 * from);
  return first < to ? first : to;
}

// Fills result [B, f^2 * N, C, S, S] from images [B, N, C, H, W], padded with `padding`.
void multi_formation_cpu(const View& images, int64_t factor, float padding, const View& result,
                         int threads);

// Fills images [B, N, C, H, W] with the derivative by the images, from the one by the result.
void multi_formation_backward_cpu(const View& gradient, int64_t factor, const View& images,
                                  int threads);

// Tables of one side, for the kernels of an instruction set: for each pixel of the result,
struct Stretch {
  int64_t from;
  int64_t to;
  const int32_t* low;   // [to]
  const int32_t* high;  // [to], low + 1, or low where that is the last
  const float* weight;  // [to], of high
};

// and for each pixel of a cell, the pixels of the result it contributes to, at most `most`.
struct Readers {
  int64_t from;
  int64_t to;
  int64_t most;
  const int32_t* first;  // [from]
  const float* weight;   // [most, from], 0 where there are fewer
};

// The part of a cell inside the image, in a plane with `stride` values per row.
struct Inside {
  int64_t offset;  // of its first pixel
  int64_t stride;
  int64_t rows;
  int64_t columns;
};

// Values past the end of a row that vectors may read: two registers of the widest.
constexpr int64_t kSlack = 32;

// One per instruction set, from formation_kernel.cpp; each call makes one plane of the result.
struct FormationKernels {
  // scratch: [2 * columns.to + columns.from + kSlack]
  void (*upsample)(const Stretch& rows, const Stretch& columns, const Inside& cell, Dtype type,
                   float padding, const void* images, int64_t result_offset, void* result,
                   float* scratch);
  // scratch: [rows.to * columns.to + columns.to + columns.most + kSlack + columns.from]
  void (*gather)(const Readers& rows, const Readers& columns, const Inside& cell, Dtype type,
                 const void* gradient, int64_t gradient_offset, void* images, float* scratch);
};

}  // namespace pydream
