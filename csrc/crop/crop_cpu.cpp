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

}  // namespace

void check_crops(const CropResize& task) {
  for (int64_t patch = 0; patch < task.num_patches; ++patch) {
    const int64_t index = task.image_of(patch);
    if (index < 0 || index >= task.num_images) {
      throw std::invalid_argument("image_index[" + std::to_string(patch) +
                                  "] = " + std::to_string(index) + " is out of range for " +
                                  std::to_string(task.num_images) + " images");
    }
    const Box& box = task.boxes[patch];
    const Image image = task.image(index);
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

PictureTable::PictureTable(const std::vector<View>& images) {
  for (const View& image : images) {
    const int64_t* shape = image.shape + image.rank - 3;  // height, width, channels
    pictures_.push_back(
        {reinterpret_cast<int64_t>(image.data), shape[0], shape[1], image.stride[image.rank - 3]});
  }
  is_batch_ = !images.empty() && images[0].rank == 4;
  step_ = is_batch_ ? images[0].stride[0] : 0;
  count_ = is_batch_ ? images[0].shape[0] : static_cast<int64_t>(pictures_.size());
}

void PictureTable::give(CropResize* task) const {
  task->images = is_batch_ ? nullptr : pictures_.data();
  if (is_batch_) task->batch = pictures_[0];
  task->batch_step = step_;
}

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

void crop_resize_cpu(const std::vector<View>& images, const View& boxes, const View& image_index,
                     const View& flip, std::pair<int64_t, int64_t> size, const Scaling& scaling,
                     const View& out, int threads) {
  const PictureTable table(images);
  CropResize task = crop_task(table.count(), flip, size, scaling, out);
  table.give(&task);
  task.boxes = boxes.as<const Box>();
  task.image_index = image_index.as<const int64_t>();
  check_crops(task);
  const auto kernel = crop_kernels().crop_resize;
  // A thread takes small patches by the dozen, and few patches one by one.
  const int64_t grain = std::clamp<int64_t>(task.num_patches / (16 * threads), 1, 32);
  parallel_for(task.num_patches, grain, threads,
               [&](int64_t begin, int64_t end) { kernel(task, begin, end); });
}

}  // namespace pydream
