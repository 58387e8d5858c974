// Draws of the parameters for diff_augment, on the CPU.
//
// Shapes: rows [count, 13]. Limit: arithmetic, two Philox blocks per row; some 50 ns.
#include <cmath>

#include "common/philox.h"
#include "draws/draws.h"

namespace pydream {
namespace {

// DSA's ranges: share of a side that a crop shifts by, largest scale of a side, largest angle of a
// rotation, share of a side that a cutout covers.
constexpr double kCropShare = 0.125;
constexpr double kScale = 1.2;
constexpr double kDegrees = 15.0;
constexpr double kCutoutShare = 0.5;
constexpr double kRadian = 0.017453292519943295;

struct AugmentStrategy {
  bool color;
  bool cutout;
  std::vector<Spatial> spatial;  // one of these for each row
  int64_t height;
  int64_t width;
};

int64_t share_of(int64_t side, double share) {
  return static_cast<int64_t>(static_cast<double>(side) * share + 0.5);
}

// In double; the finished row is rounded to float.
struct Map {
  double a = 1.0, b = 0.0, tx = 0.0;
  double c = 0.0, d = 1.0, ty = 0.0;
};

double shift(uint32_t word, int64_t side) {
  const int64_t most = share_of(side, kCropShare);
  return static_cast<double>(below(word, 2 * most + 1) - most);
}

double factor(uint32_t word) {
  return 1.0 / kScale + (kScale - 1.0 / kScale) * unit_interval(word);
}

// The map that keeps the centre of the image fixed.
Map about_centre(double a, double b, double c, double d, const AugmentStrategy& strategy) {
  const double x = 0.5 * static_cast<double>(strategy.width - 1);
  const double y = 0.5 * static_cast<double>(strategy.height - 1);
  return {a, b, x - a * x - b * y, c, d, y - c * x - d * y};
}

Map draw_map(const AugmentStrategy& strategy, uint32_t choice, uint32_t first, uint32_t second) {
  if (strategy.spatial.empty()) return {};
  const int64_t kinds = static_cast<int64_t>(strategy.spatial.size());
  switch (strategy.spatial[static_cast<size_t>(below(choice, kinds))]) {
    case Spatial::crop:
      return {1.0, 0.0, shift(first, strategy.width), 0.0, 1.0, shift(second, strategy.height)};
    case Spatial::flip:
      if (below(first, 2) == 0) return {};
      return {-1.0, 0.0, static_cast<double>(strategy.width - 1), 0.0, 1.0, 0.0};
    case Spatial::scale:
      return about_centre(factor(first), 0.0, 0.0, factor(second), strategy);
    case Spatial::rotate: {
      const double angle = kDegrees * kRadian * (2.0 * unit_interval(first) - 1.0);
      return about_centre(std::cos(angle), -std::sin(angle), std::sin(angle), std::cos(angle),
                          strategy);
    }
  }
  return {};
}

// First pixel of a cutout. Its centre may be one pixel outside an image of even side.
double cutout_begin(uint32_t word, int64_t side, int64_t extent) {
  return static_cast<double>(below(word, side + 1 - extent % 2) - extent / 2);
}

void draw_row(const AugmentStrategy& strategy, uint64_t seed, uint64_t number, float* row) {
  const auto random = [&](uint32_t block) {
    return philox4x32(seed, static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32),
                      block, static_cast<uint32_t>(Stream::augment) << 16);
  };
  const Philox4 colour = random(0), place = random(1);
  double value[kAugmentColumns] = {0.0, 1.0, 1.0};
  if (strategy.color) {
    value[0] = unit_interval(colour.word[0]) - 0.5;
    value[1] = 2.0 * unit_interval(colour.word[1]);
    value[2] = unit_interval(colour.word[2]) + 0.5;
  }
  const Map map = draw_map(strategy, colour.word[3], place.word[0], place.word[1]);
  const double entries[] = {map.a, map.b, map.tx, map.c, map.d, map.ty};
  for (int i = 0; i < 6; ++i) value[3 + i] = entries[i];
  if (strategy.cutout) {
    const int64_t height = share_of(strategy.height, kCutoutShare);
    const int64_t width = share_of(strategy.width, kCutoutShare);
    value[9] = cutout_begin(place.word[2], strategy.height, height);
    value[10] = cutout_begin(place.word[3], strategy.width, width);
    value[11] = static_cast<double>(height);
    value[12] = static_cast<double>(width);
  }
  for (int i = 0; i < kAugmentColumns; ++i) row[i] = static_cast<float>(value[i]);
}

}  // namespace

void random_augment_cpu(bool color, bool cutout, const std::vector<int>& spatial,
                        std::pair<int64_t, int64_t> size, uint64_t seed, const View& rows) {
  AugmentStrategy strategy{color, cutout, {}, size.first, size.second};
  for (const int kind : spatial) strategy.spatial.push_back(static_cast<Spatial>(kind));
  for (int64_t number = 0; number < rows.shape[0]; ++number) {
    draw_row(strategy, seed, static_cast<uint64_t>(number),
             rows.as<float>() + number * kAugmentColumns);
  }
}

}  // namespace pydream
