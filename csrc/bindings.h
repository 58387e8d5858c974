// What the bindings of all devices share.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "augment/augment.h"
#include "crop/crop_kernel.h"
#include "formation/formation.h"
#include "matching/matching.h"

namespace pydream {

// Pointers cross the border as integers (tensor.data_ptr()).
template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// The part of a crop that is alike on all devices.
inline CropResize crop_task(int64_t num_images, int64_t num_patches, int64_t channels,
                            const std::vector<int64_t>& size, const std::vector<int64_t>& canvas,
                            const std::vector<float>& scale, const std::vector<float>& shift,
                            const std::string& dtype, bool channels_last, uintptr_t out) {
  CropResize task{};
  task.num_images = num_images;
  task.num_patches = num_patches;
  task.patches_per_image = num_images > 0 ? num_patches / num_images : 1;
  task.channels = channels;
  task.height = size.at(0);
  task.width = size.at(1);
  task.canvas_height = canvas.at(0);
  task.canvas_width = canvas.at(1);
  for (int64_t c = 0; c < channels; ++c) {
    task.scale[c] = scale.at(c);
    task.shift[c] = shift.at(c);
  }
  task.dtype = parse_pixel_type(dtype);
  task.channels_last = channels_last;
  task.out = pointer<void>(out);
  return task;
}

inline Augment augment_task(uintptr_t from, uintptr_t parameters, uintptr_t to,
                            const std::string& type, const std::vector<int64_t>& shape,
                            int64_t together) {
  return {pointer<const void>(from),
          pointer<const float>(parameters),
          pointer<void>(to),
          parse_float_type(type, "x"),
          shape.at(0),
          together,
          shape.at(1),
          shape.at(2),
          shape.at(3)};
}

// Two lists of gradients, layer by layer, and a third for derivatives or none.
struct LayerList {
  LayerList(const std::vector<uintptr_t>& synthetic, const std::vector<uintptr_t>& real,
            const std::vector<uintptr_t>& gradients, const std::vector<std::string>& types,
            const std::vector<int64_t>& rows, const std::vector<int64_t>& columns) {
    for (size_t i = 0; i < synthetic.size(); ++i) {
      layers.push_back({pointer<const void>(synthetic[i]), pointer<const void>(real.at(i)),
                        gradients.empty() ? nullptr : pointer<void>(gradients.at(i)),
                        parse_float_type(types.at(i), "gradients"), rows.at(i), columns.at(i)});
    }
  }

  std::vector<Layer> layers;
};

// `shape` is that of the images, [B, N, C, H, W].
inline Formation formation(const std::string& type, const std::vector<int64_t>& shape,
                           int64_t factor, int64_t size) {
  return {parse_float_type(type, "images"),
          shape.at(0),
          shape.at(1),
          shape.at(2),
          shape.at(3),
          shape.at(4),
          factor,
          size};
}

// Adds the entries of the CUDA kernels.
void bind_cuda(pybind11::module_& m);

}  // namespace pydream
