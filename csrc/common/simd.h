// Vectors as wide as the registers of the instruction set, for the *_kernel.cpp files, which are
// compiled once per set. GCC and Clang map them to the instructions of the set. Everything is in an
// unnamed namespace, so that the linker never substitutes code compiled for another processor.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/half.h"
#include "common/host_device.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace pydream {
namespace PYDREAM_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kWidth = 16;
#elif defined(__AVX2__)
constexpr int64_t kWidth = 8;
#else
constexpr int64_t kWidth = 4;
#endif

typedef float Floats __attribute__((vector_size(kWidth * 4)));
typedef int32_t Ints __attribute__((vector_size(kWidth * 4)));
typedef uint32_t Words __attribute__((vector_size(kWidth * 4)));

// Subtracting zero changes no number, so compilers emit a single broadcast.
inline Floats splat(float value) { return value - Floats{}; }

inline Floats as_floats(Words bits) { return reinterpret_cast<Floats>(bits); }
inline Words as_words(Floats values) { return reinterpret_cast<Words>(values); }

// A vector or a number, from or to any address.
template <class Value>
inline Value load_as(const void* from) {
  Value value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class Value>
inline void store(void* to, Value value) {
  std::memcpy(to, &value, sizeof value);
}

// 16-bit values are widened to float32.
#if defined(__AVX512F__)
typedef __m256i Narrow;
// The masks here and below are full: GCC 12 mistakes the unset operand of the unmasked forms for an
// uninitialised variable.
inline Floats widen(Narrow bits, const BFloat16*) {
  return as_floats(reinterpret_cast<Words>(_mm512_maskz_cvtepu16_epi32(0xFFFF, bits)) << 16);
}
inline Floats widen(Narrow bits, const Half*) { return _mm512_maskz_cvtph_ps(0xFFFF, bits); }
#elif defined(__AVX2__)
typedef __m128i Narrow;
inline Floats widen(Narrow bits, const BFloat16*) {
  return as_floats(reinterpret_cast<Words>(_mm256_cvtepu16_epi32(bits)) << 16);
}
inline Floats widen(Narrow bits, const Half*) { return _mm256_cvtph_ps(bits); }
#else
typedef uint16_t Narrow __attribute__((vector_size(kWidth * 2)));
inline Floats widen(Narrow bits, const BFloat16*) {
  return as_floats(__builtin_convertvector(bits, Words) << 16);
}
// to_float(Half) for vectors: comparisons give words of all ones.
inline Floats widen(Narrow bits, const Half*) {
  const Words half = __builtin_convertvector(bits, Words);
  const Words magnitude = (half & 0x7FFFu) << 13;
  const Words special = reinterpret_cast<Words>(magnitude >= 0x0F800000u);
  const Words subnormal = reinterpret_cast<Words>(magnitude < 0x00800000u);
  const Words rebias = magnitude + (112u << 23);
  const Words small = as_words(as_floats(rebias + (1u << 23)) - splat(0x1p-14f));
  const Words magnitudes = (subnormal & small) | (~subnormal & (rebias + (special & (112u << 23))));
  return as_floats(magnitudes | ((half & 0x8000u) << 16));
}
#endif

inline Floats load(const float* from) { return load_as<Floats>(from); }
inline Ints load(const int32_t* from) { return load_as<Ints>(from); }
inline Floats load(const Half* from) { return widen(load_as<Narrow>(from), from); }
inline Floats load(const BFloat16* from) { return widen(load_as<Narrow>(from), from); }

// The first `count` elements of a vector, followed by -inf.
#if defined(__AVX512F__)
inline Floats load_partial(const float* from, int64_t count) {
  const __m512 filler = splat(-kInfinity);
  return _mm512_mask_loadu_ps(filler, static_cast<__mmask16>((1u << count) - 1), from);
}
template <class T>
inline Floats load_partial(const T* from, int64_t count) {
  T least;
  from_float(-kInfinity, &least);
  const __m256i filler = _mm256_set1_epi16(static_cast<int16_t>(least.bits));
  return widen(_mm256_mask_loadu_epi16(filler, static_cast<__mmask16>((1u << count) - 1), from),
               from);
}
#else
template <class T>
inline Floats load_partial(const T* from, int64_t count) {
  T padded[kWidth];
  for (int64_t i = 0; i < kWidth; ++i) {
    if (i < count) {
      padded[i] = from[i];
    } else {
      from_float(-kInfinity, padded + i);
    }
  }
  return load(padded);
}
#endif

// a * b + c. Explicit, because standard C++ does not let the compiler fuse the two.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// In float32, halving the vector at each step.
inline float sum_lanes(Floats v) {
  float lane[kWidth];
  store(lane, v);
  for (int64_t half = kWidth / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// In float64, lane by lane.
inline double sum_lanes_in_double(Floats v) {
  double sum = 0.0;
  for (int64_t i = 0; i < kWidth; ++i) sum += static_cast<double>(v[i]);
  return sum;
}

// Rows of values widened to float32, and narrowed back.
template <class T>
inline void widen(const T* from, int64_t count, float* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

template <class T>
inline void narrow(const float* __restrict from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) from_float(from[i], to + i);
}

}  // namespace
}  // namespace PYDREAM_ISA
}  // namespace pydream
