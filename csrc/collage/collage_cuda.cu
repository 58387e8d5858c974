// Collages on CUDA.
//
// Shapes: patches [C, n * f^2, ch, h, w], images [C, n, ch, S, S], both contiguous.
// Presumes: sides below 2^31; columns beyond kColumns go to further blocks. Limit: bandwidth, one
// read of the patches and one write of the images. A block makes some rows of a channel. It finds
// the places of its rows and columns first, so that a pixel takes one division, by a product and a
// shift. Where patches are as wide as cells, words of up to 16 bytes are copied in place of pixels.
#include <algorithm>
#include <stdexcept>

#include "collage/collage_cuda.h"
#include "common/division.h"
#include "common/launch.h"
#include "common/threads.h"

namespace pydream {
namespace {

constexpr int kColumns = 1024;  // of a block, at most
constexpr int kRows = 256;      // of a block, at most
constexpr int kWords = 8192;    // of a block, if there are rows enough

// The cells along one side of an image.
struct Cells {
  int from;  // pixels of a patch
  int side;  // of a cell; of the first `remainder`, one more
  int remainder;
  Division by_side;
  Division by_larger;
};

struct Task {
  Cells rows;
  Cells columns;  // in words
  int size;       // rows of an image
  int width;      // words of a row of an image
  int factor;
  int rows_together;
  int64_t area;       // words of a channel of a patch
  int64_t next_cell;  // words from a patch to that of the next cell
  Division chunks;    // of rows, in a channel of an image
  Division channels;
  Division images;
  Division tile;  // columns of a block, but for the last
};

// The cell of pixel i along one side, and its source pixel in a patch.
struct Place {
  int cell;
  int source;
};

__device__ Place place_of(int i, const Cells& cells) {
  const int larger = cells.remainder * (cells.side + 1);  // pixels of the larger cells
  const bool among = i < larger;
  const int cell = static_cast<int>(
      among ? cells.by_larger.quotient(static_cast<uint32_t>(i))
            : cells.remainder + cells.by_side.quotient(static_cast<uint32_t>(i - larger)));
  const int start = cell * cells.side + min(cell, cells.remainder);
  const int side = cells.side + (among ? 1 : 0);
  return {cell, static_cast<int>(nearest_source(i - start, cells.from, side))};
}

template <class Word>
__global__ void __launch_bounds__(kThreads)
    collage_kernel(const Task task, const Word* patches, Word* images) {
  int64_t* row_at = shared_memory<int64_t>();  // [kRows], from the first row of the first cell
  int64_t* column_at = row_at + kRows;         // [kColumns], from the row's first word
  const int thread = static_cast<int>(threadIdx.x);
  const unsigned plane = task.chunks.quotient(blockIdx.x);  // (label * n + image) * ch + channel
  const int y0 = static_cast<int>(blockIdx.x - plane * task.chunks.divisor) * task.rows_together;
  const int x0 = static_cast<int>(blockIdx.y) * kColumns;
  const int rows = min(task.rows_together, task.size - y0);
  const int columns = min(kColumns, task.width - x0);
  for (int y = thread; y < rows; y += kThreads) {
    const Place row = place_of(y0 + y, task.rows);
    row_at[y] = row.cell * task.factor * task.next_cell +
                row.source * static_cast<int64_t>(task.columns.from);
  }
  for (int x = thread; x < columns; x += kThreads) {
    const Place column = place_of(x0 + x, task.columns);
    column_at[x] = column.cell * task.next_cell + column.source;
  }
  __syncthreads();
  const unsigned label = task.images.quotient(task.channels.quotient(plane));
  const int64_t own = plane - label * (task.images.divisor * task.channels.divisor);
  const Word* from =
      patches + label * (task.factor * task.next_cell) * task.factor + own * task.area;
  Word* to = images + (plane * static_cast<int64_t>(task.size) + y0) * task.width + x0;
#pragma unroll 4
  for (int word = thread; word < rows * columns; word += kThreads) {
    const int y = static_cast<int>(
        columns == kColumns ? word / kColumns : task.tile.quotient(static_cast<uint32_t>(word)));
    const int x = word - y * columns;
    to[y * static_cast<int64_t>(task.width) + x] = from[row_at[y] + column_at[x]];
  }
}

Cells cells_of(int64_t size, int64_t factor, int64_t from) {
  const int64_t side = size / factor;
  return {static_cast<int>(from), static_cast<int>(side), static_cast<int>(size % factor),
          division_by(std::max<int64_t>(side, 1)), division_by(side + 1)};
}

// Bytes that are copied at once: of a pixel, or of several where no column is resized.
int64_t word_bytes(const Collage& shape, int64_t pixel, const void* patches, const void* images) {
  const int64_t row = shape.width * pixel;
  const auto places = reinterpret_cast<uintptr_t>(patches) | reinterpret_cast<uintptr_t>(images);
  if (shape.size != shape.factor * shape.width) return pixel;
  for (const int64_t word : {16, 4, 2}) {
    if (word > pixel && row % word == 0 && places % static_cast<uintptr_t>(word) == 0) return word;
  }
  return pixel;
}

template <class Word>
void launch_collage(const Collage& shape, int64_t pixel, const void* patches, void* images,
                    cudaStream_t stream) {
  const int64_t pixels = static_cast<int64_t>(sizeof(Word)) / pixel;  // of a word
  const int64_t width = shape.size / pixels;
  const int64_t tiles = (width + kColumns - 1) / kColumns;
  const int64_t tile = tiles == 1 ? width : width - (tiles - 1) * kColumns;
  const int64_t together =
      std::clamp<int64_t>(kWords / std::min<int64_t>(width, kColumns), 1, kRows);
  const int64_t chunks = (shape.size + together - 1) / together;
  const int64_t area = shape.height * (shape.width / pixels);
  const Task task = {cells_of(shape.size, shape.factor, shape.height),
                     cells_of(width, shape.factor, shape.width / pixels),
                     static_cast<int>(shape.size),
                     static_cast<int>(width),
                     static_cast<int>(shape.factor),
                     static_cast<int>(together),
                     area,
                     shape.images * shape.channels * area,
                     division_by(chunks),
                     division_by(shape.channels),
                     division_by(shape.images),
                     division_by(tile)};
  const int64_t blocks = shape.classes * shape.images * shape.channels * chunks;
  if (blocks > 0x7FFFFFFF) {
    throw std::invalid_argument("patches are too many for one call of collage on CUDA");
  }
  launch(collage_kernel<Word>, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(tiles)),
         dim3(kThreads), (kRows + kColumns) * sizeof(int64_t), stream, task,
         static_cast<const Word*>(patches), static_cast<Word*>(images));
}

}  // namespace

void collage_cuda(const View& patches, int64_t factor, const View& images, const Launch& where) {
  const DeviceGuard guard(where.device);
  const Collage shape = collage_of(patches, factor, images);
  const int64_t pixel = bytes_of(images.dtype);
  const auto run = [&](auto word) {
    launch_collage<decltype(word)>(shape, pixel, patches.data, images.data, where.stream);
  };
  switch (word_bytes(shape, pixel, patches.data, images.data)) {
    case 1:
      return run(uint8_t{});
    case 2:
      return run(uint16_t{});
    case 4:
      return run(uint32_t{});
    default:
      return run(uint4{});
  }
}

}  // namespace pydream
