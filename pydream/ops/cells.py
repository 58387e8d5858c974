"""Cells that match their anchors: the least-squares answer to the way students see a cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydream import _C
from pydream.allocator import in_large_pages
from pydream.ops import _dispatch
from pydream.ops._checks import TensorLike, check_pair, within_memory
from pydream.ops._images import check_crops, check_pixel_dtype
from pydream.ops._view import view, view_or_none
from pydream.ops.crop import crop_on_cuda
from pydream.ops.reference import cells as reference

_MOST_ENLARGED = 8192
"""Longest side of an enlarged cell; shared memory of a GPU holds no longer line."""


@within_memory
def matched_cells(
    images: TensorLike | Sequence[TensorLike],
    boxes: TensorLike,
    size: int | Sequence[int],
    enlarged: int | Sequence[int],
    *,
    inside: int | Sequence[int] | None = None,
    image_index: TensorLike | None = None,
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    """Cut boxes out of images, and find for each the cell whose enlargement is nearest to it.

    The anchor of a box is the patch that `pydream.ops.crop_resize` makes of it at the side
    `enlarged`. Students see a cell enlarged to that side, as `pydream.ops.multi_formation` does it:
    ``U @ cell @ U.T`` for a matrix U of bilinear weights. The cell that comes nearest to the anchor
    in the sum of squares is ``pinv(U) @ anchor @ pinv(U).T``; a shrunken anchor is not. Cells are
    clamped to [0, 1]. (The nearest cell *within* [0, 1] would lower the error of 400 CIFAR-10
    images by a further 0.7 % at most, which does not pay for the iterations that find it.)

    Parameters
    ----------
    images
        uint8, (H, W, C) each, with one C from 1 to 4 and sizes of their own; or one batch
        (N, H, W, C). As in `crop_resize`.
    boxes
        int32 or int64, (P, 4): top, left, height and width within the image, in pixels.
    size
        Side of a cell, or its height and width.
    enlarged
        Side of an enlarged cell, or its height and width; at least `size`.
    inside
        Rows and columns of a cell that are inside its image, where `factor` does not divide the
        image's side; beyond them `multi_formation` sees 0.5, and so does this op. By default all.
    image_index
        int32 or int64, (P,): the image of each box. By default P must be a multiple of N, and box p
        is in image ``p // (P / N)``.
    dtype
        float32, float16 or bfloat16, in [0, 1]; or uint8, from 0 to 255, rounded to the nearest.

    Returns
    -------
    Tensor
        (P, C, height, width) of what is inside, on the device of the images. In the meantime a GPU
        holds all anchors, and each of their columns at the height of a cell: 6 bytes for each value
        of an anchor where cells are doubled.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape, stride or device does not fit, a box is empty or not inside its image, an image
        index is out of range, a cell is larger than its enlargement, or that is larger than 8192
        pixels; for a list of images while a CUDA graph is captured, which one batch of them
        can be.
    """
    pictures, boxes, image_index = check_crops(images, boxes, image_index)
    cell, anchor = check_pair(size, "size"), check_pair(enlarged, "enlarged")
    if anchor[0] < cell[0] or anchor[1] < cell[1]:
        raise ValueError(f"enlarged {tuple(anchor)} is smaller than size {tuple(cell)}")
    if max(anchor) > _MOST_ENLARGED:
        raise ValueError(f"enlarged must be at most {_MOST_ENLARGED} pixels, got {max(anchor)}")
    kept = cell if inside is None else check_pair(inside, "inside")
    if kept[0] > cell[0] or kept[1] > cell[1]:
        raise ValueError(f"inside {tuple(kept)} is larger than size {tuple(cell)}")
    check_pixel_dtype(dtype)
    cells: Tensor = torch.ops.pydream.matched_cells(
        pictures, boxes, image_index, cell, anchor, kept, dtype
    )
    return cells


def _empty_cells(
    images: list[Tensor],
    boxes: Tensor,
    image_index: Tensor | None,
    size: Sequence[int],
    enlarged: Sequence[int],
    inside: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    shape = (boxes.shape[0], images[0].shape[-1], *inside)
    return torch.empty(shape, dtype=dtype, device=boxes.device)


def _cpu_matched_cells(
    images: list[Tensor],
    boxes: Tensor,
    image_index: Tensor | None,
    size: Sequence[int],
    enlarged: Sequence[int],
    inside: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    out = in_large_pages(_empty_cells(images, boxes, image_index, size, enlarged, inside, dtype))
    if out.numel() == 0:
        return out
    boxes = boxes.to(torch.int64).contiguous()
    image_index = None if image_index is None else image_index.to(torch.int64).contiguous()
    _C.matched_cells_cpu(
        [view(image) for image in images],
        view(boxes),
        view_or_none(image_index),
        (size[0], size[1]),
        (enlarged[0], enlarged[1]),
        view(out),
        torch.get_num_threads(),
    )
    return out


def _cuda_matched_cells(
    launch: _dispatch.Launch,
    images: list[Tensor],
    boxes: Tensor,
    image_index: Tensor | None,
    size: Sequence[int],
    enlarged: Sequence[int],
    inside: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    out = _empty_cells(images, boxes, image_index, size, enlarged, inside, dtype)
    patches, channels = out.shape[:2]
    if out.numel() == 0:
        return out
    anchors, turned = (
        torch.empty((patches, channels, *plane), dtype=torch.float32, device=boxes.device)
        for plane in (enlarged, (enlarged[1], inside[0]))
    )
    length = 2 * max(size) + max(enlarged)
    tables = torch.empty((2, length, 4), dtype=torch.float32, device=boxes.device)
    side, less_half = (enlarged[0], enlarged[1]), ([1 / 255] * channels, [-0.5] * channels)
    crop_on_cuda(launch, images, boxes, image_index, None, side, less_half, anchors)
    launch.module.match_cells(
        view(anchors),
        (size[0], size[1]),
        view(turned),
        view(tables),
        view(out),
        launch,
    )
    return out


_dispatch.register(
    "matched_cells(Tensor[] images, Tensor boxes, Tensor? image_index, SymInt[] size, "
    "SymInt[] enlarged, SymInt[] inside, ScalarType dtype) -> Tensor",
    _cpu_matched_cells,
    _cuda_matched_cells,
    reference.matched_cells,
    _empty_cells,
)
