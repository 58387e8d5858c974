// Tensors as they cross the border from Python: an address, an element type, a shape, strides. So
// nothing here knows torch.
#pragma once

#include <cstdint>

namespace pydream {

enum class Dtype { float32, float16, bfloat16, uint8, int32, int64, float64, boolean };

// torch's names of the element types, in their order.
constexpr const char* kDtypeNames[] = {"float32", "float16", "bfloat16", "uint8",
                                       "int32",   "int64",   "float64",  "bool"};

inline int64_t bytes_of(Dtype dtype) {
  constexpr int64_t kBytes[] = {4, 2, 2, 1, 4, 8, 8, 1};
  return kBytes[static_cast<int>(dtype)];
}

constexpr int kMostRank = 5;

// A tensor that Python keeps alive during the call. What dtype and shape an argument must have is
// checked there (pydream/ops).
struct View {
  void* data;  // null where Python passed None
  Dtype dtype;
  int rank;
  int64_t shape[kMostRank];
  int64_t stride[kMostRank];  // in elements

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace pydream
