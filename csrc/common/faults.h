// Values that a kernel finds wrong. A kernel can neither throw nor make its caller wait, so it
// counts them in memory that the host reads later (pydream/ops/_dispatch.py), and goes on with
// what harms nobody.
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

// Faults are [kFaultKinds, 2]: how many, and the lowest place; a place of all ones is none. They
// lie in page-locked host memory, which is fast where nothing is written.

// Whether a kernel has counted anything; waits for nothing. It costs a tenth of a microsecond,
// and every op asks.
inline bool any_fault(const unsigned long long* faults) {
  for (int kind = 0; kind < kFaultKinds; ++kind) {
    // Written by a device at any time.
    if (*static_cast<const volatile unsigned long long*>(faults + 2 * kind) != 0) return true;
  }
  return false;
}

// Moves what was counted to `taken`, page-locked and laid out alike, and clears it. The
// device does it, in its stream: kernels of other streams may count meanwhile, and a store of the
// host could undo what they add. Nothing that is counted is lost; a place may be told with an
// earlier count of its kind, whose own count then comes without a place.
void take_faults_cuda(Faults taken, const Launch& where);

}  // namespace pydream
