#include "crop/crop_cpu.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "common/isa.h"
#include "common/parallel.h"

namespace pydream {
namespace {

constexpr size_t kAlignment = 64;

struct AlignedDelete {
  void operator()(float* memory) const { ::operator delete(memory, std::align_val_t{kAlignment}); }
};

struct Scratch {
  std::unique_ptr<float, AlignedDelete> memory;
  int64_t size = 0;
};

std::string numbers(const Box& box) {
  return "(" + std::to_string(box.top) + ", " + std::to_string(box.left) + ", " +
         std::to_string(box.height) + ", " + std::to_string(box.width) + ")";
}

void check(const CropResize& task) {
  for (int64_t patch = 0; patch < task.num_patches; ++patch) {
    const int64_t index = task.image_of(patch);
    if (index < 0 || index >= task.num_images) {
      throw std::invalid_argument("image_index[" + std::to_string(patch) +
                                  "] = " + std::to_string(index) + " is out of range for " +
                                  std::to_string(task.num_images) + " images");
    }
    const Box& box = task.boxes[patch];
    const Image& image = task.images[index];
    const char* fault = nullptr;
    if (box.height < 1 || box.width < 1)
      fault = " is empty (top, left, height, width); ";
    else if (!inside(box, image))
      fault = " (top, left, height, width) is not inside its image; ";
    if (fault != nullptr) {
      throw std::invalid_argument("boxes[" + std::to_string(patch) + "] = " + numbers(box) + fault +
                                  "image " + std::to_string(index) + " is " +
                                  std::to_string(image.height) + " high and " +
                                  std::to_string(image.width) + " wide");
    }
  }
}

}  // namespace

float* thread_scratch(int64_t floats) {
  thread_local Scratch scratch;
  if (scratch.size < floats) {
    scratch.memory.reset();
    scratch.size = 0;
    const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
    scratch.memory.reset(static_cast<float*>(::operator new(bytes, std::align_val_t{kAlignment})));
    std::memset(scratch.memory.get(), 0, bytes);
    scratch.size = floats;
  }
  return scratch.memory.get();
}

void crop_resize_cpu(const CropResize& task, int threads) {
  check(task);
  auto* kernel = plain::crop_resize;
#ifdef PYDREAM_X86
  if (active_isa() == Isa::avx2) kernel = avx2::crop_resize;
  if (active_isa() == Isa::avx512) kernel = avx512::crop_resize;
#endif
  // Small patches go out by the dozen, few ones one by one.
  const int64_t grain = std::clamp<int64_t>(task.num_patches / (16 * threads), 1, 32);
  parallel_for(task.num_patches, grain, threads,
               [&](int64_t begin, int64_t end) { kernel(task, begin, end); });
}

}  // namespace pydream
