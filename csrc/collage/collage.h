// Where the pixels of a collage come from: what every device shares. See
// pydream/ops/collage.py for the contract.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/view.h"

namespace pydream {

// [C, n * f^2, ch, h, w] patches to [C, n, ch, S, S] images.
struct Collage {
  int64_t classes;
  int64_t images;  // n, of each class
  int64_t factor;
  int64_t channels;
  int64_t height;
  int64_t width;
  int64_t size;
};

inline Collage collage_of(const View& patches, int64_t factor, const View& images) {
  return {images.shape[0],  images.shape[1],  factor,         images.shape[2],
          patches.shape[3], patches.shape[4], images.shape[4]};
}

// First row (or column) of cell k along one side; cell k ends where k + 1 begins. The
// remainder of size / factor goes to the first cells, one pixel each.
PYDREAM_HOST_DEVICE inline int64_t cell_start(int64_t k, int64_t size, int64_t factor) {
  const int64_t remainder = size % factor;
  return k * (size / factor) + (k < remainder ? k : remainder);
}

// The source of pixel i when `from` pixels are resized to `to` by nearest neighbour:
// torch's rule, interpolate(mode="nearest"), in float32 as there.
PYDREAM_HOST_DEVICE inline int64_t nearest_source(int64_t i, int64_t from, int64_t to) {
  if (from == to) return i;
  if (to == 2 * from) return i / 2;
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  const int64_t source = static_cast<int64_t>(static_cast<float>(i) * scale);
  return source < from - 1 ? source : from - 1;
}

// Fills images [C, n, ch, S, S] from patches [C, n * f^2, ch, h, w], both contiguous, f = factor.
void collage_cpu(const View& patches, int64_t factor, const View& images, int threads);

}  // namespace pydream
