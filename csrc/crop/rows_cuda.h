// Rows of a canvas, written 16 bytes at a time where its addresses allow, for crop_cuda.cu.
#pragma once

#include "common/launch.h"

namespace pydream {

constexpr int kPackBytes = 16;

// The number of values between the last multiple of 16 bytes and an address.
template <class Value>
__device__ int lead_of(const Value* to) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(to) % kPackBytes / sizeof(Value));
}

// Zeros, whatever the place.
template <class Value>
struct Zeros {
  __device__ uint4 pack(int64_t) const { return {0, 0, 0, 0}; }
  __device__ Value value(int64_t) const { return Value{}; }
};

// Values in shared memory, whose first one has as many values in its 16 bytes before it as the
// first one in the canvas.
template <class Value>
struct Staged {
  const Value* values;
  __device__ uint4 pack(int64_t at) const { return *reinterpret_cast<const uint4*>(values + at); }
  __device__ Value value(int64_t at) const { return values[at]; }
};

// Writes `count` values from `to` on, by one warp.
template <class Value, class Source>
__device__ void write_row(Value* to, int64_t count, const Source& source) {
  constexpr int kValues = kPackBytes / sizeof(Value);
  const int lead = lead_of(to);
  for (int64_t pack = threadIdx.x % 32; pack * kValues < lead + count; pack += 32) {
    const int64_t at = pack * kValues - lead;
    if (at >= 0 && at + kValues <= count) {
      *reinterpret_cast<uint4*>(to + at) = source.pack(at);
    } else {
#pragma unroll 1
      for (int64_t each = max(at, int64_t{0}); each < min(at + kValues, count); ++each) {
        to[each] = source.value(each);
      }
    }
  }
}

}  // namespace pydream
