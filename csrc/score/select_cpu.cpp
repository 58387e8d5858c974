// The second stage of key_patches: from scores [N, M] the best crop of every image, then the best
// images of every class. Limit: one read of the scores; only the images chosen are sorted, by
// packed 64-bit keys.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "common/half.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "score/score.h"

namespace pydream {
namespace {

// A key that sorts in ascending order as: higher score first, then lower image. Contains both.
uint64_t pack(float score, int64_t image) {
  const uint32_t bits = float_bits(score + 0.0f);  // -0 ties with 0
  const uint32_t upwards = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~upwards) << 32 | static_cast<uint64_t>(image);
}

int64_t unpack_image(uint64_t key) { return static_cast<int64_t>(key & 0xFFFFFFFFu); }

struct Best {
  std::vector<float> score;   // [N], -inf where an image has no crop
  std::vector<int64_t> crop;  // [N]
};

Best best_crops(const float* scores, int64_t stride, int64_t images, int64_t crops, int threads) {
  Best best{std::vector<float>(images), std::vector<int64_t>(images)};
  std::atomic<bool> complete{true};
  const int64_t grain = std::max<int64_t>(65536 / std::max<int64_t>(crops, 1), 1);
  parallel_for(images, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = scores + i * stride;
      float score = -kInfinity;
      int64_t crop = 0;
      for (int64_t m = 0; m < crops; ++m) {
        if (std::isnan(row[m])) complete = false;
        if (row[m] > score) {
          score = row[m];
          crop = m;
        }
      }
      best.score[i] = score;
      best.crop[i] = crop;
    }
  });
  if (!complete) throw_nan_rows(scores, images, crops, stride, "scores hold NaN");
  return best;
}

// scores [N, M], rows `stride` apart; labels [N].
void select(const float* scores, int64_t stride, int64_t images, int64_t crops,
            const int64_t* labels, const KeyPatches& result, int threads) {
  const int64_t classes = result.classes, per_class = result.per_class;
  check_labels(labels, images, classes);
  if (images > int64_t{0xFFFFFFFF}) {
    throw std::invalid_argument("scores may have at most 2^32 - 1 rows, got " +
                                std::to_string(images));
  }
  const Best best = best_crops(scores, stride, images, crops, threads);

  // A counting sort by class: the keys of class c are in start[c] .. end[c].
  std::vector<int64_t> start(classes + 1, 0);
  for (int64_t i = 0; i < images; ++i) {
    if (best.score[i] > -kInfinity) ++start[labels[i] + 1];
  }
  for (int64_t c = 0; c < classes; ++c) start[c + 1] += start[c];
  std::vector<int64_t> end(start.begin(), start.end() - 1);
  std::vector<uint64_t> keys(start[classes]);
  for (int64_t i = 0; i < images; ++i) {
    if (best.score[i] > -kInfinity) keys[end[labels[i]]++] = pack(best.score[i], i);
  }

  // Pieces of some 8192 images: sorting fewer costs less than waking a thread.
  const int64_t grain = std::max<int64_t>(8192 * classes / std::max<int64_t>(images, 1), 1);
  parallel_for(classes, grain, threads, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const auto from = keys.begin() + start[c];
      const auto to = keys.begin() + end[c];
      const auto chosen = from + std::min<int64_t>(per_class, to - from);
      if (chosen != to) std::nth_element(from, chosen, to);
      std::sort(from, chosen);
      for (int64_t rank = 0; rank < per_class; ++rank) {
        const int64_t at = c * per_class + rank;
        const bool there = rank < chosen - from;
        const int64_t image = there ? unpack_image(from[rank]) : -1;
        result.image[at] = image;
        result.crop[at] = there ? best.crop[image] : -1;
        result.score[at] = there ? best.score[image] : -kInfinity;
      }
    }
  });
}

}  // namespace

void select_key_patches_cpu(const View& scores, const View& labels, const View& image,
                            const View& crop, const View& score, int threads) {
  select(scores.as<const float>(), scores.stride[0], scores.shape[0], scores.shape[1],
         labels.as<const int64_t>(), key_patches_of(image, crop, score), threads);
}

void key_patches_cpu(const View& logits, const View& labels, int64_t crops, const View& image,
                     const View& crop, const View& score, int threads) {
  const Logits given = logits_of(logits);
  const KeyPatches result = key_patches_of(image, crop, score);
  const int64_t images = labels.shape[0];
  const int64_t* label = labels.as<const int64_t>();
  check_labels(label, images, std::min(given.classes, result.classes));
  const std::unique_ptr<float[]> scores(new float[static_cast<size_t>(given.rows)]);
  score_logits(given, label, crops, scores.get(), threads);
  select(scores.get(), crops, images, crops, label, result, threads);
}

}  // namespace pydream
