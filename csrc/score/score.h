// Realism scores and key patches; see pydream/ops/score.py for the contract.
#pragma once

#include <cstdint>
#include <string>

#include "common/view.h"

namespace pydream {

// Rows of logits, `stride` elements apart, with contiguous columns.
struct Logits {
  const void* data;  // [R, K]
  Dtype type;
  int64_t rows;
  int64_t classes;
  int64_t stride;
};

inline Logits logits_of(const View& logits) {
  return {logits.data, logits.dtype, logits.shape[0], logits.shape[1], logits.stride[0]};
}

// Output of the selection; -1, -1 and -inf where a class has too few images.
struct KeyPatches {
  int64_t classes;    // C
  int64_t per_class;  // n
  int64_t* image;     // [C, n]
  int64_t* crop;      // [C, n]
  float* score;       // [C, n]
};

inline KeyPatches key_patches_of(const View& image, const View& crop, const View& score) {
  return {image.shape[0], image.shape[1], image.as<int64_t>(), crop.as<int64_t>(),
          score.as<float>()};
}

// scores [R] = log p(labels [R]) of each row of logits [R, K].
// Throws std::invalid_argument for a label out of range and for rows without a score.
void realism_scores_cpu(const View& logits, const View& labels, const View& scores, int threads);

// The best crop of every image by scores [N, M], then the best images of every class by labels [N]:
// image, crop and score [C, n]. Throws std::invalid_argument for a label out of range and for NaN
// among the scores.
void select_key_patches_cpu(const View& scores, const View& labels, const View& image,
                            const View& crop, const View& score, int threads);

// Both in one: logits [N * M, K], labels [N], M = crops; image, crop and score [C, n].
void key_patches_cpu(const View& logits, const View& labels, int64_t crops, const View& image,
                     const View& crop, const View& score, int threads);

// scores[r] = log p(labels[r / rows_per_label] | row r). Throws for rows without a score.
void score_logits(const Logits& logits, const int64_t* labels, int64_t rows_per_label,
                  float* scores, int threads);

// One per instruction set, from score_kernel.cpp: the scores of rows [begin, end).
struct ScoreKernels {
  void (*score_rows)(const Logits& logits, const int64_t* labels, int64_t rows_per_label,
                     int64_t begin, int64_t end, float* scores);
};

// Throws std::invalid_argument unless all labels are in 0 .. classes - 1.
void check_labels(const int64_t* labels, int64_t count, int64_t classes);

// Throws std::invalid_argument naming the first rows of [rows, columns] that contain NaN.
[[noreturn]] void throw_nan_rows(const float* values, int64_t rows, int64_t columns, int64_t stride,
                                 const std::string& what);

}  // namespace pydream
