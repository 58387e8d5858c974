"""The rest of a ConvNet block after its convolution, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def norm_relu_pool(
    images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
) -> Tensor:
    """Compute `pydream.ops.norm_relu_pool`."""
    if over_batch:
        normed = functional.batch_norm(images, None, None, weight, bias, training=True, eps=eps)
    else:
        normed = functional.group_norm(images, images.shape[1], weight, bias, eps)
    return functional.avg_pool2d(functional.relu(normed), 2)


def with_statistics(
    images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the result, mean and 1 / sqrt(variance + eps): (N, C), or (1, C) over a batch."""
    variance, mean = torch.var_mean(images, (0, 2, 3) if over_batch else (2, 3), correction=0)
    rows = (-1, images.shape[1])
    pooled = norm_relu_pool(images, weight, bias, over_batch, eps)
    return pooled, mean.view(rows), (variance + eps).rsqrt().view(rows)


def backward(kept: list[Tensor], over_batch: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the slopes with respect to images, weight and bias.

    `kept` holds images, weight, bias, mean, 1 / deviation, and the slope of the pooled images.
    """
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in kept[:3]]
        pooled = norm_relu_pool(leaves[0], leaves[1], leaves[2], over_batch, eps)
        of_images, of_weight, of_bias = torch.autograd.grad(pooled, leaves, kept[-1])
    return of_images, of_weight, of_bias


def second_backward(
    kept: list[Tensor], second: list[Tensor], over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the slopes of the backward pass with respect to slope, images and weight."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in kept[:3]]
        slope = kept[-1].detach().requires_grad_()
        pooled = norm_relu_pool(leaves[0], leaves[1], leaves[2], over_batch, eps)
        slopes = torch.autograd.grad(pooled, leaves, slope, create_graph=True)
        found = torch.autograd.grad(slopes, [slope, *leaves[:2]], second, materialize_grads=True)
    of_slope, of_images, of_weight = found
    return of_slope, of_images, of_weight
