// The entries of the CUDA kernels, whose arguments are those of the C++ function: a Launch comes
// last.
#include <pybind11/stl.h>

#include "augment/augment_cuda.h"
#include "bindings.h"
#include "block/block_cuda.h"
#include "casters.h"
#include "cells/cells_cuda.h"
#include "collage/collage_cuda.h"
#include "common/device.h"
#include "common/faults.h"
#include "crop/crop_cuda.h"
#include "formation/formation_cuda.h"
#include "kmeans/kmeans_cuda.h"
#include "matching/matching_cuda.h"
#include "score/score_cuda.h"

namespace py = pybind11;

namespace pydream {
namespace {

using release_gil = py::call_guard<py::gil_scoped_release>;

Faults faults_at(uintptr_t address) { return reinterpret_cast<Faults>(address); }

void bind_device(py::module_& m) {
  m.attr("fault_kinds") = kFaultKinds;
  m.def("any_fault", [](uintptr_t faults) { return any_fault(faults_at(faults)); });
  m.def(
      "take_faults",
      [](uintptr_t taken, const Launch& where) { take_faults_cuda(faults_at(taken), where); },
      release_gil());
  m.def("device_count", &device_count);
  m.def("has_code_for", &has_code_for);
  m.def("driver_version", &driver_version);
  m.def("runtime_version", &runtime_version);
}

// One call of k-means, whose steps Python asks for.
class KmeansRun {
 public:
  KmeansRun(const View& x, const View& table, int64_t centres, int64_t most_centres, int64_t tiles,
            bool fast) {
    k_.x = samples_of(x);
    k_.table = table.as<const ProblemEntry>();
    k_.problems = table.shape[0] - 1;
    k_.centres = centres;
    k_.most_centres = most_centres;
    k_.tiles = tiles;
    k_.fast = fast;
  }

  int64_t workspace_bytes() { return kmeans_workspace(&k_, nullptr); }

  int64_t seeding_bytes() {
    SeedingOnDevice seeding{};
    return seeding_workspace(&seeding, k_, nullptr);
  }

  void give(const View& workspace, const View& centroids, const View& labels, const View& inertia,
            const View& n_iter, const View& unfinished) {
    kmeans_workspace(&k_, workspace.as<unsigned char>());
    k_.centroid = centroids.as<float>();
    k_.label_out = labels.as<int64_t>();
    k_.inertia = inertia.as<double>();
    k_.n_iter = n_iter.as<int64_t>();
    k_.unfinished = unfinished.as<int32_t>();
  }

  void begin(const Launch& where) const { kmeans_begin_cuda(k_, where); }

  void seed(const View& workspace, uint64_t seed, const Launch& where) const {
    SeedingOnDevice seeding{};
    seeding_workspace(&seeding, k_, workspace.as<unsigned char>());
    seed_plusplus_cuda(k_, seeding, seed, where);
  }

  void start(const Launch& where) const { kmeans_start_cuda(k_, where); }

  void iterate(double tol, bool spherical, const Launch& where) const {
    kmeans_iterate_cuda(k_, tol, spherical, where);
  }

  void finish(const Launch& where) const { kmeans_finish_cuda(k_, where); }

 private:
  KmeansOnDevice k_{};
};

void bind_kmeans(py::module_& m) {
  m.attr("tile_rows") = kTileRows;
  m.attr("centres_together") = kTogether;
  // Of this module alone: the tests have these kernels in another one too.
  py::class_<KmeansRun>(m, "KmeansRun", py::module_local())
      .def(py::init<const View&, const View&, int64_t, int64_t, int64_t, bool>())
      .def("workspace_bytes", &KmeansRun::workspace_bytes)
      .def("seeding_bytes", &KmeansRun::seeding_bytes)
      .def("give", &KmeansRun::give)
      .def("begin", &KmeansRun::begin, release_gil())
      .def("seed", &KmeansRun::seed, release_gil())
      .def("start", &KmeansRun::start, release_gil())
      .def("iterate", &KmeansRun::iterate, release_gil())
      .def("finish", &KmeansRun::finish, release_gil());
  m.def("nearest_samples", &nearest_samples_cuda, release_gil());
}

// The layers of two lists of gradients.
struct LayerList {
  LayerList(const std::vector<View>& synthetic, const std::vector<uintptr_t>& real,
            const std::vector<uintptr_t>& gradients)
      : layers(layers_of(synthetic, real, gradients)) {}

  std::vector<Layer> layers;
};

void bind_matching(py::module_& m) {
  py::class_<LayerList>(m, "LayerList", py::module_local())
      .def(py::init<const std::vector<View>&, const std::vector<uintptr_t>&,
                    const std::vector<uintptr_t>&>())
      .def("words", [](const LayerList& list, const std::string& metric) {
        return matching_words(list.layers, parse_metric(metric));
      });
  m.def(
      "gradient_distance",
      [](const LayerList& list, const std::string& metric, const View& workspace,
         const Launch& where) {
        gradient_distance_cuda(list.layers, parse_metric(metric), workspace, where);
      },
      release_gil());
}

}  // namespace

void bind_cuda(py::module_& m) {
  bind_device(m);
  m.def("crop_resize", &crop_resize_cuda, release_gil());
  m.def("match_cells", &match_cells_cuda, release_gil());
  m.def("realism_scores", &realism_scores_cuda, release_gil());
  m.def("best_crops", &best_crops_cuda, release_gil());
  m.def("grouping_words", &grouping_words);
  m.def("top_images", &top_images_cuda, release_gil());
  m.def("collage", &collage_cuda, release_gil());
  bind_kmeans(m);
  bind_matching(m);
  m.def("diff_augment", &diff_augment_cuda, release_gil());
  m.def("multi_formation", &multi_formation_cuda, release_gil());
  m.def("multi_formation_backward", &multi_formation_backward_cuda, release_gil());
  m.def("norm_relu_pool", &norm_relu_pool_cuda, release_gil());
  m.def("norm_relu_pool_backward", &norm_relu_pool_backward_cuda, release_gil());
  m.def("norm_relu_pool_second_backward", &norm_relu_pool_second_backward_cuda, release_gil());
}

}  // namespace pydream
