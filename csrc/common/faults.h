// Bad values that a kernel finds. A kernel can neither throw nor make its caller wait, so it counts
// them in memory that the host reads later (pydream/ops/_dispatch.py), and continues with a
// harmless value.
#pragma once

#include "common/stream.h"

namespace pydream {

enum class Fault : int {
  empty_box = 0,
  box_outside = 1,
  image_index = 2,
  label = 3,
  logits = 4,
  scores = 5,
  samples = 6,
  centroids = 7,
};
constexpr int kFaultKinds = 8;

// Faults are [kFaultKinds, 2]: number, and lowest place, in which all ones stand for none. They are
// in page-locked host memory, which costs nothing while no fault is written.

// Whether a kernel has counted a fault; does not wait. It costs a tenth of a microsecond, and every
// op calls it.
inline bool any_fault(const unsigned long long* faults) {
  for (int kind = 0; kind < kFaultKinds; ++kind) {
    // A device may write it at any time.
    if (*static_cast<const volatile unsigned long long*>(faults + 2 * kind) != 0) return true;
  }
  return false;
}

// Moves the counts to `taken`, page-locked memory of the same layout, and clears them. The device
// does it, in its stream: kernels of other streams may count at the same time, and a store by the
// host could undo their additions. No count is lost. A place may come with an earlier count of its
// kind; its own count then has no place.
void take_faults_cuda(Faults taken, const Launch& where);

}  // namespace pydream
