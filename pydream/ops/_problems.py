"""Several problems in one call, for the ops of k-means: arguments, checked and flattened."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_at_least,
    check_device,
    check_dtype,
    check_no_gradient,
    check_shape,
)
from pydream.ops._view import FLOATS
from pydream.streams import capturing, to_device

Counts: TypeAlias = int | Sequence[int]
"""One number for all problems, or a number for each."""


class Problems(NamedTuple):
    """Samples of all problems in one matrix."""

    x: Tensor  # (total, D), contiguous
    offsets: list[int]  # B + 1
    shape: tuple[int, ...]  # of the labels
    single: bool  # one problem, without a batch dimension


def check_samples(value: TensorLike, offsets: Sequence[int] | TensorLike | None) -> Problems:
    x = as_tensor(value, "x")
    if not x.dtype.is_floating_point:
        raise ValueError(f"x must be floating point, got {str(x.dtype).removeprefix('torch.')}")
    check_dtype(x, "x", *FLOATS, torch.float64)
    check_no_gradient(x, "x")
    if x.dim() > 0 and x.shape[-1] < 1:
        raise ValueError(f"x must have at least one dimension, got shape {tuple(x.shape)}")
    if offsets is not None:
        check_shape(x, "x", ("total", "D"))
        bounds = check_offsets(offsets, x.shape[0])
        problems = Problems(x.contiguous(), bounds, (x.shape[0],), single=False)
    elif x.dim() == 2:
        problems = Problems(x.contiguous(), [0, x.shape[0]], (x.shape[0],), single=True)
    elif x.dim() == 3:
        batch, samples, dim = x.shape
        if samples < 1 <= batch:
            raise ValueError(f"x must have samples of each problem, got shape {tuple(x.shape)}")
        flat = x.reshape(batch * samples, dim).contiguous()
        bounds = [problem * samples for problem in range(batch + 1)]
        problems = Problems(flat, bounds, (batch, samples), single=False)
    else:
        raise ValueError(f"x must have shape (N, D) or (B, N, D), got {tuple(x.shape)}")
    return problems


def check_offsets(value: Sequence[int] | TensorLike, total: int) -> list[int]:
    offsets = value if isinstance(value, (list, tuple)) else as_tensor(value, "offsets")
    if isinstance(offsets, Tensor):
        check_dtype(offsets, "offsets", torch.int64, torch.int32)
        check_shape(offsets, "offsets", ("B + 1",))
        offsets = offsets.tolist()
    bounds = [check_at_least(offset, "offsets", 0) for offset in offsets]
    if not bounds or bounds[0] != 0:
        raise ValueError(f"offsets must start at 0, got {bounds[:1]}")
    for b, (begin, end) in enumerate(itertools.pairwise(bounds)):
        if end < begin:
            raise ValueError(f"offsets must rise, but {begin} is followed by {end} at {b + 1}")
        if end == begin:
            raise ValueError(f"offsets leave problem {b} without samples: {begin} to {end}")
    if bounds[-1] != total:
        raise ValueError(f"offsets must end at the rows of x, {total}, got {bounds[-1]}")
    return bounds


def check_counts(k: Counts, problems: Problems, *, of_samples: bool = True) -> list[int]:
    """Return k of every problem; with `of_samples`, at most the number of its samples."""
    batch = len(problems.offsets) - 1
    if isinstance(k, (Tensor, np.ndarray)):
        tensor = as_tensor(k, "k")
        check_dtype(tensor, "k", torch.int64, torch.int32)
        check_shape(tensor, "k", ("B",))
        k = tensor.tolist()
    if isinstance(k, (list, tuple)):
        if problems.single:
            raise TypeError("k must be an int for one problem, got a sequence")
        if len(k) != batch:
            raise ValueError(f"k must be one number or {batch}, one for each problem, got {len(k)}")
        counts = [check_at_least(count, "k", 1) for count in k]
    else:
        counts = [check_at_least(k, "k", 1)] * batch
    sizes = [end - begin for begin, end in itertools.pairwise(problems.offsets)]
    for b, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        if of_samples and count > size:
            of = "" if problems.single else f" of problem {b}"
            raise ValueError(f"k must be at most the number of samples{of}, {size}, got {count}")
    return counts


def one_for_all(k: Counts) -> bool:
    """Return whether k is one number for all problems."""
    return not isinstance(k, (list, tuple, Tensor, np.ndarray))


def centroid_shape(k: Counts, counts: list[int], problems: Problems) -> tuple[int, ...]:
    dim = problems.x.shape[1]
    if problems.single:
        return counts[0], dim
    if one_for_all(k):
        return len(counts), cast(int, k), dim
    return sum(counts), dim


def check_centroids(
    value: TensorLike, name: str, shape: tuple[int, ...], problems: Problems
) -> Tensor:
    """Return (sum of k, D) contiguous centroids: float32, or float64 for float64 samples."""
    centroids = as_tensor(value, name)
    check_shape(centroids, name, shape)
    wide = problems.x.dtype == torch.float64
    check_dtype(centroids, name, *FLOATS, *[torch.float64] * wide)
    check_no_gradient(centroids, name)
    check_device(centroids, name, problems.x.device, "x")
    centroids = centroids.double() if wide else centroids.float()
    return centroids.reshape(-1, shape[-1]).contiguous()


def check_weights(value: TensorLike, problems: Problems) -> Tensor:
    """Return (total,) weights in float64."""
    weights = as_tensor(value, "weights")
    check_shape(weights, "weights", problems.shape)
    check_dtype(weights, "weights", *FLOATS, torch.float64)
    check_no_gradient(weights, "weights")
    check_device(weights, "weights", problems.x.device, "x")
    return weights.double().reshape(-1).contiguous()


def check_weight_values(weights: Tensor, name: str, offsets: list[int]) -> None:
    """Raise ValueError unless weights are finite, not negative, and not all zero in a problem."""
    bad = (~(weights >= 0) | weights.isinf()).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"{name} must be finite and not negative, got {float(weights[row])} at row {row}"
        )
    for b, (begin, end) in enumerate(itertools.pairwise(offsets)):
        if not weights[begin:end].any():
            where = f", but are in problem {b}" if offsets[2:] else ""
            raise ValueError(f"{name} must not all be zero{where}")


def per_centroid(values: list[int], counts: list[int], device: torch.device) -> Tensor:
    """Repeat the number of each problem for each of its centroids: int64 (sum of counts,).

    If all counts are equal, and the numbers multiples of one, the device makes them itself.
    """
    step = values[1] - values[0] if values[1:] else 0
    if counts and len(set(counts)) == 1 and values == [b * step for b in range(len(values))]:
        return torch.arange(sum(counts), device=device) // counts[0] * step
    pairs = zip(values, counts, strict=True)
    return send_sizes(list(itertools.chain(*([value] * count for value, count in pairs))), device)


def send_sizes(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """Send int64 numbers of problems of different sizes to a device.

    Raises
    ------
    ValueError
        During the capture of a CUDA graph, which would read the host's memory at every replay.
    """
    if torch.compiler.is_compiling():  # it puts constants on the right device
        return torch.tensor(numbers, dtype=torch.int64, device=device)
    if capturing(device):
        raise ValueError(
            "offsets and k differ between problems, and cannot be sent from within a CUDA graph: "
            "pass problems of one size, (B, N, D), and one k"
        )
    return to_device(torch.tensor(numbers, dtype=torch.int64, device="cpu"), device)


def unit(x: Tensor) -> Tensor:
    """Scale rows to length 1, in float32; a row of zeros has no direction and becomes NaN."""
    x = x if x.dtype == torch.float64 else x.float()
    x = x / x.abs().amax(dim=1, keepdim=True)  # so that no square overflows
    return (x / x.square().sum(dim=1, keepdim=True).sqrt()).float()
