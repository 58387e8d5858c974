// Random boxes and keys on the CPU.
//
// Shapes: N ids, num_crops boxes each. Limit: arithmetic, about 95 ns per box and 10 ns per key on
// one core (ten Philox rounds, an exponential and two square roots per try; one try nearly always
// suffices).
#include <limits>
#include <stdexcept>
#include <string>

#include "common/parallel.h"
#include "draws/box.h"
#include "draws/draws.h"

namespace pydream {
namespace {

constexpr int64_t kGrain = 1024;

void check_sizes(const int64_t* sizes, int64_t count) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 1;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t height = sizes[2 * row];
    const int64_t width = sizes[2 * row + 1];
    if (height < 1 || width < 1 || height > kMost || width > kMost) {
      throw std::invalid_argument("sizes[" + std::to_string(row) + "] = (" +
                                  std::to_string(height) + ", " + std::to_string(width) +
                                  ") is not the height and width of an image");
    }
  }
}

}  // namespace

void random_crop_boxes_cpu(const View& sizes_view, const View& ids_view,
                           std::pair<double, double> scale, std::pair<double, double> ratio,
                           uint64_t seed, const View& boxes, int threads) {
  const int64_t count = boxes.shape[0], num_crops = boxes.shape[1];
  const int64_t* sizes = sizes_view.as<const int64_t>();  // [N, 2]
  const int64_t* ids = ids_view.as<const int64_t>();      // [N]
  int32_t* out = boxes.as<int32_t>();                     // [N, M, 4]
  const BoxRange range = {scale.first, scale.second, ratio.first, ratio.second};
  check_sizes(sizes, count);
  parallel_for(count * num_crops, kGrain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t row = at / num_crops;
      const Box box = random_box(seed, ids[row], static_cast<uint32_t>(at % num_crops),
                                 sizes[2 * row], sizes[2 * row + 1], range);
      out[4 * at] = static_cast<int32_t>(box.top);
      out[4 * at + 1] = static_cast<int32_t>(box.left);
      out[4 * at + 2] = static_cast<int32_t>(box.height);
      out[4 * at + 3] = static_cast<int32_t>(box.width);
    }
  });
}

void random_keys_cpu(const View& ids_view, uint64_t seed, uint32_t draw, const View& keys,
                     int threads) {
  const int64_t* ids = ids_view.as<const int64_t>();  // [N]
  int64_t* out = keys.as<int64_t>();                  // [N]
  parallel_for(ids_view.shape[0], kGrain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const uint64_t id = static_cast<uint64_t>(ids[row]);
      const Philox4 random =
          philox4x32(seed, static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32), draw,
                     static_cast<uint32_t>(Stream::permutation) << 16);
      const uint64_t bits = (static_cast<uint64_t>(random.word[0]) << 32) | random.word[1];
      out[row] = static_cast<int64_t>(bits >> 1);
    }
  });
}

}  // namespace pydream
