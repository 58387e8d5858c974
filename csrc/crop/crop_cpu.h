// Cropping on the CPU, for bindings.cpp. Errors name the arguments of pydream.ops.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "crop/crop_kernel.h"

namespace pydream {

PYDREAM_KERNELS(CropKernels, crop_kernels)

// The images of a list, [H, W, C] each, or of one batch [N, H, W, C]. A batch has no table, since
// an expanded one may have more images than fit into memory.
class PictureTable {
 public:
  explicit PictureTable(const std::vector<View>& images);
  int64_t count() const { return count_; }
  // Of a task, which must not outlive the table.
  void give(CropResize* task) const;

 private:
  std::vector<Image> pictures_;
  bool is_batch_;
  int64_t step_;
  int64_t count_;
};

// Throws std::invalid_argument for a box that is empty or not inside its image, and for an image
// index out of range.
void check_crops(const CropResize& task);

// Fills out [P, C, canvas height, canvas width], contiguous or channels-last, with patches of
// `size`. `images` are [H, W, C] each, or one batch [N, H, W, C], of bytes; boxes [P, 4] and
// image_index [P] (or null) are int64, flip [P] (or null) is bool. Throws std::invalid_argument
// before anything is written: for a box that is empty or not inside its image, and for an image
// index out of range.
void crop_resize_cpu(const std::vector<View>& images, const View& boxes, const View& image_index,
                     const View& flip, std::pair<int64_t, int64_t> size, const Scaling& scaling,
                     const View& out, int threads);

}  // namespace pydream
