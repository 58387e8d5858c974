// The vector kernel of crop_resize, compiled once per instruction set.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "crop/crop.h"

namespace pydream {

enum class PixelType { float32, float16, bfloat16, uint8 };

inline PixelType parse_pixel_type(const std::string& name) {
  if (name == "float32") return PixelType::float32;
  if (name == "float16") return PixelType::float16;
  if (name == "bfloat16") return PixelType::bfloat16;
  if (name == "uint8") return PixelType::uint8;
  throw std::invalid_argument("dtype must be float32, float16, bfloat16 or uint8, got " + name);
}

struct CropResize {
  const Image* images;         // [N]
  const Box* boxes;            // [P]
  const int64_t* image_index;  // [P], or null: patch p comes from image p / patches_per_image
  const bool* flip;            // [P], or null
  int64_t num_images;
  int64_t num_patches;
  int64_t patches_per_image;
  int64_t channels;  // 1 to 4
  int64_t height, width;
  int64_t canvas_height, canvas_width;
  float scale[4];  // an output value is scale[c] * (the byte's scale, 0 to 255) + shift[c]
  float shift[4];
  PixelType dtype;
  bool channels_last;
  void* out;  // [P, C, canvas_height, canvas_width], or [P, canvas_height, canvas_width, C]

  int64_t image_of(int64_t patch) const {
    return image_index != nullptr ? image_index[patch] : patch / patches_per_image;
  }
};

// Memory of the calling thread, aligned to 64 bytes, good until its next call; zeroed when fresh.
float* thread_scratch(int64_t floats);

// Makes patches [begin, end). Boxes and indices must have been checked.
namespace plain {
void crop_resize(const CropResize& task, int64_t begin, int64_t end);
}
namespace avx2 {
void crop_resize(const CropResize& task, int64_t begin, int64_t end);
}
namespace avx512 {
void crop_resize(const CropResize& task, int64_t begin, int64_t end);
}

}  // namespace pydream
