#include "common/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#ifdef PYDREAM_X86
#include <cpuid.h>
#endif

namespace pydream {
namespace {

#ifdef PYDREAM_X86
// Asks the processor itself, because Clang 16's __builtin_cpu_supports does not know these names:
// conversion between float16 and float32, and products of bfloat16. __builtin_cpu_supports of AVX2
// and AVX-512 already covers whether the system saves the registers.
bool converts_float16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}
#endif

bool supported(Isa isa) {
#ifdef PYDREAM_X86
  __builtin_cpu_init();
  switch (isa) {
    case Isa::plain:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_float16();
    case Isa::avx512:
      return supported(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return isa == Isa::plain;
#endif
}

Isa parse(const std::string& name) {
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    if (name == isa_name(isa) && supported(isa)) return isa;
  }
  std::string known;
  for (const std::string& each : available_isas()) known += (known.empty() ? "" : ", ") + each;
  throw std::invalid_argument("instruction set '" + name +
                              "' is not available here; one of: " + known);
}

Isa initial() {
  if (const char* name = std::getenv("PYDREAM_ISA")) return parse(name);
  for (Isa isa : {Isa::avx512, Isa::avx2}) {
    if (supported(isa)) return isa;
  }
  return Isa::plain;
}

// Chosen at the first use. No lock guards the choice, because another thread might hold it at the
// time of a fork.
constexpr int kNone = -1;
std::atomic<int> current{kNone};

}  // namespace

std::string isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    default:
      return "plain";
  }
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    if (supported(isa)) names.push_back(isa_name(isa));
  }
  return names;
}

Isa active_isa() {
  int isa = current.load(std::memory_order_relaxed);
  if (isa == kNone) {
    const int first = static_cast<int>(initial());
    if (current.compare_exchange_strong(isa, first)) isa = first;
  }
  return static_cast<Isa>(isa);
}

void set_isa(const std::string& name) { current.store(static_cast<int>(parse(name))); }

bool native_bfloat16() {
#ifdef PYDREAM_X86
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return supported(Isa::avx512) && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) &&
         (eax & bit_AVX512BF16) != 0;
#else
  return false;
#endif
}

}  // namespace pydream
