// Norm, ReLU and pool on a CUDA device, for bindings_cuda.cpp. The arguments are those of the
// functions of block.h; `workspace` is float32 [terms, N + groups, C], whose number of terms each
// function names.
#pragma once

#include "block/block.h"
#include "common/stream.h"

namespace pydream {

// Two terms.
void norm_relu_pool_cuda(const View& images, const View& weight, const View& bias, bool over_batch,
                         double eps, const View& pooled, const View& mean, const View& rstd,
                         const View& workspace, const Launch& where);

// Two terms.
void norm_relu_pool_backward_cuda(const std::vector<View>& kept, bool over_batch,
                                  const std::vector<View>& results, const View& workspace,
                                  const Launch& where);

// Five terms, kSecondSums.
void norm_relu_pool_second_backward_cuda(const std::vector<View>& kept,
                                         const std::vector<View>& second, bool over_batch,
                                         const std::vector<View>& results, const View& workspace,
                                         const Launch& where);

}  // namespace pydream
