// How the host divides images among blocks, and launches the kernels for CUDA.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "block/block_device.h"

namespace pydream {

// Of a block: three share a multiprocessor of an H100, two one of an A100.
constexpr size_t kMostKept = 72 * 1024;

// Whether channels can be read four at a time.
inline bool all_aligned(const BlockShape& shape, std::initializer_list<const void*> pointers) {
  bool aligned = shape.channels % kQuad == 0;
  for (const void* pointer : pointers) {
    aligned = aligned && reinterpret_cast<uintptr_t>(pointer) % sizeof(Quad) == 0;
  }
  return aligned;
}

inline bool all_aligned(const BlockShape& shape, const BlockNorm& norm) {
  return norm.weight.stride % kQuad == 0 && norm.bias.stride % kQuad == 0 &&
         all_aligned(shape, {norm.weight.values, norm.bias.values, norm.mean, norm.rstd});
}

// How images are divided. The kernels' template parameters: kWide, if channels are read four at a
// time; kKeep, if a block keeps its part of an image.
struct BlockPlan {
  BlockTask task;
  dim3 grid;
  dim3 block;
  bool wide;

  BlockPlan(const BlockShape& shape, const float* images, const BlockNorm& norm, bool aligned)
      : task{}, wide(aligned && all_aligned(shape, norm)) {
    // Two cells a thread share the cost of what a thread does once.
    constexpr int64_t kMostAcross = 32, kMostDown = 128, kSlots = 2;
    const int64_t columns = (shape.width + 1) / 2, cells = columns * ((shape.height + 1) / 2);
    const int64_t quads = (shape.channels + kQuad - 1) / kQuad;
    int64_t down = 1, across = 1;
    while (down < std::min(cells / kSlots, kMostDown)) down *= 2;
    while (across < std::min({quads, kMostAcross, kThreads / down})) across *= 2;
    down = std::max(down, 32 / across);  // whole warps
    const int64_t slabs = (quads + across - 1) / across;
    task.images = images;
    task.norm = norm;
    task.per_part = static_cast<unsigned>(shape.per_part());
    task.slabs = static_cast<unsigned>(slabs);
    task.height = static_cast<int>(shape.height);
    task.width = static_cast<int>(shape.width);
    task.channels = static_cast<int>(shape.channels);
    task.columns = static_cast<int>(columns);
    task.cells = static_cast<int>(cells);
    task.step_rows = static_cast<int>(down / columns);
    task.step_columns = static_cast<int>(down % columns);
    task.over_batch = shape.over_batch;
    grid = dim3(static_cast<unsigned>(shape.images * slabs));
    block = dim3(static_cast<unsigned>(across), static_cast<unsigned>(down));
  }

  // Shared memory of a kernel, as BlockMemory divides it.
  template <int kSums, int kTerms>
  size_t reduced() const {
    return (kSums * (block.x * block.y / 32) + kTerms) * block.x * sizeof(Quad);
  }
  template <int kKept>
  size_t kept() const {
    return (task.cells + block.y - 1) / block.y * kKept * block.x * block.y * sizeof(Quad);
  }

  // Calls run(std::bool_constant<kWide>, std::bool_constant<kKeep>, shared memory).
  template <int kSums, int kTerms, int kKept, bool kMayKeep, class Run>
  void choose(const Run& run) const {
    const auto with = [&](auto keep, size_t more) {
      const size_t shared = reduced<kSums, kTerms>() + more;
      wide ? run(std::true_type{}, keep, shared) : run(std::false_type{}, keep, shared);
    };
    if constexpr (kMayKeep) {
      if (kept<kKept>() <= kMostKept) return with(std::true_type{}, kept<kKept>());
    }
    with(std::false_type{}, 0);
  }
};

// Launches a kernel that calls column_sums<kSums> for rows of [groups, C].
template <int kSums, class... Parameters, class... Arguments>
void launch_columns(void (*kernel)(Parameters...), int64_t groups, int64_t channels,
                    cudaStream_t stream, Arguments... arguments) {
  const dim3 grid(static_cast<unsigned>(groups),
                  static_cast<unsigned>((channels + kColumns - 1) / kColumns));
  launch(kernel, grid, dim3(kColumns, kColumns), kSums * kColumns * kColumns * sizeof(double),
         stream, arguments...);
}

}  // namespace pydream
