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

// The rows of logits are those of images x crops. Bad labels and rows without a score are reported.
void realism_scores_cuda(const Logits& logits, const int64_t* labels /* [N] */, int64_t images,
                         int64_t crops, const CropScores& result, Faults faults, int device,
                         CudaStream stream);

// The best crop of each image; NaN is reported.
void best_crops_cuda(const float* scores /* [N, M] */, int64_t stride, int64_t images,
                     int64_t crops, float* best /* [N] */, int64_t* crop /* [N] */, Faults faults,
                     int device, CudaStream stream);

// The best images of every class; labels out of range are reported.
void top_images_cuda(const float* best /* [N] */, const int64_t* crop /* [N] */,
                     const int64_t* labels /* [N] */, int64_t images, int64_t per_class,
                     int64_t classes, uint64_t* scratch /* [C, n] */, const KeyPatches& result,
                     Faults faults, int device, CudaStream stream);

}  // namespace pydream
