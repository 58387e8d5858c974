// Layout of k-means' working memory.
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

class WorkspaceLayout {
 public:
  explicit WorkspaceLayout(unsigned char* memory) : memory_(memory) {}

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
  k->terms = 1;
  if (!k->fast) PYDREAM_BY_TYPE(k->x.type, k->terms = kExactTerms<T>);
  const bool pairs = !k->fast || k->x.type != Dtype::float32;
  const int64_t words = pairs ? (k->x.dim + 1) / 2 : k->x.dim, piece = k->fast ? 32 : 16;
  k->padded = (words + piece - 1) / piece * piece;
  WorkspaceLayout layout(memory);
  layout.take(&k->origin, k->problems * k->x.dim);
  layout.take(&k->origin_length, k->problems);
  layout.take(&k->length, k->x.count);
  layout.take(&k->near, k->x.count);
  layout.take(&k->farthest, k->tiles);
  layout.take(&k->label, k->x.count);
  layout.take(&k->next, k->x.count);
  layout.take(&k->rival, k->x.count);
  layout.take(&k->prepared, k->centres * k->terms * k->padded);
  layout.take(&k->bias, k->centres);
  layout.take(&k->factor, k->centres);
  layout.take(&k->reach, k->centres);
  layout.take(&k->sum, k->centres * k->x.dim);
  layout.take(&k->members, k->centres);
  layout.take(&k->shift, k->centres);
  layout.take(&k->variance, k->problems);
  layout.take(&k->largest, k->problems);
  layout.take(&k->changed, k->problems);
  layout.take(&k->empty, k->problems);
  layout.take(&k->done, k->problems);
  layout.take(&k->partial, k->tiles);
  return layout.used();
}

int64_t seeding_workspace(SeedingOnDevice* s, const KmeansOnDevice& k, unsigned char* memory) {
  s->most_trials = seeding_trials(k.most_centres);
  WorkspaceLayout layout(memory);
  layout.take(&s->distance, k.x.count * s->most_trials);
  layout.take(&s->potential, k.tiles * s->most_trials);
  layout.take(&s->point, k.problems * s->most_trials * ((k.x.dim + 3) / 4 * 4));
  layout.take(&s->candidate, k.problems * s->most_trials);
  layout.take(&s->candidates, k.problems);
  layout.take(&s->best, k.problems);
  return layout.used();
}

}  // namespace pydream
