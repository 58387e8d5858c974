// Realism scores and key patches; see pydream/ops/score.py for the contract.
#pragma once

#include <cstdint>
#include <string>

#include "common/float_type.h"

namespace pydream {

// Rows of logits: columns lie side by side, rows `stride` elements apart.
struct Logits {
  const void* data;  // [R, K]
  FloatType type;
  int64_t rows;
  int64_t classes;
  int64_t stride;
};

// The selection's output; -1, -1 and -inf where a class has too few images.
struct KeyPatches {
  int64_t* image;  // [C, n]
  int64_t* crop;   // [C, n]
  float* score;    // [C, n]
};

// scores[r] = log p(labels[r / rows_per_label] | row r).
// Throws std::invalid_argument for a label out of range and for rows without a score.
void realism_scores(const Logits& logits, const int64_t* labels, int64_t rows_per_label,
                    float* scores, int threads);

// The best crop of every image, then the best images of every class.
// Throws std::invalid_argument for a label out of range and for NaN among the scores.
void select_key_patches(const float* scores /* [N, M] */, int64_t stride, int64_t images,
                        int64_t crops, const int64_t* labels /* [N] */, int64_t per_class,
                        int64_t classes, const KeyPatches& result, int threads);

// Throws std::invalid_argument unless all labels lie in 0 .. classes - 1.
void check_labels(const int64_t* labels, int64_t count, int64_t classes);

// Throws std::invalid_argument that names the first rows of [rows, columns] with a NaN.
[[noreturn]] void throw_nan_rows(const float* values, int64_t rows, int64_t columns, int64_t stride,
                                 const std::string& what);

}  // namespace pydream
