// Vectors of kLanes floats for the kernel of crop_resize: loads from bytes, a transpose in
// registers, and stores with a cast.
#pragma once

#include "common/simd.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

constexpr int kLanes = static_cast<int>(kWidth);

typedef uint16_t Shorts __attribute__((vector_size(kLanes * 2)));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

// GCC 12 takes a vector of bytes apart to widen it (four times slower overall). So the instructions
// are named, and bytes are interleaved with zeros if there are no such instructions.
inline Floats load_bytes(const uint8_t* address) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(address));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(address));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
#else
  typedef uint8_t Bytes16 __attribute__((vector_size(16)));
  typedef uint16_t Shorts8 __attribute__((vector_size(16)));
  const Bytes16 bytes = (Bytes16)Ints{load_as<int32_t>(address)};
  const Shorts8 shorts = (Shorts8)__builtin_shufflevector(bytes, Bytes16{}, 0, 16, 1, 17, 2, 18, 3,
                                                          19, 4, 20, 5, 21, 6, 22, 7, 23);
  const Ints ints = (Ints)__builtin_shufflevector(shorts, Shorts8{}, 0, 8, 1, 9, 2, 10, 3, 11);
  return __builtin_convertvector(ints, Floats);
#endif
}

template <int... I>
struct Indices {};
template <int N, int... I>
struct IndicesTo : IndicesTo<N - 1, N - 1, I...> {};
template <int... I>
struct IndicesTo<0, I...> {
  using type = Indices<I...>;
};

template <class Pattern, int... I>
inline Floats shuffle(Floats a, Floats b, Indices<I...>) {
  return __builtin_shufflevector(a, b, Pattern::at(I)...);
}

template <class Pattern>
inline Floats shuffle(Floats a, Floats b) {
  return shuffle<Pattern>(a, b, typename IndicesTo<kLanes>::type());
}

// Within each quarter of 128 bits, interleaves the first (or last) two elements of a and b.
template <int Last>
struct Zip {
  static constexpr int at(int i) { return (i % 2) * kLanes + i / 4 * 4 + i % 4 / 2 + Last * 2; }
};

// Within each quarter, the first (or last) pair of a, then that of b.
template <int Last>
struct Pair {
  static constexpr int at(int i) { return i % 4 / 2 * kLanes + i / 4 * 4 + i % 2 + Last * 2; }
};

// The even (or odd) quarters of a, then those of b.
template <int Odd>
struct Quarters {
  static constexpr int at(int i) {
    return i / (kLanes / 2) * kLanes + (i % (kLanes / 2) / 4 * 2 + Odd) * 4 + i % 4;
  }
};

// rows[i][j] becomes rows[j][i]; kLanes / 4 * 16 single shuffles with 16 lanes and 8.
inline __attribute__((always_inline)) void transpose(Floats (&rows)[kLanes]) {
  constexpr int kGroups = kLanes / 4;
  Floats quarters[kGroups][4];
#pragma GCC unroll 4
  for (int group = 0; group < kGroups; ++group) {
    const Floats* four = rows + group * 4;
    const Floats low01 = shuffle<Zip<0>>(four[0], four[1]);
    const Floats high01 = shuffle<Zip<1>>(four[0], four[1]);
    const Floats low23 = shuffle<Zip<0>>(four[2], four[3]);
    const Floats high23 = shuffle<Zip<1>>(four[2], four[3]);
    quarters[group][0] = shuffle<Pair<0>>(low01, low23);
    quarters[group][1] = shuffle<Pair<1>>(low01, low23);
    quarters[group][2] = shuffle<Pair<0>>(high01, high23);
    quarters[group][3] = shuffle<Pair<1>>(high01, high23);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    if constexpr (kGroups == 1) {
      rows[k] = quarters[0][k];
    } else if constexpr (kGroups == 2) {
      rows[k] = shuffle<Quarters<0>>(quarters[0][k], quarters[1][k]);
      rows[k + 4] = shuffle<Quarters<1>>(quarters[0][k], quarters[1][k]);
    } else {
      const Floats even01 = shuffle<Quarters<0>>(quarters[0][k], quarters[1][k]);
      const Floats odd01 = shuffle<Quarters<1>>(quarters[0][k], quarters[1][k]);
      const Floats even23 = shuffle<Quarters<0>>(quarters[2][k], quarters[3][k]);
      const Floats odd23 = shuffle<Quarters<1>>(quarters[2][k], quarters[3][k]);
      rows[k] = shuffle<Quarters<0>>(even01, even23);
      rows[k + 4] = shuffle<Quarters<0>>(odd01, odd23);
      rows[k + 8] = shuffle<Quarters<1>>(even01, even23);
      rows[k + 12] = shuffle<Quarters<1>>(odd01, odd23);
    }
  }
}

template <class Vector>
inline Vector choose(Ints mask, Vector yes, Vector no) {
  return (Vector)(((Words)mask & (Words)yes) | (~(Words)mask & (Words)no));
}

// The pixel types: kLanes values, cast to nearest, ties to even, and stored.
struct AsFloat32 {
  using Value = float;
  static void put(void* out, Floats values) { store(out, values); }
};

struct AsBFloat16 {
  using Value = uint16_t;
  static void put(void* out, Floats values) {
    const Words bits = (Words)values;
    store(out, __builtin_convertvector((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, Shorts));
  }
};

struct AsFloat16 {
  using Value = uint16_t;
  static void put(void* out, Floats values) {
    const Words sign = ((Words)values >> 16) & 0x8000;
    const Words size = (Words)values & 0x7FFFFFFF;
    // From 2^-14 on: the exponent's bias changes from 127 to 15, and 13 bits are rounded away.
    const Words normal = (size - (112u << 23) + 0x0FFF + ((size >> 13) & 1)) >> 13;
    // Below, float16 has steps of 2^-24, which is float32's step at 0.5.
    const Words small = (Words)((Floats)size + 0.5f) - 0x3F000000;
    const Words finite = choose((Ints)(size < 0x38800000), small, normal);
    const Words infinite = Words{} + 0x7C00;
    const Words bits = choose((Ints)(size >= 0x47800000), infinite, finite);
    store(out, __builtin_convertvector(bits | sign, Shorts));
  }
};

// For bytes, ties round up, as in PyTorch and Pillow.
struct AsUint8 {
  using Value = uint8_t;
  static void put(void* out, Floats values) {
    const Ints whole = __builtin_convertvector(values + 0.5f, Ints);
    const Ints least = choose((Ints)(whole < 0), Ints{}, whole);
    const Ints clamped = choose((Ints)(least > 255), Ints{} + 255, least);
    store(out, __builtin_convertvector((Words)clamped, Bytes));
  }
};

}  // namespace
}  // namespace PYDREAM_ISA
}  // namespace pydream
