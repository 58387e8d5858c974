// float16 and bfloat16 as their 16 bits, and their values in float32. Nothing here relies on
// subnormal arithmetic, so the results are right even if a caller has switched it off
// (torch.set_flush_denormal).
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace pydream {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

PYDREAM_HOST_DEVICE inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

PYDREAM_HOST_DEVICE inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

PYDREAM_HOST_DEVICE inline float to_float(float value) { return value; }

PYDREAM_HOST_DEVICE inline float to_float(BFloat16 value) {
  return bits_float(static_cast<uint32_t>(value.bits) << 16);
}

PYDREAM_HOST_DEVICE inline float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7FFFu) << 13;
  uint32_t bits = magnitude + (112u << 23);  // exponent bias: 15 to 127
  if (magnitude >= 0x0F800000u) {            // infinity or NaN: to the largest exponent
    bits += 112u << 23;
  } else if (magnitude < 0x00800000u) {  // subnormal: a fraction of 2^-14, less 2^-14
    bits = float_bits(bits_float(bits + (1u << 23)) - 0x1p-14f);
  }
  return bits_float(bits | sign);
}

// Rounded to the nearest, ties to even, as PyTorch casts.
PYDREAM_HOST_DEVICE inline void from_float(float value, float* to) { *to = value; }

PYDREAM_HOST_DEVICE inline void from_float(float value, BFloat16* to) {
  const uint32_t bits = float_bits(value);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(value != value ? 0x7FC0u : rounded);
}

PYDREAM_HOST_DEVICE inline void from_float(float value, Half* to) {
  const uint32_t bits = float_bits(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t shifted = magnitude - (112u << 23);  // exponent bias: 127 to 15
  const uint32_t normal = (shifted + 0xFFFu + (shifted >> 13 & 1u)) >> 13;
  // Below 2^-14: a multiple of 2^-24, rounded by an addition. Computed unconditionally, because a
  // sum within a branch keeps compilers from vectorising (four times slower).
  const uint32_t small = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
  uint32_t half = magnitude < 0x38800000u ? small : normal;
  if (magnitude >= 0x477FF000u) half = 0x7C00u;  // 65520 and more
  if (magnitude > 0x7F800000u) half = 0x7E00u;
  to->bits = static_cast<uint16_t>((bits >> 16 & 0x8000u) | half);
}

}  // namespace pydream
