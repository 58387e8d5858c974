// Which compiled variant of the vector kernels this processor runs.
#pragma once

#include <string>
#include <vector>

namespace pydream {

enum class Isa { plain, avx2, avx512 };

// The best variant the processor has, or what PYDREAM_ISA or set_isa named.
Isa active_isa();

// Variants that were compiled in and that this processor can run, slowest first.
std::vector<std::string> available_isas();

std::string isa_name(Isa isa);

// Throws std::invalid_argument for a name that is not in available_isas().
void set_isa(const std::string& name);

// Whether the processor multiplies bfloat16 itself; without that it is slower than float32.
bool native_bfloat16();

}  // namespace pydream

// Declares a table of kernels that a *_kernel.cpp defines once for each instruction set, and a
// function of that name that returns the one of active_isa(). To stand in namespace pydream.
#ifdef PYDREAM_X86
#define PYDREAM_KERNELS(Table, name) \
  namespace plain {                  \
  extern const Table name##_table;   \
  }                                  \
  namespace avx2 {                   \
  extern const Table name##_table;   \
  }                                  \
  namespace avx512 {                 \
  extern const Table name##_table;   \
  }                                  \
  inline const Table& name() {       \
    switch (active_isa()) {          \
      case Isa::avx512:              \
        return avx512::name##_table; \
      case Isa::avx2:                \
        return avx2::name##_table;   \
      default:                       \
        return plain::name##_table;  \
    }                                \
  }
#else
#define PYDREAM_KERNELS(Table, name) \
  namespace plain {                  \
  extern const Table name##_table;   \
  }                                  \
  inline const Table& name() { return plain::name##_table; }
#endif
