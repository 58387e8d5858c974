"""The rest of a ConvNet block after its convolution, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn import functional


def norm_relu_pool(
    images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
) -> Tensor:
    """Compute `pydream.ops.norm_relu_pool`.

    With weight and bias (parts, C), the images are as many batches, one behind the other.
    """
    if weight.dim() == 2:
        parts = zip(images.chunk(len(weight)), weight, bias, strict=True)
        return torch.cat([norm_relu_pool(x, w, b, over_batch, eps) for x, w, b in parts])
    if over_batch:
        normed = functional.batch_norm(images, None, None, weight, bias, training=True, eps=eps)
    else:
        normed = functional.group_norm(images, images.shape[1], weight, bias, eps)
    return functional.avg_pool2d(functional.relu(normed), 2)


def with_statistics(
    images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the result, mean and 1 / sqrt(variance + eps): (N, C), or (parts, C) over batches."""
    parts = images.unflatten(0, (len(weight) if weight.dim() == 2 else 1, -1))
    variance, mean = torch.var_mean(parts, (1, 3, 4) if over_batch else (3, 4), correction=0)
    rows = (-1, images.shape[1])
    pooled = norm_relu_pool(images, weight, bias, over_batch, eps)
    return pooled, mean.reshape(rows), (variance + eps).rsqrt().reshape(rows)


def backward(
    kept: Sequence[Tensor], over_batch: bool, eps: float, parameters: bool
) -> list[Tensor]:
    """Compute the slopes with respect to images and, if `parameters`, weight and bias.

    `kept` holds images, weight, bias, mean, 1 / deviation, and the slope of the pooled images.
    """

    def forward(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return norm_relu_pool(images, weight, bias, over_batch, eps)

    pull: Callable[[Tensor], tuple[Tensor, ...]] = vjp(forward, *kept[:3])[1]
    return list(pull(kept[-1])[: 3 if parameters else 1])


def second_backward(
    kept: Sequence[Tensor],
    second: Sequence[Tensor | None],
    over_batch: bool,
    eps: float,
    parameters: bool,
) -> list[Tensor]:
    """Compute the slopes of the backward pass with respect to slope, images and, if asked, weight.

    A slope in `second` that is None is 0.
    """

    def first(slope: Tensor, images: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        leaves = [images, weight, *kept[2:5], slope]
        return tuple(backward(leaves, over_batch, eps, True))

    pull: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] = vjp(first, kept[-1], *kept[:2])[1]
    given = tuple(
        torch.zeros_like(leaf) if slope is None else slope
        for leaf, slope in zip(kept, second, strict=False)
    )
    return list(pull(given)[: 3 if parameters else 2])
