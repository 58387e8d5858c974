// Matched cells: of each crop the small image whose bilinear enlargement is nearest to it. What
// every device shares; see pydream/ops/cells.py for the contract.
//
// An enlargement is linear along each axis: U [to, from], two neighbouring weights in a row (see
// `between`). A cell of which n <= from pixels are inside its image is X - 1/2 = pinv(U_n) (A -
// 1/2) pinv(U_n)^T for the anchor A, U_n the first n columns of U: pixels outside are 1/2.
// pinv(U_n) is inv(U_n^T U_n) U_n^T, and U_n^T U_n is tridiagonal: no matrix is multiplied.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/view.h"
#include "formation/formation.h"

namespace pydream {

// The least squares of one axis: n pixels of a cell from `to` pixels of an anchor.
struct Fit {
  int64_t pixels;  // n
  int64_t to;
  int64_t most;          // taps of a pixel
  const int32_t* first;  // [n]
  const int32_t* count;  // [n], at most `most`
  const float* weight;   // [n, most], of anchor pixels first, first + 1, ...
  const float* lower;    // [n]: U^T U = L D L^T, L[q, q - 1]; 0 for q = 0
  const float* inverse;  // [n], 1 / D[q, q]
};

// The memory of a Fit, and how it is computed.
struct FitTable {
  std::vector<int32_t> first, count;
  std::vector<float> weight, lower, inverse;
  int64_t to = 0;
  int64_t most = 0;

  // For an axis of `from` pixels, `inside` of them in the image, enlarged to `to` >= from.
  FitTable(int64_t from, int64_t inside, int64_t to);

  Fit fit() const {
    return {static_cast<int64_t>(first.size()),
            to,
            most,
            first.data(),
            count.data(),
            weight.data(),
            lower.data(),
            inverse.data()};
  }
};

}  // namespace pydream
