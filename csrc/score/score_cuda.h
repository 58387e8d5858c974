// Realism scores and key patches on a CUDA device, for bindings_cuda.cpp.
#pragma once

#include "common/faults.h"
#include "common/stream.h"
#include "score/score.h"

namespace pydream {

// Scores of M crops of N images, and the best crop of each image.
struct CropScores {
  float* score;   // [N, M], NaN for a row of logits without a score; or null
  float* best;    // [N], or null; -inf if no crop has a score
  int64_t* crop;  // [N]
};

// Scores of logits [N * M, K] with labels [N]: score [N, M], or best [N] and crop [N]; the other
// outputs are empty. Reports bad labels and rows without a score.
void realism_scores_cuda(const View& logits, const View& labels, const View& score,
                         const View& best, const View& crop, const Launch& where);

// The best crop of each image, best [N] and crop [N], from scores [N, M]. Reports NaN.
void best_crops_cuda(const View& scores, const View& best, const View& crop, const Launch& where);

// Number of 32-bit words that top_images_cuda takes to group images by class; 0 if it does not.
int64_t grouping_words(int64_t images, int64_t classes);

// The best images of every class from best, crop and labels [N]: scratch of int64, image, out_crop
// and score [C, n]; the words of `grouping` must be 0 before. Reports labels out of range.
void top_images_cuda(const View& best, const View& crop, const View& labels, const View& scratch,
                     const View& grouping, const View& image, const View& out_crop,
                     const View& score, const Launch& where);

}  // namespace pydream
