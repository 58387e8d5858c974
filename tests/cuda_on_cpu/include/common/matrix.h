// Stands in for csrc/common/matrix.h: a warp's matrix products, by its lanes' words.
//
// PTX leaves the rounding open. Tensor cores add a few products at a time to the sum so far, all
// aligned to the largest of them, and cut off what lies below the bits that they keep (Fasi et al.,
// "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7, 2021). Here it is 4 words
// at a time, and 24 bits behind the leading one.
#pragma once

#include <cmath>
#include <cstdlib>

#include "common/launch.h"

namespace pydream {

inline uint32_t to_tf32(float value) {  // to the nearest, ties away from zero
  return (float_bits(value) + 0x1000u) & 0xFFFFE000u;
}

inline uint32_t pack_halves(float low, float high) {
  Half halves[2];
  narrow(low, &halves[0]);
  narrow(high, &halves[1]);
  return static_cast<uint32_t>(halves[1].bits) << 16 | halves[0].bits;
}

inline uint32_t split_halves(float* low, float* high) {
  const uint32_t bits = pack_halves(*low, *high);
  *low -= to_float(Half{static_cast<uint16_t>(bits)});
  *high -= to_float(Half{static_cast<uint16_t>(bits >> 16)});
  return bits;
}

namespace matrix_on_cpu {

struct Words {
  uint32_t a[4];
  uint32_t b[2];
};

// The values of a word of `kValues`.
template <class T, int kValues>
float value_of(uint32_t word, int which) {
  if constexpr (kValues == 1) {
    return bits_float(word & 0xFFFFE000u);  // tensor cores read no more of it
  } else {
    return to_float(T{static_cast<uint16_t>(word >> (16 * which))});
  }
}

// The sum of a few values, each cut off 24 bits below the leading bit of the largest; as a float
// cut off again.
template <size_t kParts>
float cut_off_sum(const double (&parts)[kParts]) {
  double largest = 0.0, plain = 0.0;
  for (const double part : parts) {
    largest = std::max(largest, std::fabs(part));
    plain += part;
  }
  if (largest == 0.0 || !std::isfinite(plain)) return static_cast<float>(plain);
  const double unit = std::ldexp(1.0, std::ilogb(largest) - 24);
  int64_t total = 0;
  for (const double part : parts) total += static_cast<int64_t>(part / unit);
  int64_t magnitude = std::abs(total), dropped = 0;
  while (magnitude >> dropped >= int64_t{1} << 24) ++dropped;
  magnitude = magnitude >> dropped << dropped;
  return static_cast<float>(static_cast<double>(total < 0 ? -magnitude : magnitude) * unit);
}

template <class T, int kValues>
void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Words mine;
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  static_assert(sizeof(Words) <= cuda_on_cpu::kGift);
  cuda_on_cpu::give(&mine, sizeof mine);
  const auto words = [](unsigned lane) {
    return static_cast<const Words*>(cuda_on_cpu::given(lane));
  };
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const unsigned row = g + (i / 2) * 8, column = 2 * t + i % 2;
    for (unsigned half = 0; half < 2; ++half) {
      double parts[4 * kValues + 1] = {sum[i]};
      for (unsigned word = 0; word < 4; ++word) {
        const uint32_t left = words(row % 8 * 4 + word)->a[row / 8 + half * 2];
        const uint32_t right = words(column * 4 + word)->b[half];
        for (int which = 0; which < kValues; ++which) {
          parts[word * kValues + which + 1] =
              static_cast<double>(value_of<T, kValues>(left, which)) *
              static_cast<double>(value_of<T, kValues>(right, which));
        }
      }
      sum[i] = cut_off_sum(parts);
    }
  }
}

}  // namespace matrix_on_cpu

struct Tf32 {
  static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    matrix_on_cpu::multiply<float, 1>(sum, a, b);
  }
};

struct Fp16 {
  static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    matrix_on_cpu::multiply<Half, 2>(sum, a, b);
  }
};

struct Bf16 {
  static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    matrix_on_cpu::multiply<BFloat16, 2>(sum, a, b);
  }
};

inline void load_tiles(uint32_t (&words)[4], const uint32_t* row) {
  if (!cuda_on_cpu::is_shared(row)) {
    throw std::runtime_error("a row of a matrix is not in shared memory");
  }
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    throw std::runtime_error("a row of a matrix in shared memory is not aligned to 16 bytes");
  }
  cuda_on_cpu::give(&row, sizeof row);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned tile = 0; tile < 4; ++tile) {
    const uint32_t* from;
    std::memcpy(&from, cuda_on_cpu::given(tile * 8 + lane / 4), sizeof from);
    words[tile] = from[lane % 4];
  }
}

inline void copy_async(void* shared, const void* global) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16 != 0) {
    throw std::runtime_error("an asynchronous copy of 16 bytes is not aligned to them");
  }
  if (!cuda_on_cpu::is_shared(shared)) {
    throw std::runtime_error("an asynchronous copy does not go to shared memory");
  }
  cuda_on_cpu::copy_later(shared, global);
}

inline void commit_copies() { cuda_on_cpu::close_copies(); }

template <int kLeft>
void await_copies() {
  cuda_on_cpu::await_copies(kLeft);
}

}  // namespace pydream
