#include <algorithm>
#include <vector>

#include "augment/augment.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace pydream {

#define PYDREAM_DECLARE(isa)                 \
  namespace isa {                            \
  extern const AugmentKernels augment_table; \
  }
PYDREAM_DECLARE(plain)
#ifdef PYDREAM_X86
PYDREAM_DECLARE(avx2)
PYDREAM_DECLARE(avx512)
#endif
#undef PYDREAM_DECLARE

namespace {

// Values of the images that a thread takes at a time.
constexpr int64_t kTogether = 65536;

const AugmentKernels& kernels() {
  switch (active_isa()) {
#ifdef PYDREAM_X86
    case Isa::avx512:
      return avx512::augment_table;
    case Isa::avx2:
      return avx2::augment_table;
#endif
    default:
      return plain::augment_table;
  }
}

}  // namespace

void diff_augment_cpu(const Augment& task, bool adjoint, int threads) {
  const auto one = adjoint ? kernels().adjoint : kernels().forward;
  const int64_t values = std::max<int64_t>(task.channels * task.height * task.width, 1);
  const int64_t grain = std::max<int64_t>(kTogether / values, 1);
  parallel_for(task.images, grain, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(augment_scratch(task)));
    for (int64_t image = begin; image < end; ++image) one(task, image, scratch.data());
  });
}

}  // namespace pydream
