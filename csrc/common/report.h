// Reporting of faults by kernels.
#pragma once

#include "common/faults.h"
#include "common/launch.h"

namespace pydream {

__device__ inline void report(Faults faults, Fault kind, int64_t place) {
  unsigned long long* slot = faults + 2 * static_cast<int>(kind);
  atomicMin(slot + 1, static_cast<unsigned long long>(place));
  __threadfence_system();  // the host may read at any time, and must find the place with the count
  atomicAdd(slot, 1ULL);
}

}  // namespace pydream
