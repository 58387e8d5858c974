// The Python module pydream._C: pointers, sizes and a thread count in, one entry per
// op and device. Checks of shape, dtype and layout are made once, in pydream/ops;
// what is checked here and below is what only a look at the values can tell.
#include "bindings.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "augment/augment.h"
#include "block/block.h"
#include "collage/collage.h"
#include "common/isa.h"
#include "crop/crop_cpu.h"
#include "formation/formation.h"
#include "kmeans/kmeans.h"
#include "matching/matching.h"
#include "score/score.h"

namespace py = pybind11;

using pydream::pointer;

namespace {

// From the addresses of weight, bias, mean and 1 / deviation.
pydream::BlockNorm block_norm(const std::vector<uintptr_t>& tensors) {
  return {pointer<const float>(tensors.at(0)), pointer<const float>(tensors.at(1)),
          pointer<float>(tensors.at(2)), pointer<float>(tensors.at(3))};
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
  m.attr("cuda_architectures") = PYDREAM_CUDA_ARCHITECTURES;  // empty without CUDA
#ifdef PYDREAM_CUDA
  py::module_ cuda = m.def_submodule("cuda", "The same on CUDA devices.");
  pydream::bind_cuda(cuda);
#endif

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
         uintptr_t flip, int64_t num_patches, int64_t channels, const std::vector<int64_t>& size,
         const std::vector<int64_t>& canvas, const std::vector<float>& scale,
         const std::vector<float>& shift, const std::string& dtype, bool channels_last,
         uintptr_t out, int threads) {
        pydream::CropResize task =
            pydream::crop_task(num_images, num_patches, channels, size, canvas, scale, shift, dtype,
                               channels_last, out);
        task.images = pointer<pydream::Image>(images);
        task.boxes = pointer<pydream::Box>(boxes);
        task.image_index = pointer<int64_t>(image_index);
        task.flip = pointer<bool>(flip);
        pydream::crop_resize_cpu(task, threads);
      },
      release_gil());

  // score
  m.def(
      "realism_scores_cpu",
      [](uintptr_t logits, const std::string& type, int64_t rows, int64_t classes, int64_t stride,
         uintptr_t labels, uintptr_t scores, int threads) {
        const pydream::Logits given{pointer<const void>(logits),
                                    pydream::parse_float_type(type, "logits"), rows, classes,
                                    stride};
        pydream::check_labels(pointer<const int64_t>(labels), rows, classes);
        pydream::realism_scores(given, pointer<const int64_t>(labels), 1, pointer<float>(scores),
                                threads);
      },
      release_gil());
  m.def(
      "select_key_patches_cpu",
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
      "key_patches_cpu",
      [](uintptr_t logits, const std::string& type, int64_t images, int64_t crops,
         int64_t logit_classes, int64_t stride, uintptr_t labels, int64_t per_class,
         int64_t classes, uintptr_t image, uintptr_t crop, uintptr_t score, int threads) {
        const pydream::Logits given{pointer<const void>(logits),
                                    pydream::parse_float_type(type, "logits"), images * crops,
                                    logit_classes, stride};
        const int64_t* label = pointer<const int64_t>(labels);
        pydream::check_labels(label, images, std::min(logit_classes, classes));
        const std::unique_ptr<float[]> scores(new float[images * crops]);
        pydream::realism_scores(given, label, crops, scores.get(), threads);
        pydream::select_key_patches(
            scores.get(), crops, images, crops, label, per_class, classes,
            {pointer<int64_t>(image), pointer<int64_t>(crop), pointer<float>(score)}, threads);
      },
      release_gil());

  // kmeans
  m.def(
      "kmeans_cpu",
      [](uintptr_t x, const std::string& type, int64_t dim, const std::vector<int64_t>& offsets,
         const std::vector<int64_t>& k, const std::string& seeding, int max_iter, double tol,
         bool spherical, uint64_t seed, uintptr_t centroids, uintptr_t labels, uintptr_t inertia,
         uintptr_t n_iter, int threads) {
        const std::vector<pydream::KmeansProblem> problems = pydream::kmeans_problems(
            {pointer<const void>(x), pydream::parse_float_type(type, "x"), offsets.back(), dim},
            offsets, k, pointer<float>(centroids), pointer<int64_t>(labels),
            pointer<double>(inertia), pointer<int64_t>(n_iter));
        const pydream::Seeding from = pydream::parse_seeding(seeding);
        if (from == pydream::Seeding::given) {
          pydream::check_finite(pointer<const float>(centroids),
                                std::accumulate(k.begin(), k.end(), int64_t{0}), dim, "init");
        }
        pydream::kmeans_cpu(problems, {from, max_iter, tol, spherical, seed}, threads);
      },
      release_gil());
  m.def(
      "random_samples_cpu",
      [](int64_t count, int64_t k, uint64_t seed, uintptr_t chosen) {
        pydream::random_samples(count, k, seed, pointer<int64_t>(chosen));
      },
      release_gil());
  m.def(
      "nearest_samples_cpu",
      [](uintptr_t x, const std::string& type, int64_t dim, const std::vector<int64_t>& offsets,
         const std::vector<int64_t>& k, uintptr_t centroids, int64_t count, uintptr_t nearest,
         int threads) {
        const std::vector<pydream::NearestProblem> problems = pydream::nearest_problems(
            {pointer<const void>(x), pydream::parse_float_type(type, "x"), offsets.back(), dim},
            offsets, k, pointer<const float>(centroids), count, pointer<int64_t>(nearest));
        pydream::check_finite(pointer<const float>(centroids),
                              std::accumulate(k.begin(), k.end(), int64_t{0}), dim, "centroids");
        pydream::nearest_samples_cpu(problems, count, threads);
      },
      release_gil());

  // matching
  m.def(
      "gradient_distance_cpu",
      [](const std::vector<uintptr_t>& synthetic, const std::vector<uintptr_t>& real,
         const std::vector<uintptr_t>& gradients, const std::vector<std::string>& types,
         const std::vector<int64_t>& rows, const std::vector<int64_t>& columns,
         const std::string& metric, int threads) {
        const pydream::LayerList list(synthetic, real, gradients, types, rows, columns);
        return pydream::gradient_distance_cpu(list.layers, pydream::parse_metric(metric), threads);
      },
      release_gil());

  // augment
  m.def(
      "random_augment_cpu",
      [](bool color, bool cutout, const std::vector<int>& spatial, int64_t height, int64_t width,
         int64_t count, uint64_t seed, uintptr_t rows) {
        pydream::AugmentStrategy strategy{color, cutout, {}, height, width};
        for (const int each : spatial) {
          strategy.spatial.push_back(static_cast<pydream::Spatial>(each));
        }
        pydream::random_augment_cpu(strategy, count, seed, pointer<float>(rows));
      },
      release_gil());
  m.def(
      "diff_augment_cpu",
      [](uintptr_t from, uintptr_t parameters, uintptr_t to, const std::string& type,
         const std::vector<int64_t>& shape, int64_t together, bool adjoint, int threads) {
        pydream::diff_augment_cpu(
            pydream::augment_task(from, parameters, to, type, shape, together), adjoint, threads);
      },
      release_gil());

  // block
  m.def(
      "norm_relu_pool_cpu",
      [](uintptr_t images, const std::vector<int64_t>& shape, bool over_batch, double eps,
         const std::vector<uintptr_t>& norm, uintptr_t pooled, int threads) {
        pydream::block_forward_cpu(pydream::block_shape(shape, over_batch),
                                   pointer<const float>(images), eps, block_norm(norm),
                                   pointer<float>(pooled), threads);
      },
      release_gil());
  m.def(
      "norm_relu_pool_backward_cpu",
      [](uintptr_t images, const std::vector<int64_t>& shape, bool over_batch,
         const std::vector<uintptr_t>& norm, uintptr_t pooled_slope,
         const std::vector<uintptr_t>& results, int threads) {
        pydream::block_backward_cpu(
            pydream::block_shape(shape, over_batch), pointer<const float>(images), block_norm(norm),
            pointer<const float>(pooled_slope), pointer<float>(results.at(0)),
            pointer<float>(results.at(1)), pointer<float>(results.at(2)), threads);
      },
      release_gil());
  m.def(
      "norm_relu_pool_second_backward_cpu",
      [](uintptr_t images, const std::vector<int64_t>& shape, bool over_batch,
         const std::vector<uintptr_t>& norm, uintptr_t pooled_slope,
         const std::vector<uintptr_t>& second, const std::vector<uintptr_t>& results, int threads) {
        pydream::block_second_backward_cpu(
            pydream::block_shape(shape, over_batch), pointer<const float>(images), block_norm(norm),
            pointer<const float>(pooled_slope),
            {pointer<const float>(second.at(0)), pointer<const float>(second.at(1)),
             pointer<const float>(second.at(2))},
            pointer<float>(results.at(0)), pointer<float>(results.at(1)),
            pointer<float>(results.at(2)), threads);
      },
      release_gil());

  // collage
  m.def(
      "collage_cpu",
      [](uintptr_t patches, int64_t classes, int64_t images, int64_t factor, int64_t channels,
         int64_t height, int64_t width, int64_t size, int64_t element, uintptr_t result,
         int threads) {
        pydream::collage({classes, images, factor, channels, height, width, size}, element,
                         pointer<const void>(patches), pointer<void>(result), threads);
      },
      release_gil());

  // formation
  m.def(
      "multi_formation_cpu",
      [](uintptr_t images, const std::string& type, const std::vector<int64_t>& shape,
         int64_t factor, int64_t size, float padding, uintptr_t result, int threads) {
        pydream::multi_formation_cpu(pydream::formation(type, shape, factor, size), padding,
                                     pointer<const void>(images), pointer<void>(result), threads);
      },
      release_gil());
  m.def(
      "multi_formation_backward_cpu",
      [](uintptr_t gradient, const std::string& type, const std::vector<int64_t>& shape,
         int64_t factor, int64_t size, uintptr_t images, int threads) {
        pydream::multi_formation_backward_cpu(pydream::formation(type, shape, factor, size),
                                              pointer<const void>(gradient), pointer<void>(images),
                                              threads);
      },
      release_gil());
}
