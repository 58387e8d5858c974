// The entries of the CUDA kernels: pointers and sizes as in bindings.cpp, then `faults`
// (common/faults.h), a device and its stream.
#include <pybind11/stl.h>

#include "augment/augment_cuda.h"
#include "bindings.h"
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

CudaStream stream_at(uintptr_t address) { return reinterpret_cast<CudaStream>(address); }

void bind_crop(py::module_& m) {
  m.def(
      "crop_resize",
      [](uintptr_t images, const std::vector<int64_t>& first, int64_t image_stride,
         int64_t num_images, uintptr_t boxes, bool wide_boxes, uintptr_t image_index,
         bool wide_index, uintptr_t flip, int64_t num_patches, int64_t channels,
         const std::vector<int64_t>& size, const std::vector<int64_t>& canvas,
         const std::vector<float>& scale, const std::vector<float>& shift, const std::string& dtype,
         bool channels_last, uintptr_t out, uintptr_t faults, int device, uintptr_t stream) {
        CropOnDevice crop{};
        crop.task = crop_task(num_images, num_patches, channels, size, canvas, scale, shift, dtype,
                              channels_last, out);
        crop.task.images = pointer<const Image>(images);
        crop.task.flip = pointer<const bool>(flip);
        crop.first = {first.at(0), first.at(1), first.at(2), first.at(3)};
        crop.image_stride = image_stride;
        crop.boxes = pointer<const void>(boxes);
        crop.image_index = pointer<const void>(image_index);
        crop.wide_boxes = wide_boxes;
        crop.wide_index = wide_index;
        crop.faults = pointer<unsigned long long>(faults);
        crop_resize_cuda(crop, device, stream_at(stream));
      },
      release_gil());
}

void bind_score(py::module_& m) {
  m.def(
      "realism_scores",
      [](uintptr_t logits, const std::string& type, int64_t images, int64_t crops, int64_t classes,
         int64_t stride, uintptr_t labels, uintptr_t score, uintptr_t best, uintptr_t crop,
         uintptr_t faults, int device, uintptr_t stream) {
        const Logits given{pointer<const void>(logits), parse_float_type(type, "logits"),
                           images * crops, classes, stride};
        realism_scores_cuda(given, pointer<const int64_t>(labels), images, crops,
                            {pointer<float>(score), pointer<float>(best), pointer<int64_t>(crop)},
                            pointer<unsigned long long>(faults), device, stream_at(stream));
      },
      release_gil());
  m.def(
      "best_crops",
      [](uintptr_t scores, int64_t stride, int64_t images, int64_t crops, uintptr_t best,
         uintptr_t crop, uintptr_t faults, int device, uintptr_t stream) {
        best_crops_cuda(pointer<const float>(scores), stride, images, crops, pointer<float>(best),
                        pointer<int64_t>(crop), pointer<unsigned long long>(faults), device,
                        stream_at(stream));
      },
      release_gil());
  m.def(
      "top_images",
      [](uintptr_t best, uintptr_t crop, uintptr_t labels, int64_t images, int64_t per_class,
         int64_t classes, uintptr_t scratch, uintptr_t out_image, uintptr_t out_crop,
         uintptr_t out_score, uintptr_t faults, int device, uintptr_t stream) {
        top_images_cuda(
            pointer<const float>(best), pointer<const int64_t>(crop),
            pointer<const int64_t>(labels), images, per_class, classes, pointer<uint64_t>(scratch),
            {pointer<int64_t>(out_image), pointer<int64_t>(out_crop), pointer<float>(out_score)},
            pointer<unsigned long long>(faults), device, stream_at(stream));
      },
      release_gil());
}

void bind_collage(py::module_& m) {
  m.def(
      "collage",
      [](uintptr_t patches, int64_t classes, int64_t images, int64_t factor, int64_t channels,
         int64_t height, int64_t width, int64_t size, int64_t element, uintptr_t result, int device,
         uintptr_t stream) {
        collage_cuda({classes, images, factor, channels, height, width, size}, element,
                     pointer<const void>(patches), pointer<void>(result), device,
                     stream_at(stream));
      },
      release_gil());
}

// One call of k-means, whose steps Python asks for.
class KmeansRun {
 public:
  KmeansRun(uintptr_t x, const std::string& type, int64_t samples, int64_t dim, uintptr_t table,
            int64_t problems, int64_t centres, int64_t most_centres, int64_t tiles, bool fast) {
    k_.x = {pointer<const void>(x), parse_float_type(type, "x"), samples, dim};
    k_.table = pointer<const ProblemEntry>(table);
    k_.problems = problems;
    k_.centres = centres;
    k_.most_centres = most_centres;
    k_.tiles = tiles;
    k_.fast = fast;
    const int64_t words = fast && k_.x.type != FloatType::float32 ? (dim + 1) / 2 : dim;
    k_.padded = (words + 31) / 32 * 32;
  }

  int64_t workspace_bytes() { return kmeans_workspace(&k_, nullptr); }

  int64_t seeding_bytes() {
    SeedingOnDevice seeding{};
    return seeding_workspace(&seeding, k_, nullptr);
  }

  void give(uintptr_t workspace, uintptr_t centroids, uintptr_t labels, uintptr_t inertia,
            uintptr_t n_iter, uintptr_t unfinished) {
    kmeans_workspace(&k_, pointer<unsigned char>(workspace));
    k_.centroid = pointer<float>(centroids);
    k_.label_out = pointer<int64_t>(labels);
    k_.inertia = pointer<double>(inertia);
    k_.n_iter = pointer<int64_t>(n_iter);
    k_.unfinished = pointer<int32_t>(unfinished);
  }

  void begin(uintptr_t faults, int device, uintptr_t stream) const {
    kmeans_begin_cuda(k_, pointer<unsigned long long>(faults), device, stream_at(stream));
  }

  void seed(uintptr_t workspace, uint64_t seed, int device, uintptr_t stream) const {
    SeedingOnDevice seeding{};
    seeding_workspace(&seeding, k_, pointer<unsigned char>(workspace));
    seed_plusplus_cuda(k_, seeding, seed, device, stream_at(stream));
  }

  void start(uintptr_t faults, int device, uintptr_t stream) const {
    kmeans_start_cuda(k_, pointer<unsigned long long>(faults), device, stream_at(stream));
  }

  void iterate(double tol, bool spherical, int device, uintptr_t stream) const {
    kmeans_iterate_cuda(k_, tol, spherical, device, stream_at(stream));
  }

  void finish(int device, uintptr_t stream) const {
    kmeans_finish_cuda(k_, device, stream_at(stream));
  }

 private:
  KmeansOnDevice k_{};
};

void bind_kmeans(py::module_& m) {
  m.attr("tile_rows") = kTileRows;
  m.attr("centres_together") = kTogether;
  // Of this module alone: the tests have these kernels in another one too.
  py::class_<KmeansRun>(m, "KmeansRun", py::module_local())
      .def(py::init<uintptr_t, const std::string&, int64_t, int64_t, uintptr_t, int64_t, int64_t,
                    int64_t, int64_t, bool>())
      .def("workspace_bytes", &KmeansRun::workspace_bytes)
      .def("seeding_bytes", &KmeansRun::seeding_bytes)
      .def("give", &KmeansRun::give)
      .def("begin", &KmeansRun::begin, release_gil())
      .def("seed", &KmeansRun::seed, release_gil())
      .def("start", &KmeansRun::start, release_gil())
      .def("iterate", &KmeansRun::iterate, release_gil())
      .def("finish", &KmeansRun::finish, release_gil());
  m.def(
      "nearest_samples",
      [](uintptr_t x, const std::string& type, int64_t samples, int64_t dim, uintptr_t table,
         int64_t problems, int64_t centres, int64_t groups, uintptr_t centroids, int64_t count,
         uintptr_t distance, uintptr_t nearest, uintptr_t faults, int device, uintptr_t stream) {
        nearest_samples_cuda({{pointer<const void>(x), parse_float_type(type, "x"), samples, dim},
                              pointer<const ProblemEntry>(table),
                              problems,
                              centres,
                              groups,
                              pointer<const float>(centroids),
                              count,
                              pointer<float>(distance),
                              pointer<int64_t>(nearest)},
                             pointer<unsigned long long>(faults), device, stream_at(stream));
      },
      release_gil());
}

void bind_matching(py::module_& m) {
  m.def(
      "gradient_distance",
      [](const LayerList& list, const std::string& metric, uintptr_t partial, uintptr_t distance,
         uintptr_t finished, uintptr_t value, int device, uintptr_t stream) {
        gradient_distance_cuda(list.layers, parse_metric(metric),
                               {pointer<double>(partial), pointer<double>(distance),
                                pointer<unsigned int>(finished), pointer<float>(value)},
                               device, stream_at(stream));
      },
      release_gil());
  py::class_<LayerList>(m, "LayerList", py::module_local())
      .def(py::init<const std::vector<uintptr_t>&, const std::vector<uintptr_t>&,
                    const std::vector<uintptr_t>&, const std::vector<std::string>&,
                    const std::vector<int64_t>&, const std::vector<int64_t>&>())
      .def("blocks", [](const LayerList& list, const std::string& metric) {
        return matching_blocks(list.layers, parse_metric(metric));
      });
}

void bind_augment(py::module_& m) {
  m.def(
      "diff_augment",
      [](uintptr_t from, uintptr_t parameters, uintptr_t to, const std::string& type,
         const std::vector<int64_t>& shape, int64_t together, bool adjoint, int device,
         uintptr_t stream) {
        diff_augment_cuda(augment_task(from, parameters, to, type, shape, together), adjoint,
                          device, stream_at(stream));
      },
      release_gil());
}

void bind_formation(py::module_& m) {
  m.def(
      "multi_formation",
      [](uintptr_t images, const std::string& type, const std::vector<int64_t>& shape,
         int64_t factor, int64_t size, float padding, uintptr_t result, int device,
         uintptr_t stream) {
        multi_formation_cuda(formation(type, shape, factor, size), padding,
                             pointer<const void>(images), pointer<void>(result), device,
                             stream_at(stream));
      },
      release_gil());
  m.def(
      "multi_formation_backward",
      [](uintptr_t gradient, const std::string& type, const std::vector<int64_t>& shape,
         int64_t factor, int64_t size, uintptr_t images, int device, uintptr_t stream) {
        multi_formation_backward_cuda(formation(type, shape, factor, size),
                                      pointer<const void>(gradient), pointer<void>(images), device,
                                      stream_at(stream));
      },
      release_gil());
}

}  // namespace

void bind_cuda(py::module_& m) {
  m.attr("fault_kinds") = kFaultKinds;
  m.def("any_fault",
        [](uintptr_t faults) { return any_fault(pointer<const unsigned long long>(faults)); });
  m.def(
      "take_faults",
      [](uintptr_t faults, uintptr_t taken, int device, uintptr_t stream) {
        take_faults_cuda(pointer<unsigned long long>(faults), pointer<unsigned long long>(taken),
                         device, stream_at(stream));
      },
      release_gil());
  m.def("device_count", &device_count);
  m.def("carries", &carries);
  m.def("driver_version", &driver_version);
  m.def("runtime_version", &runtime_version);
  bind_crop(m);
  bind_score(m);
  bind_collage(m);
  bind_kmeans(m);
  bind_matching(m);
  bind_augment(m);
  bind_formation(m);
}

}  // namespace pydream
