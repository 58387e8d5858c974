// float16 and bfloat16 as their 16 bits, converted to and from float32, rounding to
// nearest even. Nothing here relies on subnormal arithmetic, so the results stand when
// a caller has switched that off (torch.set_flush_denormal).
#pragma once

#include <cstdint>
#include <cstring>

#include "common/philox.h"

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
  uint32_t bits = magnitude + (112u << 23);  // the exponent's bias: 15 to 127
  if (magnitude >= 0x0F800000u) {            // infinity or NaN: to the largest exponent
    bits += 112u << 23;
  } else if (magnitude < 0x00800000u) {  // subnormal: as fraction of 2^-14, less that again
    bits = float_bits(bits_float(bits + (1u << 23)) - 0x1p-14f);
  }
  return bits_float(bits | sign);
}

PYDREAM_HOST_DEVICE inline BFloat16 to_bfloat16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {  // NaN: keep it one
    return {static_cast<uint16_t>((bits >> 16) | 0x0040u)};
  }
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

PYDREAM_HOST_DEVICE inline Half to_half(float value) {
  const uint32_t sign = (float_bits(value) >> 16) & 0x8000u;
  const uint32_t magnitude = float_bits(value) & 0x7FFFFFFFu;
  uint32_t bits;
  if (magnitude >= 0x47800000u) {  // 65536 or more, infinity, NaN
    bits = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 rounds at 2^-24
    bits = float_bits(bits_float(magnitude) + 0.5f) - 0x3F000000u;
  } else {
    bits = (magnitude - (112u << 23) + 0x0FFFu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(sign | bits)};
}

}  // namespace pydream
