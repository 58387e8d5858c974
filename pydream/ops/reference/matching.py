"""Distances between lists of gradients in plain PyTorch, differentiable any number of times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COSINE_FLOOR = 1e-6


def layer_distance(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """Compute the distance of one layer, in float32 or wider."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x, y = x.float(), y.float()
    difference = x - y
    rows = x.shape[0] if x.dim() > 0 else 1
    if metric == "mse":
        return difference.square().sum()
    if metric == "l1":
        return difference.abs().sum()
    if metric == "l1_mean":
        return difference.abs().reshape(rows, -1).mean(dim=1).sum()
    if metric == "l2":
        length: Tensor = difference.norm()
        return length
    x, y = x.reshape(rows, -1), y.reshape(rows, -1)
    lengths: Tensor = x.norm(dim=1) * y.norm(dim=1)
    return (1 - (x * y).sum(dim=1) / (lengths + COSINE_FLOOR)).sum()


def gradient_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str) -> Tensor:
    """Compute `pydream.ops.gradient_distance` layer by layer; ``dc`` is ``cos`` here."""
    wide = bool(synthetic) and synthetic[0].dtype == torch.float64
    total = torch.zeros(
        (),
        dtype=torch.float64 if wide else torch.float32,
        device=synthetic[0].device if synthetic else "cpu",
    )
    for x, y in zip(synthetic, real, strict=True):
        if x.numel() > 0:
            total = total + layer_distance(x, y, "cos" if metric == "dc" else metric)
    return total


def value_and_gradients(
    synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    """Compute the kernels' results: the distance, and its derivatives."""
    with torch.enable_grad():
        x = [layer.detach().requires_grad_(with_gradient) for layer in synthetic]
        value = gradient_distance(x, [layer.detach() for layer in real], metric)
        if not with_gradient:
            return value, []
        found = torch.autograd.grad(value, x, allow_unused=True)
    gradients = [
        torch.zeros_like(layer) if slope is None else slope
        for layer, slope in zip(x, found, strict=True)
    ]
    return value.detach(), gradients
