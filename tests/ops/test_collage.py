from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from devices import (
    DEVICE,
    NOT_ON_CPU,
    NOT_ON_FIBERS,
    as_called,
    kernels,
    place,
    without_memory,
)

from pydream import ops
from pydream.ops import reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.uint8]

CASES = [
    # classes, images, factor, channels, height, width, size
    (2, 3, 2, 3, 4, 4, 8),  # cells fit
    (1, 1, 1, 1, 1, 1, 1),
    (3, 2, 1, 3, 5, 7, 5),  # only the columns are resized
    (2, 2, 1, 3, 7, 5, 5),  # only the rows are resized
    (2, 2, 2, 3, 5, 5, 11),  # remainder: cells of 6 and 5
    (1, 2, 3, 2, 4, 4, 14),  # remainder 2: cells of 5, 5, 4
    (2, 1, 2, 3, 8, 8, 32),  # doubled
    (1, 3, 2, 3, 19, 23, 16),  # shrunk
    (1, 1, 5, 1, 1, 1, 111),
    (1, 1, 3, 3, 111, 19, 3),  # cells of one pixel
    (2, 2, 2, 3, 112, 112, 224),  # more than one thread's piece
    (1, 1, 2, 1, 8, 600, 1200),  # columns fit, in rows longer than those of a GPU's block
    (1, 1, 2, 1, 3, 5, 1201),
]


def random_patches(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, shape, generator=generator).to(dtype)


def loop_collage(patches: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    """RDED's step 5 word for word, one patch at a time."""
    classes, ranked, channels = patches.shape[:3]
    images = ranked // factor**2
    heights = [size // factor + (1 if k < size % factor else 0) for k in range(factor)]
    result = torch.zeros(classes, images, channels, size, size, dtype=patches.dtype)
    for c in range(classes):
        for i in range(images):
            top = 0
            for row in range(factor):
                left = 0
                for column in range(factor):
                    patch = patches[c, (row * factor + column) * images + i]
                    cell = (heights[row], heights[column])
                    resized = F.interpolate(patch[None].double(), cell, mode="nearest")[0]
                    bottom, right = top + cell[0], left + cell[1]
                    result[c, i, :, top:bottom, left:right] = resized.to(patches.dtype)
                    left = right
                top += heights[row]
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_is_the_loop_over_cells(case: tuple[int, ...], dtype: torch.dtype) -> None:
    classes, images, factor, channels, height, width, size = case
    patches = random_patches((classes, images * factor**2, channels, height, width), dtype)
    found = ops.collage(patches, factor, size)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert found.equal(loop_collage(patches, factor, size))
    assert reference.collage.collage(patches, factor, size).equal(found)


@pytest.mark.parametrize("width", [16, 12, 6])
@pytest.mark.parametrize("offset", [0, 1, 2, 4, 8])
def test_patches_begin_at_any_byte(width: int, offset: int) -> None:
    """A GPU copies words of up to 16 bytes where patches allow it."""
    shape = (2, 8, 3, 5, width)
    patches = torch.zeros(math.prod(shape) + offset, dtype=torch.uint8)[offset:].view(shape)
    patches.copy_(random_patches(shape, torch.uint8))
    found = ops.collage(patches, 2, 2 * width)
    assert found.equal(loop_collage(patches, 2, 2 * width))


def test_nearest_neighbour_is_torchs_for_every_pair_of_sides() -> None:
    for source in range(1, 71, 3 if DEVICE == "cuda-on-cpu" else 1):
        line = torch.arange(source, dtype=torch.float32).view(1, 1, 1, 1, source)
        for side in range(1, 91):
            patches = line.expand(1, 1, 1, source, source).contiguous()
            expected = F.interpolate(patches[0], (side, side), mode="nearest")
            assert ops.collage(patches, 1, side)[0].equal(expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_patch_an_image_is_the_identity(dtype: torch.dtype) -> None:
    patches = random_patches((3, 4, 3, 9, 9), dtype)
    assert ops.collage(patches, 1, 9).equal(patches)


def test_every_pixel_comes_from_the_stated_patch() -> None:
    classes, images, factor, side = 2, 5, 3, 4
    shape = (classes, images * factor**2, 3, side, side)
    patches = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    found = ops.collage(patches, factor, factor * side)
    for c in range(classes):
        for i in range(images):
            for k in range(factor**2):
                top, left = k // factor * side, k % factor * side
                cell = found[c, i, :, top : top + side, left : left + side]
                assert cell.equal(patches[c, k * images + i])
    assert found.flatten().sort().values.equal(patches.flatten())  # each pixel exactly once


def test_any_number_of_threads_gives_the_same() -> None:
    patches = random_patches((3, 8, 3, 50, 50))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ops.collage(patches, 2, 125)
        for threads in (2, 5):
            torch.set_num_threads(threads)
            assert ops.collage(patches, 2, 125).equal(alone)
    finally:
        torch.set_num_threads(before)


def test_numpy_through_dlpack() -> None:
    patches = random_patches((1, 4, 3, 5, 5), torch.uint8)
    found = ops.collage(patches.numpy(), 2, 11)
    assert isinstance(found, torch.Tensor)
    assert found.equal(ops.collage(patches, 2, 11))


@pytest.mark.parametrize("shape", [(0, 4, 3, 5, 5), (2, 0, 3, 5, 5), (2, 4, 0, 5, 5)])
def test_empty(shape: tuple[int, ...]) -> None:
    patches = torch.empty(shape)
    expected = (shape[0], shape[1] // 4, shape[2], 12, 12)
    assert ops.collage(patches, 2, 12).shape == expected
    assert reference.collage.collage(patches, 2, 12).shape == expected


PATCHES = torch.zeros(2, 4, 3, 5, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 2, 8), TypeError, r"^patches must be a tensor or speak DLPack, got list"),
        ((PATCHES.double(), 2, 8), TypeError, r"^patches must be float32 .*, got float64"),
        ((PATCHES[0], 2, 8), ValueError, r"^patches must have shape .*, got \(4, 3, 5, 5\)"),
        ((PATCHES[:, :3], 2, 8), ValueError, r"multiple of factor\*\*2 = 4.*\(2, 3, 3, 5, 5\)"),
        ((PATCHES.mT, 2, 8), ValueError, r"^patches must be contiguous, got strides .*\.contig"),
        ((PATCHES[..., :0], 2, 8), ValueError, r"^patches must have pixels"),
        ((PATCHES, 0, 8), ValueError, r"^factor must be at least 1, got 0"),
        ((PATCHES, 2.0, 8), TypeError, r"^factor must be an int, got float"),
        ((PATCHES, 2, 1), ValueError, r"^size must be at least factor = 2, got 1"),
        ((PATCHES, 1, 0), ValueError, r"^size must be at least 1, got 0"),
        ((PATCHES, 2, "8"), TypeError, r"^size must be an int, got str"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.collage(*arguments)


@NOT_ON_FIBERS
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    patches = place(random_patches((2, 4, 3, 5, 5), dtype))
    torch.library.opcheck(torch.ops.pydream.collage, (patches, 2, 11))


@NOT_ON_FIBERS
def test_compiles_whole() -> None:
    collage = as_called("collage")

    def halved(patches: torch.Tensor) -> torch.Tensor:
        framed: torch.Tensor = collage(patches / 2, 2, 11) + 1
        return framed

    compiled = torch.compile(halved, fullgraph=True, backend="aot_eager", dynamic=True)
    for classes in (2, 3):
        patches = place(random_patches((classes, 8, 3, 5, 5)))
        assert compiled(patches).equal(halved(patches))


@NOT_ON_CPU
@pytest.mark.parametrize("shape", [(1 << 31, 1, 1, 1, 1), (1 << 11, 1 << 10, 1 << 10, 1, 1)])
def test_more_patches_than_a_launch_has_blocks(shape: tuple[int, ...]) -> None:
    module, launch = kernels()
    described = without_memory(shape, torch.uint8)
    with pytest.raises(ValueError, match=r"^patches are too many for one call of collage on CUDA"):
        module.collage(described, 1, described, launch)
