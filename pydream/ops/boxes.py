"""Random boxes and random keys, each a function of a seed and an identity alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pydream import _C
from pydream.ops import _dispatch
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_at_least,
    check_device,
    check_dtype,
    check_numbers,
    check_seed,
    check_shape,
    quoted,
    within_memory,
)
from pydream.ops._view import view


@within_memory
def random_crop_boxes(
    sizes: TensorLike,
    num_crops: int,
    *,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (1.0, 1.0),
    seed: int = 0,
    ids: TensorLike | None = None,
) -> Tensor:
    """Draw boxes with the distribution of torchvision's RandomResizedCrop.

    Up to ten tries draw an area, uniform in `scale`, and a ratio, log-uniform in `ratio`; the first
    box that fits the image gets a uniform position. If none fits, the result is the largest central
    box whose ratio is within bounds. RDED (arXiv 2312.03526, section 3.2) takes square boxes.

    Box ``(n, m)`` depends only on ``(seed, ids[n], m, sizes[n])``, so it is the same in any batch
    and on any rank. The boxes are drawn on the CPU.

    Parameters
    ----------
    sizes
        Int32 or int64, (N, 2): height and width of each image, in pixels.
    num_crops
        Number of boxes per image, M.
    scale
        Lowest and highest share of the image's area.
    ratio
        Lowest and highest ratio of width to height.
    seed
        Random seed, in [0, 2^63).
    ids
        Int64, (N,): the identity of each image; by default its position.

    Returns
    -------
    Tensor
        Int32, (N, M, 4): top, left, height, width; on the device of `sizes`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape does not fit, an image is empty, or a range is not positive and ascending.
    """
    sizes = as_tensor(sizes, "sizes")
    check_dtype(sizes, "sizes", torch.int32, torch.int64)
    check_shape(sizes, "sizes", ("N", 2))
    num_crops = check_at_least(num_crops, "num_crops", 0)
    seed = check_seed(seed)
    if ids is not None:
        ids = as_tensor(ids, "ids")
        check_dtype(ids, "ids", torch.int64)
        check_shape(ids, "ids", (sizes.shape[0],))
        check_device(ids, "ids", sizes.device, "sizes")
    boxes: Tensor = torch.ops.pydream.random_crop_boxes(
        sizes, num_crops, _check_range(scale, "scale"), _check_range(ratio, "ratio"), seed, ids
    )
    return boxes


@within_memory
def random_keys(ids: TensorLike, *, seed: int = 0, draw: int = 0) -> Tensor:
    """Draw one random key per identity; sorting by the keys shuffles without replacement.

    A key depends only on ``(seed, draw, id)``, so the other images do not change it.

    Parameters
    ----------
    ids
        Int64, (N,): the identity of each image.
    seed
        Random seed, in [0, 2^63).
    draw
        Number of an independent draw from this seed, in [0, 2^32).

    Returns
    -------
    Tensor
        Int64, (N,), uniform in [0, 2^63); on the device of `ids`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If `ids` is not one-dimensional, or `seed` or `draw` out of range.
    """
    ids = as_tensor(ids, "ids")
    check_dtype(ids, "ids", torch.int64)
    check_shape(ids, "ids", ("N",))
    seed = check_seed(seed)
    draw = check_at_least(draw, "draw", 0)
    if draw >= 2**32:
        raise ValueError(f"draw must be below 2^32, got {draw}")
    keys: Tensor = torch.ops.pydream.random_keys(ids, seed, draw)
    return keys


def _check_range(value: Sequence[float], name: str) -> list[float]:
    """Return a positive, ascending pair."""
    pair = check_numbers(value, name)
    if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
        raise ValueError(f"{name} must be two positive numbers, lowest first, got {quoted(value)}")
    return pair


def _random_crop_boxes(
    sizes: Tensor,
    num_crops: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    seed: int,
    ids: Tensor | None,
) -> Tensor:
    """Draw on the CPU, return on the device of `sizes`."""
    extent = sizes.to("cpu", torch.int64).contiguous()
    count = extent.shape[0]
    identities = torch.arange(count, device="cpu") if ids is None else ids.cpu().contiguous()
    boxes = torch.empty((count, num_crops, 4), dtype=torch.int32, device="cpu")
    threads = torch.get_num_threads()
    _C.random_crop_boxes_cpu(
        view(extent), view(identities), (scale[0], scale[1]), (ratio[0], ratio[1]), seed,
        view(boxes), threads,
    )  # fmt: skip
    return boxes.to(sizes.device)


def _fake_random_crop_boxes(sizes: Tensor, num_crops: int, *_: Any) -> Tensor:
    return sizes.new_empty((sizes.shape[0], num_crops, 4), dtype=torch.int32)


def _random_keys(ids: Tensor, seed: int, draw: int) -> Tensor:
    """Draw on the CPU, return on the device of `ids`."""
    identities = ids.cpu().contiguous()
    keys = torch.empty_like(identities)
    _C.random_keys_cpu(view(identities), seed, draw, view(keys), torch.get_num_threads())
    return keys.to(ids.device)


def _fake_random_keys(ids: Tensor, seed: int, draw: int) -> Tensor:
    return torch.empty_like(ids, memory_format=torch.contiguous_format)


_dispatch.register(
    "random_crop_boxes(Tensor sizes, SymInt num_crops, float[] scale, float[] ratio, SymInt seed,"
    " Tensor? ids) -> Tensor",
    _random_crop_boxes,
    None,
    _random_crop_boxes,
    _fake_random_crop_boxes,
)
_dispatch.register(
    "random_keys(Tensor ids, SymInt seed, SymInt draw) -> Tensor",
    _random_keys,
    None,
    _random_keys,
    _fake_random_keys,
)
