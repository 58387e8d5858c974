// k-means on a CUDA device, as bindings_cuda.cpp calls it: begin, then iterations, then finish.
// All problems are worked on by each launch, those that have ended are passed over.
#pragma once

#include "common/faults.h"
#include "common/stream.h"
#include "kmeans/kmeans.h"

namespace pydream {

constexpr int64_t kTileRows = 128;  // samples of a block

// One problem, in device memory; the last entry of a table stands behind all.
struct ProblemEntry {
  int64_t first_row;
  int64_t first_centre;
  int64_t first_tile;
};

// What all kernels are given. B problems, T samples, C centres, D dimensions, tiles of kTileRows.
struct KmeansOnDevice {
  Samples x;                  // [T, D]
  const ProblemEntry* table;  // [B + 1]
  int64_t problems, centres, tiles, most_centres;
  int64_t padded;       // words of a prepared centre: D (or D / 2), up to a multiple of 32
  bool fast;            // compare in the format of the tensor cores
  float* centroid;      // [C, D]
  int64_t* label_out;   // [T]
  double* inertia;      // [B]
  int64_t* n_iter;      // [B]
  int32_t* unfinished;  // [1], problems that have not ended
  // Working memory.
  float* origin;            // [B, D], a point near the samples
  float* origin_length;     // [B]
  float* length;            // [T], squared distances to the origin
  float* near;              // [T], squared distances to the own centre, where they are needed
  int32_t* label;           // [T], as in the sums
  int32_t* next;            // [T], as of the centres now; ~label where scores do not decide
  uint32_t* prepared;       // [C, padded], centres less the origin, in the format of the comparison
  float* bias;              // [C]
  float* reach;             // [C], distances to the origin
  unsigned long long* sum;  // [C, D], in units of the problem's `unit`, two's complement
  int32_t* members;         // [C]
  double* shift;            // [C], squares of how far the centres moved
  double* variance;         // [B]
  uint32_t* largest;        // [B], bits of the largest magnitude of the samples
  int32_t* changed;         // [B]
  int32_t* done;            // [B]
  double* partial;          // [tiles], sums of a tile
};

// Bytes of working memory, and where its parts lie.
int64_t kmeans_workspace(KmeansOnDevice* k, unsigned char* memory);

// Lengths of samples, origins, checks of the values; forgets all labels.
void kmeans_begin_cuda(const KmeansOnDevice& k, const Launch& where);

// First labels, of the centroids given.
void kmeans_start_cuda(const KmeansOnDevice& k, const Launch& where);

// Moves the centroids once and labels anew, in problems that have not ended.
void kmeans_iterate_cuda(const KmeansOnDevice& k, double tol, bool spherical, const Launch& where);

// Labels and inertia out.
void kmeans_finish_cuda(const KmeansOnDevice& k, const Launch& where);

// Greedy k-means++: working memory of its own.
struct SeedingOnDevice {
  int64_t most_trials;
  float* distance;      // [T, trials]
  double* potential;    // [tiles, trials]
  double* nearest;      // [tiles]
  int64_t* candidate;   // [B, trials], rows
  int32_t* candidates;  // [B], how many of them
  int32_t* best;        // [B], of the candidates
};
int64_t seeding_workspace(SeedingOnDevice* s, const KmeansOnDevice& k, unsigned char* memory);
void seed_plusplus_cuda(const KmeansOnDevice& k, const SeedingOnDevice& s, uint64_t seed,
                        const Launch& where);

struct NearestOnDevice {
  Samples x;                          // [T, D]
  const ProblemEntry* table;          // [B + 1]
  int64_t problems, centres, groups;  // groups of kTogether centres of one problem
  const float* centroid;              // [C, D]
  int64_t count;
  float* distance;   // [C, count]
  int64_t* nearest;  // [C, count]
};
constexpr int64_t kTogether = 8;

// Fills nearest [C, n] (int64) with the n samples of x [T, D] that lie nearest to each of centroids
// [C, D]; table [B + 1, 3] has the groups as its tiles, distance is working memory [C, n].
void nearest_samples_cuda(const View& x, const View& table, int64_t groups, const View& centroids,
                          const View& distance, const View& nearest, const Launch& where);

}  // namespace pydream
