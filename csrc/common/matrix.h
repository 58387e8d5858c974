// Tensor cores and asynchronous copies: the few instructions that CUDA C++ does not express. The
// tests substitute a header of the same name (tests/cuda_on_cpu).
#pragma once

#include <cstdint>

#include "common/launch.h"

namespace pydream {

// float32 rounded to tf32, the 10 bits of fraction that tensor cores read.
__device__ inline uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits & 0xFFFFE000u;  // PTX leaves the low 13 bits undefined
}

// Two values rounded to float16, the first in the low half of the word.
__device__ inline uint32_t pack_halves(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// The same, and leaves what rounding has taken from each.
__device__ inline uint32_t split_halves(float* low, float* high) {
  const uint32_t bits = pack_halves(*low, *high);
  *low -= widen(Half{static_cast<uint16_t>(bits)});
  *high -= widen(Half{static_cast<uint16_t>(bits >> 16)});
  return bits;
}

// sum += a * b for a tile of 16 x 8, over 8 words of each row of a and each column of b, by a whole
// warp. With g = lane / 4 and t = lane % 4, a thread supplies the words (g, t), (g + 8, t),
// (g, t + 4), (g + 8, t + 4) of a as (row, word), and the words (t, g), (t + 4, g) of b as
// (word, column). It holds the sums at (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1). A
// word is one tf32 value, or two values of 16 bits.
struct Tf32 {
  __device__ static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

struct Fp16 {
  __device__ static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

struct Bf16 {
  __device__ static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

// Loads four tiles of 8 rows of 4 words from shared memory, by a whole warp. Lane l supplies the
// address of row l % 8 of tile l / 8, a multiple of 16 bytes; words[i] becomes word l % 4 of row
// l / 4 of tile i. So tiles are what `multiply` takes: of a, the rows 0 to 7 and 8 to 15 of words 0
// to 3, then those of words 4 to 7; of b, words 0 to 3 and 4 to 7 of its columns.
__device__ inline void load_tiles(uint32_t (&words)[4], const uint32_t* row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(from)
               : "memory");
}

// Starts a copy of 16 bytes to shared memory; both addresses must be multiples of 16.
__device__ inline void copy_async(void* shared, const void* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}

// Closes a group of this thread's copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the last `kLeft` groups of this thread are pending.
template <int kLeft>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

}  // namespace pydream
