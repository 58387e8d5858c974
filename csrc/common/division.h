// Division of many numbers by one, as a product and a shift: three instructions of a GPU instead of
// some twenty, or of a hundred for 64 bits (by nvcc's output).
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace pydream {

// A divisor from 1 to 2^31 - 1, for numbers below 2^31 (Granlund and Montgomery, "Division by
// invariant integers using multiplication", PLDI 1994, section 4).
struct Division {
  uint32_t divisor;
  uint32_t multiplier;  // floor(2^(31 + shift) / divisor) + 1
  uint32_t shift;       // log2 of the divisor, rounded up

  PYDREAM_HOST_DEVICE uint32_t quotient(uint32_t number) const {
    return static_cast<uint32_t>(static_cast<uint64_t>(multiplier) * (2 * number) >> 32) >> shift;
  }
};

inline Division division_by(int64_t divisor) {
  uint32_t shift = 0;
  while (int64_t{1} << shift < divisor) ++shift;
  const uint64_t multiplier = (uint64_t{1} << (31 + shift)) / static_cast<uint64_t>(divisor) + 1;
  return {static_cast<uint32_t>(divisor), static_cast<uint32_t>(multiplier), shift};
}

}  // namespace pydream
