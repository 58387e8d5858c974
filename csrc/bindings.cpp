// The Python module pydream._C: one entry for each op and device, whose arguments are those of the
// C++ function (pydream/_C.pyi names them). Checks of shape, dtype and layout are made once, in
// pydream/ops; what is checked in C++ is what only a look at the values can tell.
#include "bindings.h"

#include <pybind11/pybind11.h>

#include <algorithm>

#include "augment/augment.h"
#include "block/block.h"
#include "casters.h"
#include "cells/cells_cpu.h"
#include "collage/collage.h"
#include "common/files.h"
#include "common/isa.h"
#include "crop/crop_cpu.h"
#include "draws/draws.h"
#include "formation/formation.h"
#include "kmeans/kmeans.h"
#include "matching/matching.h"
#include "score/score.h"

namespace py = pybind11;

namespace {

// Bytes that are not written yet. (py::bytes turns a lack of memory into a RuntimeError.)
py::bytes new_bytes(int64_t size) {
  PyObject* made = PyBytes_FromStringAndSize(nullptr, size);
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(made);
}

// The bytes of `begin`, then those of `more`.
py::bytes joined(const char* begin, int64_t count, const std::string& more) {
  const int64_t further = static_cast<int64_t>(more.size());
  py::bytes whole = new_bytes(count + further);
  char* to = PyBytes_AS_STRING(whole.ptr());
  std::copy_n(begin, count, to);
  std::copy_n(more.data(), further, to + count);
  return whole;
}

// The content of each file as bytes; or, as a number, the errno of what failed, or minus the size
// of a file of more than `most` bytes.
py::list read_files(const std::vector<std::string>& paths, int64_t most) {
  std::vector<pydream::WholeFile> files;
  {
    py::gil_scoped_release released;
    files.reserve(paths.size());
    for (const std::string& path : paths) files.emplace_back(path);
  }
  std::vector<py::bytes> contents;
  std::vector<char*> places;
  for (const pydream::WholeFile& file : files) {
    const bool wanted = file.error() == 0 && file.size() <= most;
    contents.push_back(new_bytes(wanted ? file.size() : 0));
    places.push_back(wanted ? PyBytes_AS_STRING(contents.back().ptr()) : nullptr);
  }
  {
    py::gil_scoped_release released;
    for (size_t each = 0; each < files.size(); ++each) {
      if (places[each] != nullptr) files[each].read_to(places[each], most);
    }
  }
  py::list found;
  for (size_t each = 0; each < files.size(); ++each) {
    const pydream::WholeFile& file = files[each];
    if (file.error() != 0) {
      found.append(file.error());
    } else if (file.size() > most) {
      found.append(-file.size());
    } else if (file.count() < file.size() || !file.more().empty()) {  // it changed meanwhile
      found.append(joined(places[each], file.count(), file.more()));
    } else {
      found.append(contents[each]);
    }
  }
  return found;
}

}  // namespace

// Free of the interpreter's lock: the state of the module is the instruction set (atomic), the
// pool (common/parallel.cpp, under its mutex) and scratch memory of each thread; the objects that
// it makes belong to one call. pybind11 refuses interpreters beside the main one by default.
PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "pydream's compiled kernels. Call them through pydream.ops.";
  using release_gil = py::call_guard<py::gil_scoped_release>;

  py::register_exception<pydream::MisalignedError>(m, "MisalignedError", PyExc_ValueError);

  // build
  m.def("available_isas", &pydream::available_isas);
  m.def("active_isa", [] { return pydream::isa_name(pydream::active_isa()); });
  m.def("set_isa", &pydream::set_isa);
  m.def("native_bfloat16", &pydream::native_bfloat16);
  m.attr("compiler") = PYDREAM_COMPILER;
  m.attr("cuda_architectures") = PYDREAM_CUDA_ARCHITECTURES;  // empty without CUDA
  py::list dtypes;
  for (const char* name : pydream::kDtypeNames) dtypes.append(name);
  m.attr("dtypes") = py::tuple(dtypes);  // a view names one by its place here
#ifdef PYDREAM_CUDA
  py::module_ cuda = m.def_submodule("cuda", "The same on CUDA devices.");
  pydream::bind_cuda(cuda);
#endif

  // files
  m.def("read_files", &read_files);
  m.def("file_sizes", &pydream::file_sizes, release_gil());

  // draws
  m.def("random_crop_boxes_cpu", &pydream::random_crop_boxes_cpu, release_gil());
  m.def("random_keys_cpu", &pydream::random_keys_cpu, release_gil());
  m.def("random_augment_cpu", &pydream::random_augment_cpu, release_gil());

  // crop
  m.def("crop_resize_cpu", &pydream::crop_resize_cpu, release_gil());

  // cells
  m.def("matched_cells_cpu", &pydream::matched_cells_cpu, release_gil());

  // score
  m.def("realism_scores_cpu", &pydream::realism_scores_cpu, release_gil());
  m.def("select_key_patches_cpu", &pydream::select_key_patches_cpu, release_gil());
  m.def("key_patches_cpu", &pydream::key_patches_cpu, release_gil());

  // collage
  m.def("collage_cpu", &pydream::collage_cpu, release_gil());

  // kmeans
  py::class_<pydream::KmeansSettings>(m, "KmeansSettings")
      .def(py::init(
          [](const std::string& init, int64_t max_iter, double tol, bool spherical, uint64_t seed) {
            return pydream::KmeansSettings{pydream::parse_seeding(init), max_iter, tol, spherical,
                                           seed};
          }));
  m.def("kmeans_cpu", &pydream::kmeans_cpu, release_gil());
  m.def("random_samples_cpu", &pydream::random_samples_cpu, release_gil());
  m.def("nearest_samples_cpu", &pydream::nearest_samples_cpu, release_gil());

  // matching
  m.def("gradient_distance_cpu", &pydream::gradient_distance_cpu, release_gil());

  // formation
  m.def("multi_formation_cpu", &pydream::multi_formation_cpu, release_gil());
  m.def("multi_formation_backward_cpu", &pydream::multi_formation_backward_cpu, release_gil());

  // augment
  m.def("diff_augment_cpu", &pydream::diff_augment_cpu, release_gil());

  // block
  m.def("norm_relu_pool_cpu", &pydream::norm_relu_pool_cpu, release_gil());
  m.def("norm_relu_pool_backward_cpu", &pydream::norm_relu_pool_backward_cpu, release_gil());
  m.def("norm_relu_pool_second_backward_cpu", &pydream::norm_relu_pool_second_backward_cpu,
        release_gil());
}
