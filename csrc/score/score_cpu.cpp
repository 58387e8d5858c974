#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <stdexcept>

#include "common/isa.h"
#include "common/parallel.h"
#include "score/score.h"

namespace pydream {

PYDREAM_KERNELS(ScoreKernels, score_kernels)

void check_labels(const int64_t* labels, int64_t count, int64_t classes) {
  for (int64_t i = 0; i < count; ++i) {
    if (labels[i] < 0 || labels[i] >= classes) {
      throw std::invalid_argument("labels must lie in 0.." + std::to_string(classes - 1) +
                                  ", got " + std::to_string(labels[i]) + " at row " +
                                  std::to_string(i));
    }
  }
}

void throw_nan_rows(const float* values, int64_t rows, int64_t columns, int64_t stride,
                    const std::string& what) {
  constexpr int64_t kShown = 5;
  int64_t count = 0;
  std::string first;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = values + r * stride;
    if (std::none_of(row, row + columns, [](float value) { return std::isnan(value); })) continue;
    if (count++ < kShown) first += (first.empty() ? "" : ", ") + std::to_string(r);
  }
  throw std::invalid_argument(what + " in " + std::to_string(count) +
                              (count == 1 ? " row: " : " rows: ") + first +
                              (count > kShown ? ", ..." : ""));
}

void score_logits(const Logits& logits, const int64_t* labels, int64_t rows_per_label,
                  float* scores, int threads) {
  if (logits.rows == 0) return;
  const auto score_rows = score_kernels().score_rows;
  std::atomic<bool> complete{true};
  // Pieces of about 10 us: long compared with the scheduling of a piece, short compared with the
  // whole.
  const int64_t grain = std::max<int64_t>(65536 / logits.classes, 1);
  parallel_for(logits.rows, grain, threads, [&](int64_t begin, int64_t end) {
    score_rows(logits, labels, rows_per_label, begin, end, scores);
    if (std::any_of(scores + begin, scores + end, [](float s) { return std::isnan(s); })) {
      complete = false;
    }
  });
  if (!complete) {
    throw_nan_rows(scores, logits.rows, 1, 1,
                   "logits hold NaN, +inf or nothing but -inf, so there is no score,");
  }
}

void realism_scores_cpu(const View& logits, const View& labels, const View& scores, int threads) {
  const Logits given = logits_of(logits);
  check_labels(labels.as<const int64_t>(), given.rows, given.classes);
  score_logits(given, labels.as<const int64_t>(), 1, scores.as<float>(), threads);
}

}  // namespace pydream
