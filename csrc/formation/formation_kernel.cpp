// Bilinear upsampling of cells, and its adjoint, compiled once per instruction set.
//
// Shapes: planes [S, S] of the result, cells [h, w] in planes [H, W] of the images.
// Presumes: some rows of S values fit the first-level cache. Limit: bandwidth, the result once and
// the images once.
//
// Both work row by row, and treat the two directions separately. Forward, every row of a cell is
// stretched once, and two neighbours are blended for each row of the result. Backward, the rows of
// the result to which a row of a cell contributes are summed, and the sum is shrunk.
#include <type_traits>

#include "common/simd.h"
#include "formation/formation.h"

namespace pydream {
namespace PYDREAM_ISA {
namespace {

// Nearby elements of a row are selected from one or two registers instead of one by one: the
// backward pass of 100 images of 32 x 32 takes at most half the time. Plain x86 has no such
// shuffle, and Clang offers none with variable indices for its vector types, so the instructions
// are named.
#ifdef __AVX2__
inline Ints places_from(const int32_t* places, int32_t first) { return load(places) - first; }

#ifdef __AVX512F__
inline Floats pick(Floats values, Ints places) {
  return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(places), values);
}

inline Floats pick(Floats values, Floats next, Ints places) {
  return _mm512_permutex2var_ps(values, reinterpret_cast<__m512i>(places), next);
}
#else
inline Floats pick(Floats values, Ints places) {
  return _mm256_permutevar8x32_ps(values, reinterpret_cast<__m256i>(places));
}

inline Floats pick(Floats values, Floats next, Ints places) {
  return places < static_cast<int32_t>(kWidth) ? pick(values, places) : pick(next, places);
}
#endif
#endif

// from [columns.from], followed by kWidth values that may be read.
void stretch(const Stretch& columns, const float* from, float* __restrict to) {
  int64_t x = 0;
#ifdef __AVX2__
  for (; x + kWidth <= columns.to; x += kWidth) {
    const int32_t first = columns.low[x];
    if (columns.high[x + kWidth - 1] - first >= kWidth) break;
    const Floats values = load(from + first);
    const Floats low = pick(values, places_from(columns.low + x, first));
    const Floats high = pick(values, places_from(columns.high + x, first));
    store(to + x, low + load(columns.weight + x) * (high - low));
  }
#endif
  for (; x < columns.to; ++x) {
    const float low = from[columns.low[x]];
    to[x] = low + columns.weight[x] * (from[columns.high[x]] - low);
  }
}

// Writes a row of a cell to wide [w], with padding where it is outside of the image.
template <class T>
void take_row(const Inside& cell, int64_t row, int64_t width, float padding, const T* images,
              float* wide) {
  const int64_t inside = row < cell.rows ? cell.columns : 0;
  widen(images + cell.offset + row * cell.stride, inside, wide);
  for (int64_t x = inside; x < width; ++x) wide[x] = padding;
}

template <class T>
void upsample_typed(const Stretch& rows, const Stretch& columns, const Inside& cell, float padding,
                    const T* images, T* result, float* scratch) {
  float* stretched[2] = {scratch, scratch + columns.to};  // even rows and odd ones
  float* wide = scratch + 2 * columns.to;
  int64_t held[2] = {-1, -1};
  const auto line = [&](int64_t row) -> const float* {
    const int64_t place = row % 2;
    if (held[place] != row) {
      take_row(cell, row, columns.from, padding, images, wide);
      stretch(columns, wide, stretched[place]);
      held[place] = row;
    }
    return stretched[place];
  };
  for (int64_t y = 0; y < rows.to; ++y) {
    const float* low = line(rows.low[y]);
    const float* high = line(rows.high[y]);
    const float weight = rows.weight[y];
    T* __restrict out = result + y * columns.to;
    for (int64_t x = 0; x < columns.to; ++x) {
      from_float(low[x] + weight * (high[x] - low[x]), out + x);
    }
  }
}

// line = sum over some rows [S] of weight * row; the weights are `step` apart.
void add_rows(const float* from, const float* weight, int64_t step, int64_t count, int64_t width,
              float* line) {
  int64_t x = 0;
  for (; x + kWidth <= width; x += kWidth) {
    Floats sum = {};
    for (int64_t t = 0; t < count; ++t) sum += load(from + t * width + x) * weight[t * step];
    store(line + x, sum);
  }
  for (; x < width; ++x) {
    float sum = 0.0f;
    for (int64_t t = 0; t < count; ++t) sum += from[t * width + x] * weight[t * step];
    line[x] = sum;
  }
}

// The adjoint of stretch, for the first `count` columns; 2 * kWidth values past the end of line [S
// + most] may be read.
void shrink(const Readers& columns, const float* line, int64_t count, float* __restrict to) {
  int64_t x = 0;
#ifdef __AVX2__
  for (; x + kWidth <= count; x += kWidth) {
    const int32_t first = columns.first[x];
    if (columns.first[x + kWidth - 1] - first >= 2 * kWidth) break;
    const Ints places = places_from(columns.first + x, first);
    Floats sum = {};
    for (int64_t t = 0; t < columns.most; ++t) {
      const float* from = line + first + t;
      sum += load(columns.weight + t * columns.from + x) *
             pick(load(from), load(from + kWidth), places);
    }
    store(to + x, sum);
  }
#endif
  for (int64_t rest = x; rest < count; ++rest) to[rest] = 0.0f;
  for (int64_t t = 0; t < columns.most; ++t) {
    const float* weight = columns.weight + t * columns.from;
    for (int64_t rest = x; rest < count; ++rest) {
      to[rest] += weight[rest] * line[columns.first[rest] + t];
    }
  }
}

template <class T>
void gather_typed(const Readers& rows, const Readers& columns, const Inside& cell,
                  const T* gradient, T* images, float* scratch) {
  const float* plane = scratch;
  float* line = scratch + rows.to * columns.to;  // [S + most + kSlack]
  float* sums = line + columns.to + columns.most + kSlack;
  if constexpr (std::is_same_v<T, float>) {
    plane = gradient;
  } else {
    widen(gradient, rows.to * columns.to, scratch);
  }
  // Past the last column, weights are 0.
  for (int64_t t = 0; t < columns.most; ++t) line[columns.to + t] = 0.0f;
  for (int64_t q = 0; q < cell.rows; ++q) {
    const int64_t left = rows.to - rows.first[q];
    add_rows(plane + rows.first[q] * columns.to, rows.weight + q, rows.from,
             left < rows.most ? left : rows.most, columns.to, line);
    shrink(columns, line, cell.columns, sums);
    narrow(sums, cell.columns, images + cell.offset + q * cell.stride);
  }
}

// Calls work with a value of the dtype's type.
template <class Work>
void by_type(Dtype type, const Work& work) {
  switch (type) {
    case Dtype::float16:
      return work(Half{});
    case Dtype::bfloat16:
      return work(BFloat16{});
    default:
      return work(0.0f);
  }
}

void upsample(const Stretch& rows, const Stretch& columns, const Inside& cell, Dtype type,
              float padding, const void* images, int64_t result_offset, void* result,
              float* scratch) {
  by_type(type, [&](auto value) {
    using T = decltype(value);
    upsample_typed(rows, columns, cell, padding, static_cast<const T*>(images),
                   static_cast<T*>(result) + result_offset, scratch);
  });
}

void gather(const Readers& rows, const Readers& columns, const Inside& cell, Dtype type,
            const void* gradient, int64_t gradient_offset, void* images, float* scratch) {
  by_type(type, [&](auto value) {
    using T = decltype(value);
    gather_typed(rows, columns, cell, static_cast<const T*>(gradient) + gradient_offset,
                 static_cast<T*>(images), scratch);
  });
}

}  // namespace

extern const FormationKernels formation_kernels_table;
const FormationKernels formation_kernels_table = {upsample, gather};

}  // namespace PYDREAM_ISA
}  // namespace pydream
