// The best images of every class, on CUDA.
//
// Shapes: best, crop and labels [N], result [C, n]; one block per class.
// Presumes: N below 2^32. With few images or one class, every block reads all labels, from the
// second-level cache. With more (groups_first), the images of each class are gathered first, by a
// counting sort in three short launches, and a block reads its own. Limit: with many classes, one
// read of scores and labels; with one, the latency of its rounds and of eight passes over shared
// memory.
//
// A block gathers the keys of its class. Keys of score and image differ, so the n-th smallest is
// found byte by byte, from the highest: eight histograms of the keys that share its leading bytes.
// Then the keys up to it are gathered in any order, and each is written to the place given by the
// number of smaller ones. Keys that do not fit are made anew from memory in every pass. No order of
// the images of a class changes the result.

#include "common/host_device.h"
#include "common/report.h"
#include "common/threads.h"
#include "score/score_cuda.h"

namespace pydream {
namespace {

constexpr int kBins = 256;
constexpr int kKept = 8192;    // keys of a class
constexpr int kChosen = 1024;  // keys selected
constexpr int kLabels = 4;     // that a thread reads together

// The images of each class in a row, in any order; those without a score are left out.
struct Groups {
  unsigned int* placed;   // [1], images with a place, 0 at first
  unsigned int* counts;   // [C], images of each class, 0 at first
  unsigned int* ends;     // [C], where each class ends; until then, its next place
  unsigned int* members;  // [N], images; null without groups
};

struct SelectTask {
  const float* best;      // [N]
  const int64_t* crop;    // [N]
  const int64_t* labels;  // [N]
  int64_t images;
  Groups groups;
  unsigned long long* chosen;  // [C, n], the keys of those selected
  KeyPatches result;
  Faults faults;
};

// A key that sorts in ascending order as: higher score first, then lower image.
__device__ unsigned long long pack(float score, int64_t image) {
  const uint32_t bits = float_bits(score + 0.0f);  // -0 ties with 0
  const uint32_t upwards = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(~upwards) << 32 | static_cast<unsigned long long>(image);
}

struct Shared {
  unsigned long long keys[kKept];
  unsigned long long chosen[kChosen];
  unsigned int histogram[kBins];
  unsigned int bin;      // bin of the wanted key
  unsigned int below;    // keys in the bins before it
  unsigned int members;  // keys of the class
  unsigned int gathered;
};

// The label of an image; -1 if it is not one of the classes, which is reported.
__device__ int64_t checked_label(const SelectTask& task, int64_t image) {
  const int64_t label = task.labels[image];
  if (label >= 0 && label < task.result.classes) return label;
  report(task.faults, Fault::label, image);
  return -1;
}

__global__ void __launch_bounds__(kThreads) count_kernel(const SelectTask task) {
  const int64_t image = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (image >= task.images) return;
  const int64_t label = checked_label(task, image);
  if (label >= 0 && task.best[image] > -kInfinity) atomicAdd(task.groups.counts + label, 1u);
}

__global__ void __launch_bounds__(kThreads) begin_kernel(const SelectTask task) {
  const int64_t label = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (label >= task.result.classes) return;
  task.groups.ends[label] = atomicAdd(task.groups.placed, task.groups.counts[label]);
}

__global__ void __launch_bounds__(kThreads) place_kernel(const SelectTask task) {
  const int64_t image = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (image >= task.images) return;
  const int64_t label = task.labels[image];
  if (label < 0 || label >= task.result.classes || !(task.best[image] > -kInfinity)) return;
  const unsigned int place = atomicAdd(task.groups.ends + label, 1u);
  task.groups.members[place] = static_cast<unsigned int>(image);
}

// Calls work(key) for every key of a class, of the images that are gathered for it.
template <class Work>
__device__ void for_members(const SelectTask& task, int64_t label, const Work& work) {
  const unsigned int count = task.groups.counts[label];
  const unsigned int* members = task.groups.members + (task.groups.ends[label] - count);
  for (unsigned int at = threadIdx.x; at < count; at += kThreads) {
    const int64_t image = members[at];
    work(pack(task.best[image], image));
  }
}

// Calls work(key) for every key of a class, read from memory.
template <bool kGrouped, class Work>
__device__ void for_keys_in_memory(const SelectTask& task, int64_t label, const Work& work) {
  if constexpr (kGrouped) {
    for_members(task, label, work);
  } else {
    for (int64_t first = threadIdx.x; first < task.images; first += kLabels * kThreads) {
      bool member[kLabels];
#pragma unroll
      for (int i = 0; i < kLabels; ++i) {
        const int64_t image = first + i * kThreads;
        member[i] = image < task.images && task.labels[image] == label;
      }
#pragma unroll
      for (int i = 0; i < kLabels; ++i) {
        const int64_t image = first + i * kThreads;
        if (member[i] && task.best[image] > -kInfinity) work(pack(task.best[image], image));
      }
    }
  }
}

template <bool kGrouped, class Work>
__device__ void for_keys(const SelectTask& task, int64_t label, const Shared& shared,
                         const Work& work) {
  if (shared.members > kKept) return for_keys_in_memory<kGrouped>(task, label, work);
  for (unsigned int at = threadIdx.x; at < shared.members; at += kThreads) work(shared.keys[at]);
}

template <bool kGrouped>
__device__ void gather_keys(const SelectTask& task, int64_t label, Shared& shared) {
  if (threadIdx.x == 0) shared.members = 0;
  __syncthreads();
  for_keys_in_memory<kGrouped>(task, label, [&](unsigned long long key) {
    const unsigned int at = atomicAdd(&shared.members, 1u);
    if (at < kKept) shared.keys[at] = key;
  });
  __syncthreads();
}

// Counts the class's keys that begin with `prefix`, by the byte at `shift`.
template <bool kGrouped>
__device__ void count(const SelectTask& task, int64_t label, unsigned long long prefix, int shift,
                      Shared& shared) {
  shared.histogram[threadIdx.x] = 0;
  __syncthreads();
  for_keys<kGrouped>(task, label, shared, [&](unsigned long long key) {
    if (shift < 56 && key >> (shift + 8) != prefix) return;
    atomicAdd(&shared.histogram[(key >> shift) & 0xFF], 1u);
  });
  __syncthreads();
}

// The bin of the key of this rank, counted from 1, which there must be. Each lane of a warp adds
// some bins, and all scan these sums.
__device__ void find_bin(unsigned int rank, Shared& shared) {
  constexpr int kEach = kBins / 32;
  if (threadIdx.x < 32) {
    const unsigned int lane = threadIdx.x;
    const unsigned int* bins = shared.histogram + kEach * lane;
    unsigned int own = 0;
#pragma unroll
    for (int bin = 0; bin < kEach; ++bin) own += bins[bin];
    unsigned int before = 0, both = own;  // of lanes below this one, and of the lanes so far
#pragma unroll
    for (unsigned int distance = 1; distance < 32; distance *= 2) {
      const unsigned int other = __shfl_xor_sync(kAllLanes, both, static_cast<int>(distance));
      if ((lane & distance) != 0) before += other;
      both += other;
    }
    if (before < rank && rank <= before + own) {
      unsigned int bin = 0;
      while (before + bins[bin] < rank) before += bins[bin++];
      shared.bin = kEach * lane + bin;
      shared.below = before;
    }
  }
  __syncthreads();
}

// The key of the n-th best image, or one beyond all if there are not more.
template <bool kGrouped>
__device__ unsigned long long last_key(const SelectTask& task, int64_t label, Shared& shared) {
  if (task.result.per_class >= shared.members) return ~0ULL;
  unsigned int rank = static_cast<unsigned int>(task.result.per_class);
  unsigned long long prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    count<kGrouped>(task, label, prefix, shift, shared);
    find_bin(rank, shared);
    prefix = prefix << 8 | shared.bin;
    rank -= shared.below;
    __syncthreads();  // before the next histogram overwrites it
  }
  return prefix;
}

template <bool kGrouped>
__global__ void __launch_bounds__(kThreads) select_kernel(const SelectTask task) {
  Shared& shared = *shared_memory<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t label = blockIdx.x;
  if (!kGrouped && label == 0) {
    for (int64_t image = thread; image < task.images; image += kThreads) checked_label(task, image);
  }
  gather_keys<kGrouped>(task, label, shared);
  const unsigned long long last = last_key<kGrouped>(task, label, shared);
  if (thread == 0) shared.gathered = 0;
  __syncthreads();
  unsigned long long* chosen = task.result.per_class <= kChosen
                                   ? shared.chosen
                                   : task.chosen + label * task.result.per_class;
  for_keys<kGrouped>(task, label, shared, [&](unsigned long long key) {
    if (key <= last) chosen[atomicAdd(&shared.gathered, 1u)] = key;
  });
  __syncthreads();
  const int64_t gathered = shared.gathered;
  for (int64_t at = thread; at < task.result.per_class; at += kThreads) {
    const int64_t start = label * task.result.per_class;
    if (at >= gathered) {
      task.result.image[start + at] = -1;
      task.result.crop[start + at] = -1;
      task.result.score[start + at] = -kInfinity;
      continue;
    }
    const unsigned long long key = chosen[at];
    int64_t rank = 0;
    for (int64_t other = 0; other < gathered; ++other) rank += chosen[other] < key;
    const int64_t image = static_cast<int64_t>(key & 0xFFFFFFFFu);
    task.result.image[start + rank] = image;
    task.result.crop[start + rank] = task.crop[image];
    task.result.score[start + rank] = task.best[image];
  }
}

// Whether images are gathered by class first. By the model a block waits 480 cycles for each round
// of 1024 labels, two blocks share each of 132 multiprocessors, and launches and passes of the sort
// take as long as 45,000 labels.
bool groups_first(int64_t images, int64_t classes) {
  constexpr int64_t kBlocks = 264, kLabelsOfSort = 45'000;
  return classes > 1 && (classes + kBlocks - 1) / kBlocks * images > kLabelsOfSort;
}

}  // namespace

int64_t grouping_words(int64_t images, int64_t classes) {
  return groups_first(images, classes) ? 1 + 2 * classes + images : 0;
}

void top_images_cuda(const View& best, const View& crop, const View& labels, const View& scratch,
                     const View& grouping, const View& image, const View& out_crop,
                     const View& score, const Launch& where) {
  const int64_t images = best.shape[0];
  if (images > int64_t{0xFFFFFFFF}) {
    throw std::invalid_argument("scores may have at most 2^32 - 1 rows, got " +
                                std::to_string(images));
  }
  const KeyPatches result = key_patches_of(image, out_crop, score);
  const bool grouped = groups_first(images, result.classes);
  unsigned int* words = grouping.as<unsigned int>();
  const Groups groups = {words, words + 1, words + 1 + result.classes,
                         words + 1 + 2 * result.classes};
  const SelectTask task = {best.as<const float>(),
                           crop.as<const int64_t>(),
                           labels.as<const int64_t>(),
                           images,
                           grouped ? groups : Groups{},
                           scratch.as<unsigned long long>(),
                           result,
                           where.faults};
  const DeviceGuard guard(where.device);
  const auto blocks = [](int64_t count) {
    return dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads));
  };
  const auto run = [&](auto* kernel, dim3 grid, size_t shared) {
    launch(kernel, grid, dim3(kThreads), shared, where.stream, task);
  };
  if (grouped) {
    run(count_kernel, blocks(images), 0);
    run(begin_kernel, blocks(result.classes), 0);
    run(place_kernel, blocks(images), 0);
  }
  run(grouped ? select_kernel<true> : select_kernel<false>,
      dim3(static_cast<unsigned>(result.classes)), sizeof(Shared));
}

}  // namespace pydream
