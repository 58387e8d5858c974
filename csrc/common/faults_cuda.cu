#include "common/faults.h"
#include "common/launch.h"

namespace pydream {
namespace {

constexpr unsigned long long kNoPlace = ~0ULL;

// One thread for each kind of fault. Limit: the latency of the host's memory, three accesses.
__global__ void take_kernel(Faults faults /* [kFaultKinds, 2] */,
                            Faults taken /* [kFaultKinds, 2] */) {
  const int kind = static_cast<int>(threadIdx.x);
  // The count first: report() writes a place before it counts it, so what is counted has its place.
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
