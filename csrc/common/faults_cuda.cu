#include "common/faults.h"
#include "common/launch.h"

namespace pydream {
namespace {

constexpr unsigned long long kNoPlace = ~0ULL;

// One thread per kind of fault. Limit: three accesses to host memory, by their latency.
__global__ void take_kernel(Faults faults /* [kFaultKinds, 2] */,
                            Faults taken /* [kFaultKinds, 2] */) {
  const int kind = static_cast<int>(threadIdx.x);
  // Read the count first: report() writes a place before it counts, so every fault counted has one.
  const unsigned long long count = atomicExch(faults + 2 * kind, 0ULL);
  __threadfence_system();
  taken[2 * kind] = count;
  taken[2 * kind + 1] = count != 0 ? atomicExch(faults + 2 * kind + 1, kNoPlace) : kNoPlace;
}

}  // namespace

void take_faults_cuda(Faults taken, const Launch& where) {
  const DeviceGuard guard(where.device);
  launch(take_kernel, dim3(1), dim3(kFaultKinds), 0, where.stream, where.faults, taken);
}

}  // namespace pydream
