// Values that a kernel finds wrong. A kernel can neither throw nor make its caller wait, so it
// counts them in memory that the host reads later (pydream/ops/_dispatch.py), and goes on with
// what harms nobody.
#pragma once

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

// [kFaultKinds, 2]: how many, and the lowest place; a place of all ones is none. Page-locked
// host memory, which is fast where nothing is written.
using Faults = unsigned long long*;

}  // namespace pydream
