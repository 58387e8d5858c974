// Philox 4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3" (SC 2011): four random words from (key, counter), without state. CPU and CUDA share
// this definition; pydream/ops/reference/philox.py has it in PyTorch, and the tests compare both
// with the authors' known answers.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace pydream {

struct Philox4 {
  uint32_t word[4];
};

PYDREAM_HOST_DEVICE inline Philox4 philox4x32(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2,
                                              uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Purpose of a stream of random numbers: the last word of its counter holds the purpose in the high
// half, so streams of one seed never meet.
enum class Stream : uint32_t {
  crop_box = 1,     // random_crop_boxes
  permutation = 2,  // random_keys: orders drawn without replacement
  augment = 3,      // random_augment
  kmeans = 4,       // initial centres
};

// [0, 1) in float64, from the 32 bits of a word.
PYDREAM_HOST_DEVICE inline double unit_interval(uint32_t word) { return word * 0x1p-32; }

// [0, n) for n up to 2^31, from the high half of a product; its bias is below n / 2^32.
PYDREAM_HOST_DEVICE inline int64_t below(uint32_t word, int64_t n) {
  return static_cast<int64_t>((static_cast<uint64_t>(word) * static_cast<uint64_t>(n)) >> 32);
}

}  // namespace pydream
