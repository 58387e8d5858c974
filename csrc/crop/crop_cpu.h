// Cropping on the CPU, as bindings.cpp calls it. Errors name the arguments of pydream.ops.
#pragma once

#include <cstdint>

#include "crop/crop_kernel.h"

namespace pydream {

// sizes [N, 2] height, width; ids [N]; out [N, num_crops, 4] top, left, height, width.
void random_crop_boxes_cpu(const int64_t* sizes, const int64_t* ids, int64_t count,
                           int64_t num_crops, const BoxRange& range, uint64_t seed, int32_t* out,
                           int threads);

// ids [N]; out [N], one number in [0, 2^63) for each id, `draw` choosing among independent ones.
void random_keys_cpu(const int64_t* ids, int64_t count, uint64_t seed, uint32_t draw, int64_t* out,
                     int threads);

// Throws std::invalid_argument for a box that is empty or not inside its image, and for an
// image index out of range, before anything is written.
void crop_resize_cpu(const CropResize& task, int threads);

}  // namespace pydream
