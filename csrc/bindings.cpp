// The Python module pydream._C: pointers, sizes and a thread count in, one entry per
// op and device. Checks of shape, dtype and layout are made once, in pydream/ops;
// what is checked here and below is what only a look at the values can tell.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

#include "common/isa.h"

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

  // collage
}
