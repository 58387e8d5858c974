// Centres without samples: each takes the sample that is farthest from its own centre.
//
// Shapes: samples [T, D], distances [T], the farthest of each tile [tiles]; a block measures 128
// samples, or serves the centres of a problem in turn.
// Presumes: fewer than 2^32 samples of a problem. Where no centre is empty, both kernels return.
// Limit: one read of the samples of problems with empty centres. For each of these, a block then
// looks at the farthest of each tile, and once more at the tile that it takes the sample from.
#include "common/threads.h"
#include "kmeans/kmeans_device.h"

namespace pydream {
namespace {

using Key = unsigned long long;

// Orders samples by their distances, of equal ones the first last: so the largest is wanted. 0
// where there is no distance.
__device__ Key key_of(float near, int64_t place) {
  if (!(near > 0.0f)) return 0;
  return static_cast<Key>(__float_as_uint(near)) << 32 | (0xFFFFFFFFu - static_cast<Key>(place));
}

__device__ int64_t place_of(Key key) { return static_cast<int64_t>(~key & 0xFFFFFFFFu); }

// The largest of one key per thread, returned to every thread. The content of `shared` [kWarps] is
// overwritten.
__device__ Key largest_key(Key key, Key* shared) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    key = max(key, __shfl_xor_sync(kAllLanes, key, distance));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = key;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) key = max(key, shared[warp]);
  return key;
}

// The key of a tile, from the distances of its samples; by a block, to every thread.
__device__ Key key_of_tile(const KmeansOnDevice& k, const TileRows& rows, Key* shared) {
  const int64_t row = rows.begin + threadIdx.x;
  const int64_t place = row - k.table[rows.problem].first_row;
  return largest_key(row < rows.end ? key_of(k.near[row], place) : 0, shared);
}

// Distances of all samples to their centres, in problems with empty ones.
template <class T>
__global__ void __launch_bounds__(kThreads) own_kernel(const KmeansOnDevice k) {
  Key* shared = shared_memory<Key>();  // [kWarps]
  const TileRows rows = rows_of(k, blockIdx.x);
  if (k.done[rows.problem] || k.empty[rows.problem] == 0) return;
  const int64_t first = k.table[rows.problem].first_centre;
  for (int64_t row = rows.begin + threadIdx.x / 32; row < rows.end; row += kWarps) {
    const float near = warp_distance<T>(k, row, k.centroid + (first + k.label[row]) * k.x.dim);
    if (threadIdx.x % 32 == 0) k.near[row] = near;
  }
  __syncthreads();
  const Key key = key_of_tile(k, rows, shared);
  if (threadIdx.x == 0) k.farthest[blockIdx.x] = key;
}

// Takes the farthest sample out of those that are left, and returns its row; -1 if there is none.
// By a block.
__device__ int64_t take_farthest(const KmeansOnDevice& k, int64_t problem, Key* shared) {
  const ProblemEntry& entry = k.table[problem];
  Key key = 0;
  for (int64_t tile = entry.first_tile + threadIdx.x; tile < k.table[problem + 1].first_tile;
       tile += kThreads) {
    key = max(key, k.farthest[tile]);
  }
  key = largest_key(key, shared);
  if (key == 0) return -1;
  const int64_t place = place_of(key), tile = entry.first_tile + place / kTileRows;
  if (threadIdx.x == 0) k.near[entry.first_row + place] = 0.0f;
  __syncthreads();
  key = key_of_tile(k, rows_of(k, tile), shared);
  if (threadIdx.x == 0) k.farthest[tile] = key;
  __syncthreads();
  return entry.first_row + place;
}

// Moves a sample from its centre to another one; by a block.
template <class T>
__device__ void give_sample(const KmeansOnDevice& k, const ProblemEntry& entry, int64_t row,
                            int64_t centre, double scale) {
  const int64_t before = entry.first_centre + k.label[row];
  for (int64_t d = threadIdx.x; d < k.x.dim; d += kThreads) {
    const unsigned long long value = in_units<T>(k, row, d, scale);
    k.sum[before * k.x.dim + d] -= value;
    k.sum[centre * k.x.dim + d] += value;
  }
  __syncthreads();  // all have read the label
  if (threadIdx.x == 0) {
    --k.members[before];
    ++k.members[centre];
    k.label[row] = static_cast<int32_t>(centre - entry.first_centre);
  }
  __syncthreads();
}

// Serves the empty centres in order: a block per problem. A sample whose centre has no other one
// stays; that centre will get none, so the sample need not be looked at again.
template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(const KmeansOnDevice k) {
  Key* shared = shared_memory<Key>();                          // [kWarps]
  auto* votes = reinterpret_cast<unsigned*>(shared + kWarps);  // [kWarps]
  const int64_t problem = blockIdx.x;
  if (k.done[problem] || k.empty[problem] == 0) return;
  const ProblemEntry& entry = k.table[problem];
  const int64_t end = k.table[problem + 1].first_centre;
  const double scale = units(k, problem);
  for (int64_t some = entry.first_centre; some < end; some += kThreads) {
    const int64_t own = some + threadIdx.x;
    const unsigned vote = __ballot_sync(kAllLanes, own < end && k.members[own] == 0);
    if (threadIdx.x % 32 == 0) votes[threadIdx.x / 32] = vote;
    __syncthreads();
    for (int warp = 0; warp < kWarps; ++warp) {
      for (unsigned left = votes[warp]; left != 0; left &= left - 1) {
        int64_t row = take_farthest(k, problem, shared);
        while (row >= 0 && k.members[entry.first_centre + k.label[row]] == 1) {
          row = take_farthest(k, problem, shared);
        }
        if (row < 0) return;
        give_sample<T>(k, entry, row, some + warp * 32 + __ffs(static_cast<int>(left)) - 1, scale);
      }
    }
    __syncthreads();  // before the votes are overwritten
  }
}

}  // namespace

void fill_cuda(const KmeansOnDevice& k, CudaStream stream) {
  PYDREAM_BY_TYPE(k.x.type, {
    launch(own_kernel<T>, blocks(k.tiles), dim3(kThreads), kWarps * sizeof(Key), stream, k);
    launch(fill_kernel<T>, blocks(k.problems), dim3(kThreads),
           kWarps * (sizeof(Key) + sizeof(unsigned)), stream, k);
  });
}

}  // namespace pydream
