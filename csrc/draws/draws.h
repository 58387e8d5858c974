// Random boxes, keys and augmentation parameters, each a function of only the seed and an identity.
// The CPU draws them, so that every device gets the same. See pydream/ops/boxes.py and augment.py
// for the contract.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/view.h"

namespace pydream {

// Fills boxes [N, M, 4] (top, left, height, width; int32) for images of sizes [N, 2]
// (height, width; int64) with ids [N]. `scale` is the share of an image's area, `ratio` the width
// by the height, each as lowest and highest. Throws std::invalid_argument for an invalid size.
void random_crop_boxes_cpu(const View& sizes, const View& ids, std::pair<double, double> scale,
                           std::pair<double, double> ratio, uint64_t seed, const View& boxes,
                           int threads);

// Fills keys [N] with a number in [0, 2^63) for each of ids [N], both int64; `draw` selects one of
// many independent draws.
void random_keys_cpu(const View& ids, uint64_t seed, uint32_t draw, const View& keys, int threads);

// Columns of a row of parameters, as pydream/ops/reference/augment.py names them.
constexpr int kAugmentColumns = 13;

enum class Spatial : int { crop, flip, scale, rotate };

// Fills rows [M, 13], each a function of the seed and its number, for images of one `size`
// (height, width). Each row has one of the maps in `spatial`, numbers of the enum, if there are
// any.
void random_augment_cpu(bool color, bool cutout, const std::vector<int>& spatial,
                        std::pair<int64_t, int64_t> size, uint64_t seed, const View& rows);

}  // namespace pydream
