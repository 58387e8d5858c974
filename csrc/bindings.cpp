// The Python module pydream._C: pointers, sizes and a thread count in, one entry per
// op and device. Checks of shape, dtype and layout are made once, in pydream/ops;
// what is checked here and below is what only a look at the values can tell.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/isa.h"
#include "crop/crop_cpu.h"

namespace py = pybind11;

namespace {

// Pointers cross the border as integers (tensor.data_ptr()).
template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

pydream::PixelType pixel_type(const std::string& dtype) {
  using pydream::PixelType;
  if (dtype == "float32") return PixelType::float32;
  if (dtype == "float16") return PixelType::float16;
  if (dtype == "bfloat16") return PixelType::bfloat16;
  if (dtype == "uint8") return PixelType::uint8;
  throw std::invalid_argument("dtype must be float32, float16, bfloat16 or uint8, got " + dtype);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "pydream's compiled kernels. Call them through pydream.ops.";
  using release_gil = py::call_guard<py::gil_scoped_release>;

  // build
  m.def("available_isas", &pydream::available_isas);
  m.def("active_isa", [] { return pydream::isa_name(pydream::active_isa()); });
  m.def("set_isa", &pydream::set_isa);
  m.def("native_bfloat16", &pydream::native_bfloat16);
  m.attr("compiler") = PYDREAM_COMPILER;

  // crop
  m.def(
      "random_crop_boxes_cpu",
      [](uintptr_t sizes, uintptr_t ids, int64_t count, int64_t num_crops, double scale_low,
         double scale_high, double ratio_low, double ratio_high, uint64_t seed, uintptr_t out,
         int threads) {
        pydream::random_crop_boxes_cpu(pointer<int64_t>(sizes), pointer<int64_t>(ids), count,
                                       num_crops, {scale_low, scale_high, ratio_low, ratio_high},
                                       seed, pointer<int32_t>(out), threads);
      },
      release_gil());
  m.def(
      "random_keys_cpu",
      [](uintptr_t ids, int64_t count, uint64_t seed, uint32_t draw, uintptr_t out, int threads) {
        pydream::random_keys_cpu(pointer<int64_t>(ids), count, seed, draw, pointer<int64_t>(out),
                                 threads);
      },
      release_gil());
  m.def(
      "crop_resize_cpu",
      [](uintptr_t images, int64_t num_images, uintptr_t boxes, uintptr_t image_index,
         uintptr_t flip, int64_t num_patches, int64_t channels, int64_t height, int64_t width,
         int64_t canvas_height, int64_t canvas_width, const std::vector<float>& scale,
         const std::vector<float>& shift, const std::string& dtype, bool channels_last,
         uintptr_t out, int threads) {
        pydream::CropResize task{};
        task.images = pointer<pydream::Image>(images);
        task.boxes = pointer<pydream::Box>(boxes);
        task.image_index = pointer<int64_t>(image_index);
        task.flip = pointer<bool>(flip);
        task.num_images = num_images;
        task.num_patches = num_patches;
        task.patches_per_image = num_images > 0 ? num_patches / num_images : 1;
        task.channels = channels;
        task.height = height;
        task.width = width;
        task.canvas_height = canvas_height;
        task.canvas_width = canvas_width;
        for (int64_t c = 0; c < channels; ++c) {
          task.scale[c] = scale.at(c);
          task.shift[c] = shift.at(c);
        }
        task.dtype = pixel_type(dtype);
        task.channels_last = channels_last;
        task.out = pointer<void>(out);
        pydream::crop_resize_cpu(task, threads);
      },
      release_gil());

  // score

  // collage
}
