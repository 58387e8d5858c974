// The Python module pydream._C: pointers, sizes and a thread count in, one entry per
// op and device. Checks of shape, dtype and layout are made once, in pydream/ops;
// what is checked here and below is what only a look at the values can tell.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "collage/collage.h"
#include "common/isa.h"
#include "score/score.h"

namespace py = pybind11;

namespace {

// Pointers cross the border as integers (tensor.data_ptr()).
template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
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

  // score
  m.def(
      "realism_scores",
      [](uintptr_t logits, const std::string& type, int64_t rows, int64_t classes, int64_t stride,
         uintptr_t labels, uintptr_t scores, int threads) {
        const pydream::Logits given{pointer<const void>(logits), pydream::parse_logit_type(type),
                                    rows, classes, stride};
        pydream::check_labels(pointer<const int64_t>(labels), rows, classes);
        pydream::realism_scores(given, pointer<const int64_t>(labels), 1, pointer<float>(scores),
                                threads);
      },
      release_gil());
  m.def(
      "select_key_patches",
      [](uintptr_t scores, int64_t stride, int64_t images, int64_t crops, uintptr_t labels,
         int64_t per_class, int64_t classes, uintptr_t image, uintptr_t crop, uintptr_t score,
         int threads) {
        pydream::select_key_patches(
            pointer<const float>(scores), stride, images, crops, pointer<const int64_t>(labels),
            per_class, classes,
            {pointer<int64_t>(image), pointer<int64_t>(crop), pointer<float>(score)}, threads);
      },
      release_gil());
  m.def(
      "key_patches",
      [](uintptr_t logits, const std::string& type, int64_t images, int64_t crops,
         int64_t logit_classes, int64_t stride, uintptr_t labels, int64_t per_class,
         int64_t classes, uintptr_t image, uintptr_t crop, uintptr_t score, int threads) {
        const pydream::Logits given{pointer<const void>(logits), pydream::parse_logit_type(type),
                                    images * crops, logit_classes, stride};
        const int64_t* label = pointer<const int64_t>(labels);
        pydream::check_labels(label, images, std::min(logit_classes, classes));
        const std::unique_ptr<float[]> scores(new float[images * crops]);
        pydream::realism_scores(given, label, crops, scores.get(), threads);
        pydream::select_key_patches(
            scores.get(), crops, images, crops, label, per_class, classes,
            {pointer<int64_t>(image), pointer<int64_t>(crop), pointer<float>(score)}, threads);
      },
      release_gil());

  // collage
  m.def(
      "collage",
      [](uintptr_t patches, int64_t classes, int64_t images, int64_t factor, int64_t channels,
         int64_t height, int64_t width, int64_t size, int64_t element, uintptr_t result,
         int threads) {
        pydream::collage({classes, images, factor, channels, height, width, size}, element,
                         pointer<const void>(patches), pointer<void>(result), threads);
      },
      release_gil());
}
