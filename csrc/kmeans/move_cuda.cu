// Samples that change their cluster by the assignment.
//
// Shapes: samples [T, D], sums [C, D]; a block processes 128 samples.
// Presumes: few labels change, and few are near ties, each of which costs a warp two distances, or
// a block k distances if more than two centres are as near. If all samples are equal, every row
// costs that.
// Limit: bandwidth. The first time, one read of the samples and an atomic addition for each value;
// then only samples with a changed label are read.
//
// Sums are integers: values in the smallest unit for which N of the largest value fit in 63 bits,
// 2^-42 of the largest for a million samples. So they are exact and independent of the order of
// additions, and subtracting a sample leaves no trace.
#include "common/host_device.h"
#include "common/threads.h"
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

constexpr int kOwn = static_cast<int>(kTileRows) / kWarps;  // rows of a warp
static_assert(kOwn <= 32, "a lane a row");

// A label, and its squared distance.
struct Nearest {
  float squared;
  int32_t label;
};

__device__ Nearest nearer(const Nearest& a, const Nearest& b) {
  return a.squared < b.squared || (a.squared == b.squared && a.label < b.label) ? a : b;
}

// The nearer one of two centres by distances, the first of equally near ones; by a warp.
template <class T>
__device__ int32_t nearest_of_two(const KmeansOnDevice& k, int64_t first, int64_t row, int32_t one,
                                  int32_t other) {
  const float* centroid = k.centroid + first * k.x.dim;
  const Nearest here = {warp_distance<T>(k, row, centroid + one * k.x.dim), one};
  const Nearest there = {warp_distance<T>(k, row, centroid + other * k.x.dim), other};
  return nearer(here, there).label;
}

// The nearest one of all centres by distances, the first of equally near ones; by a block.
template <class T>
__device__ int32_t nearest_of_all(const KmeansOnDevice& k, int64_t first, int64_t count,
                                  int64_t row, Nearest* shared) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  Nearest least = {kInfinity, 0};
  for (int64_t centre = warp; centre < count; centre += kWarps) {
    const float squared = warp_distance<T>(k, row, k.centroid + (first + centre) * k.x.dim);
    if (squared < least.squared) least = {squared, static_cast<int32_t>(centre)};
  }
  __syncthreads();  // all have read what was found for the row before
  if (threadIdx.x % 32 == 0) shared[warp] = least;
  __syncthreads();
  for (int other = 0; other < kWarps; ++other) least = nearer(least, shared[other]);
  return least.label;
}

// Gives a row its new label, and moves it between the sums; by a warp.
template <class T>
__device__ void relabel(const KmeansOnDevice& k, const TileRows& rows, int64_t row, int32_t before,
                        int32_t after, double scale) {
  if (before == after) return;
  const int64_t first = k.table[rows.problem].first_centre;
  const int64_t lane = threadIdx.x % 32;
  for (int64_t d = lane; d < k.x.dim; d += 32) {
    const unsigned long long value = in_units<T>(k, row, d, scale);
    atomicAdd(k.sum + (first + after) * k.x.dim + d, value);
    if (before >= 0) atomicAdd(k.sum + (first + before) * k.x.dim + d, 0ULL - value);
  }
  if (lane != 0) return;
  atomicAdd(k.members + first + after, 1);
  if (before >= 0) atomicAdd(k.members + first + before, -1);
  atomicAdd(k.changed + rows.problem, 1);
  k.label[row] = after;
}

// Updates sums and members to the labels in `next`. A lane looks at a row; the warp takes those
// that may change, and the block those that all centres are candidates of.
template <class T>
__global__ void __launch_bounds__(kThreads) move_kernel(const KmeansOnDevice k) {
  Nearest* shared = shared_memory<Nearest>();                      // [kWarps]
  auto* open_rows = reinterpret_cast<unsigned*>(shared + kWarps);  // [kWarps], a bit of each row
  const TileRows rows = rows_of(k, blockIdx.x);
  if (k.done[rows.problem]) return;
  const int64_t first = k.table[rows.problem].first_centre;
  const int64_t count = k.table[rows.problem + 1].first_centre - first;
  const double scale = units(k, rows.problem);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t row = rows.begin + warp * kOwn + lane;
  const bool there = lane < kOwn && row < rows.end;
  const int32_t before = there ? k.label[row] : 0, after = there ? k.next[row] : 0;
  const int32_t rival = after < 0 ? k.rival[row] : 0;
  const unsigned open = __ballot_sync(kAllLanes, rival < 0);
  unsigned left = __ballot_sync(kAllLanes, after < 0 || before != after) & ~open;
  for (; left != 0; left &= left - 1) {
    const int from = __ffs(static_cast<int>(left)) - 1;
    const int32_t old = __shfl_sync(kAllLanes, before, from);
    const int32_t found = __shfl_sync(kAllLanes, after, from);
    const int32_t other = __shfl_sync(kAllLanes, rival, from);
    const int64_t its_row = rows.begin + warp * kOwn + from;
    int32_t label = found;
    if (found < 0) label = nearest_of_two<T>(k, first, its_row, ~found, other);
    // Scores have large rounding errors: a label changes only if the distances agree.
    if (k.fast && old >= 0) label = nearest_of_two<T>(k, first, its_row, old, found);
    relabel<T>(k, rows, its_row, old, label, scale);
  }
  if (lane == 0) open_rows[warp] = open;
  __syncthreads();
  for (int owner = 0; owner < kWarps; ++owner) {
    for (left = open_rows[owner]; left != 0; left &= left - 1) {
      const int from = __ffs(static_cast<int>(left)) - 1;
      const int64_t its_row = rows.begin + owner * kOwn + from;
      const int32_t label = nearest_of_all<T>(k, first, count, its_row, shared);
      if (warp != owner) continue;
      relabel<T>(k, rows, its_row, __shfl_sync(kAllLanes, before, from), label, scale);
    }
  }
}

}  // namespace

void move_cuda(const KmeansOnDevice& k, CudaStream stream) {
  PYDREAM_BY_TYPE(k.x.type, launch(move_kernel<T>, blocks(k.tiles), dim3(kThreads),
                                   kWarps * (sizeof(Nearest) + sizeof(unsigned)), stream, k));
}

}  // namespace pydream
