// The compiled variant of the vector kernels that this processor runs.
#pragma once

#include <string>
#include <vector>

namespace pydream {

enum class Isa { plain, avx2, avx512 };

// The best variant of the processor, or the one that PYDREAM_ISA or set_isa named.
Isa active_isa();

// Compiled variants that this processor can run, slowest first.
std::vector<std::string> available_isas();

std::string isa_name(Isa isa);

// Throws std::invalid_argument for a name that is not in available_isas().
void set_isa(const std::string& name);

// Whether the processor multiplies bfloat16 natively; otherwise bfloat16 is slower than float32.
bool native_bfloat16();

}  // namespace pydream

// Declares a table of kernels, which a *_kernel.cpp defines once per instruction set, and a
// function of that name that returns the table of active_isa(). For use in namespace pydream.
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
