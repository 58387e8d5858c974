// How arguments from Python become those of the kernels: pydream/ops/_view.py and _dispatch.py make
// the tuples that are read here.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/stream.h"
#include "common/view.h"

namespace pydream {

// Whether a tuple of integers could be read into numbers [kMostRank].
inline bool read_integers(PyObject* tuple, int64_t* numbers) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    numbers[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
  }
  return PyErr_Occurred() == nullptr;
}

// From (address, dtype, shape, strides), or without strides for what is contiguous.
inline bool read_view(PyObject* tuple, View* view) {
  if (!PyTuple_Check(tuple)) return false;
  const Py_ssize_t parts = PyTuple_GET_SIZE(tuple);
  if (parts != 3 && parts != 4) return false;
  PyObject* shape = PyTuple_GET_ITEM(tuple, 2);
  if (!PyTuple_Check(shape) || PyTuple_GET_SIZE(shape) > kMostRank) return false;
  view->data = PyLong_AsVoidPtr(PyTuple_GET_ITEM(tuple, 0));
  view->dtype = static_cast<Dtype>(PyLong_AsLong(PyTuple_GET_ITEM(tuple, 1)));
  view->rank = static_cast<int>(PyTuple_GET_SIZE(shape));
  if (!read_integers(shape, view->shape)) return false;
  if (parts == 4) {
    PyObject* stride = PyTuple_GET_ITEM(tuple, 3);
    return PyTuple_Check(stride) && PyTuple_GET_SIZE(stride) == view->rank &&
           read_integers(stride, view->stride);
  }
  int64_t step = 1;
  for (int i = view->rank - 1; i >= 0; --i) {
    view->stride[i] = step;
    step *= view->shape[i];
  }
  return true;
}

// From (module, faults, device, stream).
inline bool read_launch(PyObject* tuple, Launch* launch) {
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != 4) return false;
  launch->faults = static_cast<Faults>(PyLong_AsVoidPtr(PyTuple_GET_ITEM(tuple, 1)));
  launch->device = static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(tuple, 2)));
  launch->stream = static_cast<CudaStream>(PyLong_AsVoidPtr(PyTuple_GET_ITEM(tuple, 3)));
  return PyErr_Occurred() == nullptr;
}

}  // namespace pydream

namespace pybind11::detail {

template <>
struct type_caster<pydream::View> {
  PYBIND11_TYPE_CASTER(pydream::View, const_name("View"));

  bool load(handle source, bool) {
    value = {};
    if (source.is_none()) return true;
    if (!pydream::read_view(source.ptr(), &value)) {
      PyErr_Clear();
      return false;
    }
    pydream::check_aligned(reinterpret_cast<uintptr_t>(value.data), value.dtype);
    return true;
  }
};

template <>
struct type_caster<pydream::Launch> {
  PYBIND11_TYPE_CASTER(pydream::Launch, const_name("Launch"));

  bool load(handle source, bool) {
    if (pydream::read_launch(source.ptr(), &value)) return true;
    PyErr_Clear();
    return false;
  }
};

}  // namespace pybind11::detail
