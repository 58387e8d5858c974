// Realism scores and key patches on a CUDA device, as bindings_cuda.cpp calls them.
#pragma once

#include "common/faults.h"
#include "common/stream.h"
#include "score/score.h"

namespace pydream {

// Scores of M crops of N images, and which crop of each image is best.
struct CropScores {
  float* score;   // [N, M], NaN where a row of logits has none; or null
  float* best;    // [N], or null; -inf where no crop has a score
  int64_t* crop;  // [N]
};

// Scores of logits [N * M, K] with labels [N]: score [N, M], or best [N] and crop [N], the others
// being of no data. Bad labels and rows without a score are reported.
void realism_scores_cuda(const View& logits, const View& labels, const View& score,
                         const View& best, const View& crop, const Launch& where);

// The best crop of each image, best [N] and crop [N], by scores [N, M]; NaN is reported.
void best_crops_cuda(const View& scores, const View& best, const View& crop, const Launch& where);

// The best images of every class by best, crop and labels [N]: scratch of int64, image, out_crop
// and score [C, n]. Labels out of range are reported.
void top_images_cuda(const View& best, const View& crop, const View& labels, const View& scratch,
                     const View& image, const View& out_crop, const View& score,
                     const Launch& where);

}  // namespace pydream
