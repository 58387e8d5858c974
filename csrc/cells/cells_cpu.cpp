#include "cells/cells_cpu.h"

#include <algorithm>

#include "common/isa.h"
#include "common/parallel.h"
#include "crop/crop_cpu.h"

namespace pydream {

PYDREAM_KERNELS(CellsKernels, cells_kernels)

FitTable::FitTable(int64_t from, int64_t inside, int64_t anchor_side)
    : first(inside), count(inside), lower(inside), inverse(inside), to(anchor_side) {
  for (int64_t q = 0; q < inside; ++q) {
    first[q] = static_cast<int32_t>(first_from(q - 1, from, to));
    count[q] = static_cast<int32_t>(first_from(q + 1, from, to)) - first[q];
    most = std::max<int64_t>(most, count[q]);
  }
  weight.resize(inside * most);
  double pivot = 1.0;
  for (int64_t q = 0; q < inside; ++q) {
    double own = 0.0, with_last = 0.0;  // entries (q, q) and (q, q - 1) of U^T U
    for (int64_t tap = 0; tap < count[q]; ++tap) {
      const Between place = between(first[q] + tap, from, to);
      const float part = place.low == q ? 1.0f - place.weight : place.weight;
      weight[q * most + tap] = part;
      own += double{part} * part;
      if (place.low == q - 1) with_last += double{part} * (1.0f - place.weight);
    }
    const double ratio = q == 0 ? 0.0 : with_last / pivot;
    pivot = own - ratio * with_last;
    lower[q] = static_cast<float>(ratio);
    inverse[q] = static_cast<float>(1.0 / pivot);
  }
}

namespace {

// A register of the widest instruction set, in floats.
constexpr int64_t kBehind = 16;

float* grown(std::vector<float>* memory, int64_t floats) {
  if (static_cast<int64_t>(memory->size()) < floats) memory->resize(floats);
  return memory->data();
}

// Crops a patch as it is enlarged, less 1/2: planes [C, enlarged height, enlarged width] at
// `anchor`.
CropResize one_crop(const CropResize& crops, int64_t patch, float* anchor) {
  CropResize one = crops;
  one.images = nullptr;
  one.batch = crops.image(crops.image_of(patch));
  one.boxes = crops.boxes + patch;
  one.image_index = nullptr;
  one.num_images = one.num_patches = one.patches_per_image = 1;
  one.out = anchor;
  return one;
}

}  // namespace

void matched_cells_cpu(const std::vector<View>& images, const View& boxes, const View& image_index,
                       std::pair<int64_t, int64_t> size, std::pair<int64_t, int64_t> enlarged,
                       const View& out, int threads) {
  const PictureTable table(images);
  const int64_t channels = out.shape[1];
  const Scaling less_half(std::vector<float>(channels, 1.0f / 255),
                          std::vector<float>(channels, -0.5f));
  View anchors = out;
  anchors.dtype = Dtype::float32;
  anchors.shape[2] = enlarged.first;
  anchors.shape[3] = enlarged.second;
  anchors.stride[1] = enlarged.first * enlarged.second;
  CropResize crops = crop_task(table.count(), View{}, enlarged, less_half, anchors);
  table.give(&crops);
  crops.boxes = boxes.as<const Box>();
  crops.image_index = image_index.as<const int64_t>();
  crops.channels_last = false;
  check_crops(crops);

  const FitTable row_table(size.first, out.shape[2], enlarged.first);
  const FitTable column_table(size.second, out.shape[3], enlarged.second);
  const Fit rows = row_table.fit(), columns = column_table.fit();
  const int64_t plane = enlarged.first * enlarged.second;
  const int64_t made = rows.pixels * columns.pixels * bytes_of(out.dtype);  // bytes of a plane
  const auto crop = crop_kernels().crop_resize;
  const CellsKernels& kernels = cells_kernels();
  const int64_t grain = std::clamp<int64_t>(crops.num_patches / (16 * threads), 1, 32);
  parallel_for(crops.num_patches, grain, threads, [&](int64_t begin, int64_t end) {
    thread_local std::vector<float> anchor_memory, scratch_memory;
    float* anchor = grown(&anchor_memory, channels * plane + kBehind);
    float* scratch = grown(&scratch_memory, kernels.scratch(rows, columns));
    for (int64_t patch = begin; patch < end; ++patch) {
      crop(one_crop(crops, patch, anchor), 0, 1);
      for (int64_t c = 0; c < channels; ++c) {
        kernels.match(rows, columns, anchor + c * plane, out.dtype,
                      out.as<char>() + (patch * channels + c) * made, scratch);
      }
    }
  });
}

}  // namespace pydream
