#include <algorithm>
#include <vector>

#include "common/isa.h"
#include "common/parallel.h"
#include "formation/formation.h"

namespace pydream {

PYDREAM_KERNELS(FormationKernels, formation_kernels)

namespace {

// Pixels of the result that a thread processes at a time.
constexpr int64_t kPiece = 16384;

class StretchTable {
 public:
  StretchTable(int64_t from, int64_t to) : from_(from), low_(to), high_(to), weight_(to) {
    for (int64_t i = 0; i < to; ++i) {
      const Between place = between(i, from, to);
      low_[i] = static_cast<int32_t>(place.low);
      high_[i] = static_cast<int32_t>(std::min(place.low + 1, from - 1));
      weight_[i] = place.weight;
    }
  }

  Stretch view() const {
    return {from_, static_cast<int64_t>(low_.size()), low_.data(), high_.data(), weight_.data()};
  }

 private:
  int64_t from_;
  std::vector<int32_t> low_, high_;
  std::vector<float> weight_;
};

class ReadersTable {
 public:
  ReadersTable(int64_t from, int64_t to) : from_(from), to_(to), first_(from) {
    for (int64_t q = 0; q < from; ++q) {
      first_[q] = static_cast<int32_t>(first_from(q - 1, from, to));
      most_ = std::max(most_, first_from(q + 1, from, to) - first_[q]);
    }
    weight_.resize(most_ * from);
    for (int64_t i = 0; i < to; ++i) {
      const Between place = between(i, from, to);
      weight_[(i - first_[place.low]) * from + place.low] = 1.0f - place.weight;
      if (place.weight > 0.0f) {
        weight_[(i - first_[place.low + 1]) * from + place.low + 1] = place.weight;
      }
    }
  }

  Readers view() const { return {from_, to_, most_, first_.data(), weight_.data()}; }

 private:
  int64_t from_, to_;
  int64_t most_ = 0;
  std::vector<int32_t> first_;
  std::vector<float> weight_;
};

Inside inside(const Formation& shape, const Cell& cell) {
  const int64_t rows = std::min(cell_side(shape.height, shape.factor), shape.height - cell.top);
  const int64_t columns = std::min(cell_side(shape.width, shape.factor), shape.width - cell.left);
  return {(cell.plane * shape.height + cell.top) * shape.width + cell.left, shape.width,
          std::max<int64_t>(rows, 0), std::max<int64_t>(columns, 0)};
}

// Calls work(cell, offset, scratch) for every plane of the result, which begins at `offset`.
template <class Work>
void over_planes(const Formation& shape, int64_t scratch, int threads, const Work& work) {
  const int64_t area = shape.size * shape.size;
  const int64_t planes =
      shape.batches * shape.factor * shape.factor * shape.images * shape.channels;
  const int64_t grain = std::max<int64_t>(kPiece / area, 1);
  parallel_for(planes, grain, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> own(scratch);
    for (int64_t plane = begin; plane < end; ++plane) {
      work(inside(shape, cell_of(shape, plane)), plane * area, own.data());
    }
  });
}

}  // namespace

void multi_formation_cpu(const View& images, int64_t factor, float padding, const View& result,
                         int threads) {
  const Formation shape = formation_of(images, factor, result);
  const StretchTable rows(cell_side(shape.height, shape.factor), shape.size);
  const StretchTable columns(cell_side(shape.width, shape.factor), shape.size);
  const int64_t scratch = 2 * shape.size + cell_side(shape.width, shape.factor) + kSlack;
  over_planes(shape, scratch, threads, [&](const Inside& cell, int64_t offset, float* own) {
    formation_kernels().upsample(rows.view(), columns.view(), cell, shape.type, padding,
                                 images.data, offset, result.data, own);
  });
}

void multi_formation_backward_cpu(const View& gradient, int64_t factor, const View& images,
                                  int threads) {
  const Formation shape = formation_of(images, factor, gradient);
  const ReadersTable rows(cell_side(shape.height, shape.factor), shape.size);
  const ReadersTable columns(cell_side(shape.width, shape.factor), shape.size);
  const int64_t scratch = shape.size * shape.size + shape.size + columns.view().most + kSlack +
                          cell_side(shape.width, shape.factor);
  over_planes(shape, scratch, threads, [&](const Inside& cell, int64_t offset, float* own) {
    formation_kernels().gather(rows.view(), columns.view(), cell, shape.type, gradient.data, offset,
                               images.data, own);
  });
}

}  // namespace pydream
