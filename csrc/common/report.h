// For kernels: how they report a fault.
#pragma once

#include "common/faults.h"
#include "common/launch.h"

namespace pydream {

__device__ inline void report(Faults faults, Fault kind, int64_t place) {
  unsigned long long* slot = faults + 2 * static_cast<int>(kind);
  atomicMin(slot + 1, static_cast<unsigned long long>(place));
  __threadfence_system();  // the host may look at any time, and finds no count without a place
  atomicAdd(slot, 1ULL);
}

}  // namespace pydream
