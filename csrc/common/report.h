// For kernels: how they report a fault.
#pragma once

#include "common/faults.h"
#include "common/launch.h"

namespace pydream {

__device__ inline void report(Faults faults, Fault kind, int64_t place) {
  unsigned long long* slot = faults + 2 * static_cast<int>(kind);
  atomicAdd(slot, 1ULL);
  atomicMin(slot + 1, static_cast<unsigned long long>(place));
}

}  // namespace pydream
