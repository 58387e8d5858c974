"""Differentiable siamese augmentation: the draws, and the augmentation of images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pydream import _C
from pydream.allocator import in_large_pages
from pydream.ops import _dispatch
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_at_least,
    check_device,
    check_dtype,
    check_pair,
    check_seed,
    check_shape,
    quoted,
    within_memory,
)
from pydream.ops._view import FLOATS, view
from pydream.ops.reference import augment as reference

WORDS = ("color", *reference.SPATIAL[:1], "cutout", *reference.SPATIAL[1:])
_MOST_SIDE = 2**24
"""Largest number of pixels that float32 counts exactly."""
_MOST_PIXELS = 2**31
"""Largest plane that the kernels can index, with its margin of three rows and columns."""


@within_memory
def random_augment(
    count: int,
    size: int | Sequence[int],
    strategy: str = "color_crop_cutout",
    *,
    seed: int = 0,
) -> Tensor:
    """Draw parameters for `diff_augment` from the distributions of DSA.

    | word | effect |
    |---|---|
    | ``color`` | brightness uniform in [−½, ½), saturation in [0, 2), contrast in [½, 1½) |
    | ``crop`` | a shift in x and y by whole pixels, up to an eighth of the side, zeros behind it |
    | ``flip`` | mirrored left and right, with probability ½ |
    | ``scale`` | x and y each by a factor in [1/1.2, 1.2), about the centre of the image |
    | ``rotate`` | by an angle in [−15°, 15°), about the centre of the image |
    | ``cutout`` | half of each side, about a centre that is uniform over the pixels |

    Each row has exactly one of ``crop``, ``flip``, ``scale`` and ``rotate``, and all of those named
    are equally likely. An augmentation that is not named changes nothing. Row i depends only on
    ``(seed, i)``, the size and the strategy. The CPU draws it, so every device gets the same row.

    Parameters
    ----------
    count
        Number of rows, M.
    size
        Side of the images in pixels, or height and width.
    strategy
        Words of the table, joined by ``_`` in any order.
    seed
        Random seed, in [0, 2^63).

    Returns
    -------
    Tensor
        Float32, (M, 13), on the CPU; `diff_augment` describes the columns.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        For a word that is unknown or repeated, or a number out of range.

    Notes
    -----
    Source: Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML
    2021, section 3.3; the ranges are those of the published code.
    """
    count = check_at_least(count, "count", 0)
    sides = check_pair(size, "size")
    if max(sides) > _MOST_SIDE:
        raise ValueError(f"size must be at most {_MOST_SIDE} pixels, got {quoted(size)}")
    if not isinstance(strategy, str):
        raise TypeError(f"strategy must be words joined by '_', got {type(strategy).__name__}")
    words = strategy.split("_")
    if len(set(words)) < len(words) or not set(words) <= set(WORDS):
        raise ValueError(
            f"strategy must be some of {', '.join(WORDS)}, each once, joined by '_', "
            f"got {quoted(strategy)}"
        )
    seed = check_seed(seed)
    parameters: Tensor = torch.ops.pydream.random_augment(
        count,
        sides,
        "color" in words,
        [number for number, name in enumerate(reference.SPATIAL) if name in words],
        "cutout" in words,
        seed,
    )
    return parameters


def _random_augment(
    count: int, size: Sequence[int], color: bool, spatial: Sequence[int], cutout: bool, seed: int
) -> Tensor:
    height, width = size
    rows = torch.empty(count, reference.COLUMNS, dtype=torch.float32, device="cpu")
    _C.random_augment_cpu(color, cutout, spatial, (height, width), seed, view(rows))
    return rows


def _fake_random_augment(count: int, *_: object) -> Tensor:
    return torch.empty(count, reference.COLUMNS, dtype=torch.float32, device="cpu")


_dispatch.register(
    "random_augment(SymInt count, SymInt[] size, bool color, int[] spatial, bool cutout,"
    " SymInt seed) -> Tensor",
    _random_augment,
    None,
    _random_augment,
    _fake_random_augment,
)


@within_memory
def diff_augment(x: TensorLike, parameters: TensorLike) -> Tensor:
    """Augment images by explicit parameters: colour, an affine map, cutout, in one pass.

    The columns of `parameters`, with m the mean over the channels of a pixel and M that of the
    image:

    - 0: brightness b, added
    - 1: saturation s; each pixel becomes s·(x − m) + m
    - 2: contrast c; the image becomes c·(x − M) + M, after brightness and saturation
    - 3 to 8: a, b, tx, c, d, ty; output pixel (x, y) is read at (a·x + b·y + tx, c·x + d·y + ty),
      in pixels whose centres are whole numbers; bilinear, and zero outside of the image
    - 9, 10: top and left of the cutout, in pixels; it may begin outside of the image
    - 11, 12: height and width of the cutout; pixels with top <= y < top + height and
      left <= x < left + width become 0

    0, 1, 1, then 1, 0, 0, 0, 1, 0, then four zeros leave an image unchanged. Shifts by whole pixels
    and mirrored images are exact copies.

    Differentiable in `x`, any number of times; `parameters` are constants without a gradient. The
    same parameters for a real and a synthetic batch make the augmentation siamese.

    Parameters
    ----------
    x
        Float32, float16 or bfloat16, (N, C, H, W), in any layout; arithmetic is in float32. For
        float64 images there is no kernel: PyTorch's operations process them in float64.
    parameters
        Float32, or float64 for float64 images, (M, 13), where M divides N: image i takes row
        ``i // (N / M)``. This allows one row for all images, one per image, or one per class of a
        batch sorted by class. Rows that are not finite give meaningless pixels.

    Returns
    -------
    Tensor
        (N, C, H, W), contiguous, of the dtype of `x`.

    Raises
    ------
    TypeError
        For any other dtype or type.
    ValueError
        For other shapes, two devices, or planes of 2^31 pixels and more.

    Notes
    -----
    Source: Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML
    2021.
    """
    x = as_tensor(x, "x")
    check_dtype(x, "x", *FLOATS, torch.float64)
    check_shape(x, "x", ("N", "C", "H", "W"))
    parameters = as_tensor(parameters, "parameters")
    wide = x.dtype == torch.float64
    check_dtype(parameters, "parameters", torch.float32, *[torch.float64] * wide)
    check_shape(parameters, "parameters", ("M", reference.COLUMNS))
    check_device(parameters, "parameters", x.device, "x")
    images, rows = x.shape[0], parameters.shape[0]
    if images > 0 and (rows == 0 or images % rows != 0):
        raise ValueError(f"parameters: {images} images are not a multiple of {rows} rows")
    if (x.shape[2] + 3) * (x.shape[3] + 3) >= _MOST_PIXELS:
        raise ValueError(f"x must have planes of less than 2^31 pixels, got shape {tuple(x.shape)}")
    if wide:
        return reference.diff_augment(x, parameters)
    augmented: Tensor = torch.ops.pydream.diff_augment(x, parameters)
    return augmented


def _result(x: Tensor, parameters: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _run(kernel: Callable[..., None], x: Tensor, parameters: Tensor, *rest: Any) -> Tensor:
    x, parameters = x.contiguous(), parameters.contiguous()
    result = in_large_pages(_result(x, parameters))
    if x.numel() > 0:
        kernel(view(x), view(parameters), view(result), *rest)
    return result


def _on_cpu(x: Tensor, parameters: Tensor, *, adjoint: bool) -> Tensor:
    return _run(_C.diff_augment_cpu, x, parameters, adjoint, torch.get_num_threads())


def _on_cuda(launch: _dispatch.Launch, x: Tensor, parameters: Tensor, *, adjoint: bool) -> Tensor:
    return _run(launch.module.diff_augment, x, parameters, adjoint, launch)


def _keep_parameters(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    return torch.ops.pydream.diff_augment_adjoint(upstream, *ctx.saved_tensors), None


def _backward_of_adjoint(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    linear = ctx.saved_tensors[0].clone()
    linear[:, reference.BRIGHTNESS] = 0.0
    return torch.ops.pydream.diff_augment(upstream, linear), None


for _name, _adjoint, _plain, _gradient in (
    ("diff_augment", False, reference.diff_augment, _backward),
    ("diff_augment_adjoint", True, reference.diff_augment_adjoint, _backward_of_adjoint),
):
    _dispatch.register(
        f"{_name}(Tensor x, Tensor parameters) -> Tensor",
        functools.partial(_on_cpu, adjoint=_adjoint),
        functools.partial(_on_cuda, adjoint=_adjoint),
        _plain,
        _result,
        gradient=(_keep_parameters, _gradient),
    )
