// The floating-point types that samples and logits come in.
#pragma once

#include <stdexcept>
#include <string>

namespace pydream {

enum class FloatType { float32, float16, bfloat16 };

// `what` is the argument that has this type.
inline FloatType parse_float_type(const std::string& name, const std::string& what) {
  if (name == "float32") return FloatType::float32;
  if (name == "float16") return FloatType::float16;
  if (name == "bfloat16") return FloatType::bfloat16;
  throw std::invalid_argument(what + " cannot be " + name);
}

}  // namespace pydream
