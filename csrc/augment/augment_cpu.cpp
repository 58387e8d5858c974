#include <algorithm>
#include <vector>

#include "augment/augment.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace pydream {

PYDREAM_KERNELS(AugmentKernels, augment_kernels)

namespace {

// Values of the images that a thread processes at a time.
constexpr int64_t kTogether = 65536;

}  // namespace

void diff_augment_cpu(const View& x, const View& parameters, const View& result, bool adjoint,
                      int threads) {
  const Augment task = augment_task(x, parameters, result);
  const auto one = adjoint ? augment_kernels().adjoint : augment_kernels().forward;
  const int64_t values = std::max<int64_t>(task.channels * task.height * task.width, 1);
  const int64_t grain = std::max<int64_t>(kTogether / values, 1);
  parallel_for(task.images, grain, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(augment_scratch(task)));
    for (int64_t image = begin; image < end; ++image) one(task, image, scratch.data());
  });
}

}  // namespace pydream
