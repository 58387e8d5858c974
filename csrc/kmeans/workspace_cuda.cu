// Layout of k-means' working memory.
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

class Carver {
 public:
  explicit Carver(unsigned char* memory) : memory_(memory) {}

  template <class T>
  void take(T** part, int64_t count) {
    constexpr int64_t kAlignment = 256;
    if (memory_ != nullptr) *part = reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  }

  int64_t used() const { return used_; }

 private:
  unsigned char* memory_;
  int64_t used_ = 0;
};

}  // namespace

int64_t kmeans_workspace(KmeansOnDevice* k, unsigned char* memory) {
  Carver carver(memory);
  carver.take(&k->origin, k->problems * k->x.dim);
  carver.take(&k->origin_length, k->problems);
  carver.take(&k->length, k->x.count);
  carver.take(&k->near, k->x.count);
  carver.take(&k->label, k->x.count);
  carver.take(&k->next, k->x.count);
  carver.take(&k->prepared, k->centres * k->padded);
  carver.take(&k->bias, k->centres);
  carver.take(&k->reach, k->centres);
  carver.take(&k->sum, k->centres * k->x.dim);
  carver.take(&k->members, k->centres);
  carver.take(&k->shift, k->centres);
  carver.take(&k->variance, k->problems);
  carver.take(&k->largest, k->problems);
  carver.take(&k->changed, k->problems);
  carver.take(&k->done, k->problems);
  carver.take(&k->partial, k->tiles);
  return carver.used();
}

int64_t seeding_workspace(SeedingOnDevice* s, const KmeansOnDevice& k, unsigned char* memory) {
  s->most_trials = seeding_trials(k.most_centres);
  Carver carver(memory);
  carver.take(&s->distance, k.x.count * s->most_trials);
  carver.take(&s->potential, k.tiles * s->most_trials);
  carver.take(&s->nearest, k.tiles);
  carver.take(&s->candidate, k.problems * s->most_trials);
  carver.take(&s->candidates, k.problems);
  carver.take(&s->best, k.problems);
  return carver.used();
}

}  // namespace pydream
