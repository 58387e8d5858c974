from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices import faulty_place, place

from pydream import ops
from pydream.ops import reference

# cell, enlargement: (rows, columns) each.
SIZES = [
    ((1, 1), (1, 1)),
    ((1, 3), (5, 3)),
    ((2, 2), (3, 4)),
    ((3, 5), (4, 11)),
    ((11, 11), (32, 32)),
    ((16, 16), (32, 32)),
    ((17, 33), (35, 67)),
    ((9, 7), (70, 9)),
    ((56, 20), (112, 61)),
    ((5, 3), (800, 17)),  # longer than what a block of a GPU holds of 32 columns
]
# float32 sums of some hundred products of values below one, times the largest condition number of
# U^T U among these sizes, some 200 for 7 pixels enlarged to 9.
CLOSE = 2e-5
# float16 and bfloat16 have 11 and 8 bits; float32 sums move few values over a byte's edge.
ROUNDING = {torch.float32: CLOSE, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.uint8: 1.0}


def random_images(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height + width)
    smooth = torch.rand(count, channels, 4, 5, generator=generator)
    noise = torch.rand(count, channels, height, width, generator=generator)
    images = F.interpolate(smooth, (height, width), mode="bicubic") * 0.8 + noise * 0.2
    return (images.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).contiguous()


def enlarge(cells: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(cells, size, mode="bilinear", align_corners=False)


def by_pseudo_inverse(
    anchors: torch.Tensor, size: tuple[int, int], inside: tuple[int, int]
) -> torch.Tensor:
    """Solve the least squares of each cell as one dense problem; pixels outside are 0.5."""
    enlarged = (anchors.shape[-2], anchors.shape[-1])
    units = torch.zeros(inside[0] * inside[1], 1, *size, dtype=torch.float64)
    units[:, 0, : inside[0], : inside[1]] = torch.eye(len(units), dtype=torch.float64).view(
        -1, *inside
    )
    matrix = enlarge(units, enlarged).flatten(1).T
    wanted = anchors.double().flatten(2).reshape(-1, enlarged[0] * enlarged[1]).T - 0.5
    found: torch.Tensor = torch.linalg.lstsq(matrix, wanted).solution.T + 0.5
    return found.reshape(*anchors.shape[:2], *inside).clamp(0, 1)


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize(("size", "enlarged"), SIZES)
def test_is_the_least_squares_cell(
    size: tuple[int, int], enlarged: tuple[int, int], dtype: torch.dtype
) -> None:
    images = random_images(2, 40, 50)
    boxes = torch.tensor([[0, 0, 40, 50], [3, 5, 30, 31], [10, 20, 1, 1], [39, 0, 1, 50]])
    found = ops.matched_cells(images, boxes, size, enlarged, dtype=dtype)
    assert found.dtype == dtype
    assert found.shape == (4, 3, *size)
    anchors = reference.crop.crop_resize(
        [images],
        boxes,
        enlarged,
        torch.tensor([0, 0, 1, 1]),
        None,
        enlarged,
        None,
        None,
        torch.float32,
        False,
    )
    rows, columns = (
        np.linalg.pinv(
            enlarge(torch.eye(small).double()[:, None, :, None], (large, 1))[:, 0, :, 0].T.numpy()
        )
        for small, large in zip(size, enlarged, strict=True)
    )
    cells = np.clip(rows @ anchors.double().numpy() @ columns.T, 0, 1)
    expected = torch.from_numpy(cells) * (255 if dtype == torch.uint8 else 1)
    assert (found.double() - expected).abs().max() <= ROUNDING[dtype]
    if dtype == torch.uint8:
        assert (found.double() - expected).abs().max() <= 0.5 + 255 * CLOSE


@pytest.mark.parametrize("inside", [(5, 5), (3, 5), (5, 2), (1, 4), (1, 1)])
def test_what_is_outside_counts_as_grey(inside: tuple[int, int]) -> None:
    images = random_images(3, 20, 24)
    boxes = torch.tensor([[0, 0, 20, 24], [2, 3, 15, 15], [5, 5, 9, 12]])
    found = ops.matched_cells(images, boxes, 5, 13, inside=inside, dtype=torch.float32)
    anchors = ops.crop_resize(images, boxes, 13)
    assert found.shape == (3, 3, *inside)
    torch.testing.assert_close(
        found.double(), by_pseudo_inverse(anchors, (5, 5), inside), rtol=0, atol=CLOSE
    )


def test_no_cell_is_nearer() -> None:
    """An oracle without linear algebra: random changes never lower the error."""
    images = random_images(4, 32, 32)
    boxes = torch.tensor([[0, 0, 32, 32]] * 4)
    anchors = ops.crop_resize(images, boxes, 24).double() * 0.5 + 0.25
    grey = (anchors.permute(0, 2, 3, 1) * 255).round().byte().contiguous()
    whole = torch.tensor([[0, 0, 24, 24]] * 4)
    cells = ops.matched_cells(grey, whole, 9, 24, dtype=torch.float32).double()
    assert cells.min() > 0  # or the clamp, and no least squares
    assert cells.max() < 1
    wanted = grey.permute(0, 3, 1, 2).double() / 255

    def error(candidates: torch.Tensor) -> torch.Tensor:
        return (enlarge(candidates, (24, 24)) - wanted).square().sum((1, 2, 3))

    least = error(cells)
    shrunk = F.interpolate(wanted, (9, 9), mode="bilinear", antialias=True)
    assert (error(shrunk) > 1.05 * least).all()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        step = torch.randn(cells.shape, generator=generator, dtype=torch.float64) * 1e-3
        assert (error(cells + step) > least).all()


def test_multi_formation_gives_back_what_was_enlarged() -> None:
    """An anchor that is an enlarged cell already is met, whatever the cell."""
    cells = random_images(4, 16, 16).permute(0, 3, 1, 2).float() / 255
    anchors = ops.multi_formation(cells, 2, 16)  # cells of 8, enlarged to 16
    grey = (anchors * 255).round().byte().permute(0, 2, 3, 1).contiguous()
    found = ops.matched_cells(grey, torch.tensor([[0, 0, 16, 16]] * 16), 8, 16, dtype=torch.float32)
    quarters = torch.cat([row for half in cells.chunk(2, -2) for row in half.chunk(2, -1)])
    # Bytes are half a level off; the smallest singular value of U is 1 / sqrt(2), along each axis.
    assert (found - quarters).abs().max() <= 4 * 0.5 / 255 + CLOSE


def test_a_cell_as_large_as_its_anchor_is_the_crop() -> None:
    images = random_images(2, 30, 20)
    boxes = torch.tensor([[1, 2, 20, 15], [0, 0, 30, 20]])
    found = ops.matched_cells(images, boxes, (12, 9), (12, 9), dtype=torch.float32)
    torch.testing.assert_close(found, ops.crop_resize(images, boxes, (12, 9)), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_list_of_images_of_all_sizes(channels: int) -> None:
    shapes = [(30, 40), (7, 5), (1, 9), (64, 64)]
    images = [random_images(1, *shape, channels)[0] for shape in shapes]
    boxes = torch.tensor([[0, 0, *shapes[index]] for index in (3, 0, 1, 2, 0)])
    index = torch.tensor([3, 0, 1, 2, 0])
    found = ops.matched_cells(images, boxes, 10, 23, image_index=index)
    for row, image in enumerate(index.tolist()):
        alone = ops.matched_cells([images[image]], boxes[row : row + 1], 10, 23)
        assert found[row].equal(alone[0])


def test_no_boxes_give_no_cells() -> None:
    none = ops.matched_cells(torch.zeros(0, 4, 4, 3).byte(), torch.zeros(0, 4).long(), 2, 4)
    assert none.shape == (0, 3, 2, 2)


def test_the_reference_agrees() -> None:
    images = random_images(2, 33, 21)
    boxes = torch.tensor([[0, 0, 33, 21], [4, 4, 20, 10]])
    found = ops.matched_cells(images, boxes, (7, 6), (20, 19), inside=(7, 4), dtype=torch.float32)
    expected = reference.cells.matched_cells(
        [images], boxes, None, (7, 6), (20, 19), (7, 4), torch.float32
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"enlarged": 7}, r"enlarged \(7, 7\) is smaller than size \(8, 8\)"),
    ({"enlarged": (8, 7)}, r"enlarged \(8, 7\) is smaller"),
    ({"inside": 9}, r"inside \(9, 9\) is larger than size \(8, 8\)"),
    ({"size": 0}, "size must be at least 1"),
    ({"inside": 0}, "inside must be at least 1"),
    ({"boxes": torch.tensor([[0, 0, 0, 3], [0, 0, 3, 3]])}, r"boxes\[0\] = .* is empty"),
    ({"boxes": torch.tensor([[0, 0, 3, 3], [0, 0, 21, 3]])}, r"boxes\[1\] = .* not inside"),
    ({"image_index": torch.tensor([0, 2])}, r"image_index\[1\] = 2 is out of range"),
    ({"boxes": torch.tensor([[0, 0, 3, 3]])}, "1 boxes are not a multiple of 2 images"),
]


@pytest.mark.parametrize(("changed", "words"), BAD)
def test_bad_values_are_named(changed: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {
        "images": random_images(2, 20, 20),
        "boxes": torch.tensor([[0, 0, 20, 20], [0, 0, 5, 5]]),
        "size": 8,
        "enlarged": 16,
        **changed,
    }
    with pytest.raises(ValueError, match=faulty_place(words)):
        ops.matched_cells(**arguments)


def test_a_dtype_that_holds_no_pixels_is_refused() -> None:
    images, boxes = random_images(1, 8, 8), torch.tensor([[0, 0, 8, 8]])
    with pytest.raises(TypeError, match="float32, float16, bfloat16 or uint8, got int64"):
        ops.matched_cells(images, boxes, 4, 8, dtype=torch.int64)


def test_a_side_beyond_the_kernels_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="enlarged must be at most 8192 pixels, got 8193"):
        ops.matched_cells(random_images(1, 4, 4), torch.tensor([[0, 0, 4, 4]]), 2, (8193, 2))


def test_threads_do_not_change_a_byte() -> None:
    images = place(random_images(40, 48, 48))
    boxes = place(torch.tensor([[0, 0, 48, 48]] * 40))
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(ops.matched_cells(images, boxes, 16, 32))
    finally:
        torch.set_num_threads(threads)
    assert found[0].equal(found[1])
