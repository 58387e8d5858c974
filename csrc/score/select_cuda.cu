// The best images of every class, on CUDA.
//
// Shapes: best, crop and labels [N], result [C, n]; one block per class.
// Presumes: N below 2^32. Every block reads all labels ten times, from the second-level cache: with
// C * N beyond some 10^9, call it for groups of classes. Limit: those reads; with one class, one
// read of the scores and the latency of ten passes.
//
// Keys of score and image differ, so the n-th smallest is found byte by byte, from the highest:
// eight histograms of the keys that share its leading bytes. Then the keys up to it are gathered in
// any order, and each is written to the place given by the number of smaller ones.

#include "common/host_device.h"
#include "common/report.h"
#include "common/threads.h"
#include "score/score_cuda.h"

namespace pydream {
namespace {

constexpr int kBins = 256;

struct SelectTask {
  const float* best;      // [N]
  const int64_t* crop;    // [N]
  const int64_t* labels;  // [N]
  int64_t images;
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

__device__ bool belongs(const SelectTask& task, int64_t image, int64_t label) {
  return task.labels[image] == label && task.best[image] > -kInfinity;
}

struct Shared {
  unsigned int histogram[kBins];
  unsigned int bin;    // bin of the wanted key
  unsigned int below;  // keys in the bins before it
  unsigned int members;
  unsigned int gathered;
};

// Counts the class's keys that begin with `prefix`, by the byte at `shift`.
__device__ void count(const SelectTask& task, int64_t label, unsigned long long prefix, int shift,
                      Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  shared.histogram[thread] = 0;
  __syncthreads();
  for (int64_t image = thread; image < task.images; image += kThreads) {
    if (!belongs(task, image, label)) continue;
    const unsigned long long key = pack(task.best[image], image);
    if (shift < 56 && key >> (shift + 8) != prefix) continue;
    atomicAdd(&shared.histogram[(key >> shift) & 0xFF], 1u);
  }
  __syncthreads();
}

// The bin of the key of this rank, counted from 1; past the last bin if there are fewer keys.
__device__ void find_bin(unsigned int rank, Shared& shared) {
  if (threadIdx.x == 0) {
    unsigned int below = 0;
    unsigned int bin = 0;
    while (bin < kBins && below + shared.histogram[bin] < rank) below += shared.histogram[bin++];
    shared.bin = bin;
    shared.below = below;
  }
  __syncthreads();
}

// The key of the n-th best image, or of the last if there are fewer.
__device__ unsigned long long last_key(const SelectTask& task, int64_t label, Shared& shared) {
  constexpr unsigned long long kAll = ~0ULL;
  if (task.result.per_class >= task.images) return kAll;
  unsigned int rank = static_cast<unsigned int>(task.result.per_class);
  unsigned long long prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    count(task, label, prefix, shift, shared);
    find_bin(rank, shared);
    if (shared.bin == kBins) return kAll;
    prefix = prefix << 8 | shared.bin;
    rank -= shared.below;
    __syncthreads();  // before the next histogram overwrites it
  }
  return prefix;
}

__global__ void __launch_bounds__(kThreads) select_kernel(const SelectTask task) {
  Shared& shared = *shared_memory<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t label = blockIdx.x;
  if (label == 0) {
    for (int64_t image = thread; image < task.images; image += kThreads) {
      if (task.labels[image] < 0 || task.labels[image] >= task.result.classes) {
        report(task.faults, Fault::label, image);
      }
    }
  }
  const unsigned long long last = last_key(task, label, shared);
  if (thread == 0) shared.gathered = 0;
  __syncthreads();
  unsigned long long* chosen = task.chosen + label * task.result.per_class;
  for (int64_t image = thread; image < task.images; image += kThreads) {
    if (!belongs(task, image, label)) continue;
    const unsigned long long key = pack(task.best[image], image);
    if (key <= last) chosen[atomicAdd(&shared.gathered, 1u)] = key;
  }
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

}  // namespace

void top_images_cuda(const View& best, const View& crop, const View& labels, const View& scratch,
                     const View& image, const View& out_crop, const View& score,
                     const Launch& where) {
  const int64_t images = best.shape[0];
  if (images > int64_t{0xFFFFFFFF}) {
    throw std::invalid_argument("scores may have at most 2^32 - 1 rows, got " +
                                std::to_string(images));
  }
  const SelectTask task = {best.as<const float>(),
                           crop.as<const int64_t>(),
                           labels.as<const int64_t>(),
                           images,
                           scratch.as<unsigned long long>(),
                           key_patches_of(image, out_crop, score),
                           where.faults};
  const DeviceGuard guard(where.device);
  launch(select_kernel, dim3(static_cast<unsigned>(task.result.classes)), dim3(kThreads),
         sizeof(Shared), where.stream, task);
}

}  // namespace pydream
