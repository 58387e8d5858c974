// Tensors that cross the border from Python: an address, an element type, a shape and strides.
// Nothing here depends on torch.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace pydream {

enum class Dtype { float32, float16, bfloat16, uint8, int32, int64, float64, boolean };

// Element types by torch's names, in the order of pydream/ops/_view.py.
constexpr const char* kDtypeNames[] = {"float32", "float16", "bfloat16", "uint8",
                                       "int32",   "int64",   "float64",  "bool"};

inline int64_t bytes_of(Dtype dtype) {
  constexpr int64_t kBytes[] = {4, 2, 2, 1, 4, 8, 8, 1};
  return kBytes[static_cast<int>(dtype)];
}

// Thrown for memory whose address no kernel may read elements at; Python copies the tensor and
// calls again.
struct MisalignedError : std::invalid_argument {
  MisalignedError()
      : std::invalid_argument("a tensor's address is no multiple of its elements' size") {}
};

inline void check_aligned(uintptr_t address, Dtype dtype) {
  if (address % static_cast<uintptr_t>(bytes_of(dtype)) != 0) throw MisalignedError();
}

constexpr int kMostRank = 5;

// A tensor that Python keeps alive during the call. Python also checks dtype and shape
// (pydream/ops).
struct View {
  void* data;  // null for None in Python
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
