// Collages on CUDA.
//
// Shapes: patches [C, n * f^2, ch, h, w], images [C, n, ch, S, S], both contiguous.
// Presumes: nothing; columns beyond kColumns go to further blocks. Limit: bandwidth, one read of
// the patches and one write of the images. A warp makes a row of an image, and the places of a
// row's pixels are found once a block, so that no division is left for a pixel.
#include <algorithm>

#include "collage/collage_cuda.h"
#include "common/launch.h"
#include "common/threads.h"

namespace pydream {
namespace {

constexpr int kColumns = 1024;
constexpr int64_t kMostBlocks = 8192;

// The cell of pixel i along one side, and its source pixel in a patch of `from` pixels.
struct Place {
  int64_t cell;
  int64_t source;
};

__device__ Place place_of(int64_t i, int64_t size, int64_t factor, int64_t from) {
  const int64_t side = size / factor;
  const int64_t large = size % factor * (side + 1);  // where cells become one pixel smaller
  const int64_t cell = i < large ? i / (side + 1) : size % factor + (i - large) / side;
  const int64_t start = cell_start(cell, size, factor);
  return {cell, nearest_source(i - start, from, cell_start(cell + 1, size, factor) - start)};
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    collage_kernel(const Collage shape, const T* patches, T* images) {
  int64_t* offsets = shared_memory<int64_t>();  // [kColumns], from the first cell's row
  const int64_t area = shape.height * shape.width;
  const int64_t next_cell = shape.images * shape.channels * area;
  const int64_t x0 = blockIdx.y * static_cast<int64_t>(kColumns);
  const int64_t columns = min(static_cast<int64_t>(kColumns), shape.size - x0);
  for (int64_t x = threadIdx.x; x < columns; x += kThreads) {
    const Place column = place_of(x0 + x, shape.size, shape.factor, shape.width);
    offsets[x] = column.cell * next_cell + column.source;
  }
  __syncthreads();
  const int64_t rows = shape.classes * shape.images * shape.channels * shape.size;
  const int64_t step = gridDim.x * static_cast<int64_t>(kWarps);
  for (int64_t at = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / 32; at < rows;
       at += step) {
    const Place row = place_of(at % shape.size, shape.size, shape.factor, shape.height);
    const int64_t plane = at / shape.size;
    const int64_t channel = plane % shape.channels;
    const int64_t image = plane / shape.channels % shape.images;
    const int64_t label = plane / shape.channels / shape.images;
    const int64_t cell = (label * shape.factor + row.cell) * shape.factor;
    const T* from = patches + cell * next_cell + (image * shape.channels + channel) * area +
                    row.source * shape.width;
    T* to = images + at * shape.size + x0;
    for (int64_t x = threadIdx.x % 32; x < columns; x += 32) to[x] = from[offsets[x]];
  }
}

template <class T>
void launch_collage(const Collage& shape, const void* patches, void* images, cudaStream_t stream) {
  const int64_t rows = shape.classes * shape.images * shape.channels * shape.size;
  const int64_t blocks = std::min((rows + kWarps - 1) / kWarps, kMostBlocks);
  const int64_t tiles = (shape.size + kColumns - 1) / kColumns;
  launch(collage_kernel<T>, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(tiles)),
         dim3(kThreads), kColumns * sizeof(int64_t), stream, shape, static_cast<const T*>(patches),
         static_cast<T*>(images));
}

}  // namespace

void collage_cuda(const View& patches, int64_t factor, const View& images, const Launch& where) {
  const DeviceGuard guard(where.device);
  const Collage shape = collage_of(patches, factor, images);
  switch (bytes_of(images.dtype)) {
    case 1:
      return launch_collage<uint8_t>(shape, patches.data, images.data, where.stream);
    case 2:
      return launch_collage<uint16_t>(shape, patches.data, images.data, where.stream);
    default:
      return launch_collage<uint32_t>(shape, patches.data, images.data, where.stream);
  }
}

}  // namespace pydream
