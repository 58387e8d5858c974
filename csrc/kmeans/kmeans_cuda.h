// k-means on a CUDA device, for bindings_cuda.cpp: begin, then iterations, then finish. Each launch
// works on all problems and skips those that have converged.
#pragma once

#include "common/faults.h"
#include "common/stream.h"
#include "kmeans/kmeans.h"

namespace pydream {

constexpr int64_t kTileRows = 128;  // samples of a block

// One problem, in device memory; the last entry of a table is the end of all problems.
struct ProblemEntry {
  int64_t first_row;
  int64_t first_centre;
  int64_t first_tile;
};

// Arguments of all kernels. B problems, T samples, C centres, D dimensions, tiles of kTileRows.
struct KmeansOnDevice {
  Samples x;                  // [T, D]
  const ProblemEntry* table;  // [B + 1]
  int64_t problems, centres, tiles, most_centres;
  bool fast;            // compare in the format of the tensor cores
  float* centroid;      // [C, D]
  int64_t* label_out;   // [T]
  double* inertia;      // [B]
  int64_t* n_iter;      // [B]
  int32_t* unfinished;  // [1], problems that have not converged
  // Working memory.
  int64_t terms;         // of a prepared centre, whose sum it is; 1 if `fast`
  int64_t padded;        // words of a term: D, or D / 2 of 16 bits, up to whole pieces
  float* origin;         // [B, D], a point near the samples
  float* origin_length;  // [B]
  float* length;         // [T], squared distances to the origin
  float* near;           // [T], squared distances to the own centre, where a centre is empty
  unsigned long long* farthest;  // [tiles], the largest of these and its place (fill_cuda.cu)
  int32_t* label;                // [T], labels that the sums reflect
  int32_t* next;            // [T], labels for the current centres; ~label if scores do not decide
  int32_t* rival;           // [T], where scores do not decide: the only other candidate, or -1
  uint32_t* prepared;       // [C, terms, padded], centres minus the origin, as they are compared
  float* bias;              // [C]
  float* factor;            // [C], undoes the scales of sums of products; unless `fast`
  float* reach;             // [C], distances to the origin, and a little more
  unsigned long long* sum;  // [C, D], in units of the problem's `unit`, two's complement
  int32_t* members;         // [C]
  double* shift;            // [C], squared movements of the centres
  double* variance;         // [B]
  uint32_t* largest;        // [B], bits of the largest magnitude of the samples
  int32_t* changed;         // [B]
  int32_t* empty;           // [B], number of centres without samples
  int32_t* done;            // [B]
  double* partial;          // [tiles], sums of a tile
};

// Size of the working memory in bytes, and the layout of its parts.
int64_t kmeans_workspace(KmeansOnDevice* k, unsigned char* memory);

// Computes lengths of samples and origins, checks the values, and resets all labels.
void kmeans_begin_cuda(const KmeansOnDevice& k, const Launch& where);

// Assigns the first labels, by the given centroids.
void kmeans_start_cuda(const KmeansOnDevice& k, const Launch& where);

// Updates the centroids and labels once, in problems that have not converged.
void kmeans_iterate_cuda(const KmeansOnDevice& k, double tol, bool spherical, const Launch& where);

// Writes labels and inertia.
void kmeans_finish_cuda(const KmeansOnDevice& k, const Launch& where);

// Greedy k-means++, with its own working memory.
struct SeedingOnDevice {
  int64_t most_trials;
  float* distance;      // [trials, T]
  double* potential;    // [trials, tiles]
  float* point;         // [B, trials, D rounded up to a multiple of 4], the candidates
  int64_t* candidate;   // [B, trials], rows
  int32_t* candidates;  // [B], number of candidates
  int32_t* best;        // [B], index of the best candidate
};
int64_t seeding_workspace(SeedingOnDevice* s, const KmeansOnDevice& k, unsigned char* memory);
void seed_plusplus_cuda(const KmeansOnDevice& k, const SeedingOnDevice& s, uint64_t seed,
                        const Launch& where);

struct NearestOnDevice {
  Samples x;                          // [T, D]
  const ProblemEntry* table;          // [B + 1]
  int64_t problems, centres, groups;  // groups of kTogether centres of one problem
  int64_t parts;                      // S, ranges of a problem's samples
  const float* centroid;              // [C, D]
  int64_t count;
  float* distance;   // [S, C, count], and one more part for what is merged if S > 1
  int64_t* found;    // [S, C, count], the nearest of each part; `nearest` if there is one
  int64_t* nearest;  // [C, count]
};
constexpr int64_t kTogether = 8;

// Fills nearest [C, n] (int64) with the n samples of x [T, D] nearest to each of centroids [C, D];
// the tiles of table [B + 1, 3] are the groups. Working memory: distance [S + 1, C, n] and found
// [S, C, n], for S parts of the samples; if S is 1, distance [1, C, n], and found is nearest.
void nearest_samples_cuda(const View& x, const View& table, int64_t groups, const View& centroids,
                          const View& distance, const View& found, const View& nearest,
                          const Launch& where);

}  // namespace pydream
