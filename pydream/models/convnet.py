"""ConvNet, the small network of the dataset-distillation literature."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.ops.block import norm_relu_pool, normed_block, takes_kernels

Norm: TypeAlias = Literal["batch", "instance", "none"]
"""Normalisation after each convolution."""

NORMS: tuple[Norm, ...] = get_args(Norm)


class ConvNet(nn.Module):
    """Blocks of 3×3 convolution, norm, ReLU and 2×2 average pool, then one linear layer.

    Parameters and buffers have the names of the published checkpoints:
    ``layers.conv.0.weight``, ``layers.norm.0.weight``, …, ``classifier.weight``.

    Parameters
    ----------
    num_classes
        Number of logits.
    side
        Height and width of the images, in pixels.
    channels
        Number of channels of the images.
    depth
        Number of blocks; each halves the side, rounding down.
    width
        Number of channels after each convolution.
    norm
        ``"batch"`` (RDED), ``"instance"`` (DREAM; a group norm with one group per channel and
        learned scale and shift) or ``"none"``.

    Raises
    ------
    PydreamError
        If an argument is out of range, or the side is too small for the depth.

    Notes
    -----
    Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting" (CVPR 2018), as
    used by RDED (arXiv 2312.03526, section 5.1).
    """

    def __init__(
        self,
        num_classes: int,
        side: int,
        channels: int = 3,
        depth: int = 3,
        width: int = 128,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "channels": channels, "depth": depth, "width": width}
        for name, value in sizes.items():
            if value < 1:
                raise PydreamError(f"ConvNet: {name} must be at least 1, got {value}")
        if norm not in NORMS:
            raise PydreamError(f"ConvNet: norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if side >> depth < 1:
            raise PydreamError(
                f"ConvNet: {depth} blocks halve the image side {depth} times, so the side must be "
                f"at least {1 << depth}, got {side}; use larger images or fewer blocks"
            )
        self.side, self.depth, self.width, self.norm = side, depth, width, norm
        inputs = [channels] + [width] * (depth - 1)
        self.layers = nn.ModuleDict(
            {
                "conv": nn.ModuleList(
                    nn.Conv2d(channels, width, 3, padding=1) for channels in inputs
                ),
                "norm": nn.ModuleList(norm_layer(norm, width) for _ in inputs),
                "relu": nn.ModuleList(nn.ReLU() for _ in inputs),
                "pool": nn.ModuleList(nn.AvgPool2d(2) for _ in inputs),
            }
        )
        self.classifier = nn.Linear(width * (side >> depth) ** 2, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the output of the last block, flattened.

        Parameters
        ----------
        images
            (B, channels, side, side), floating point, normalised.

        Returns
        -------
        Tensor
            (B, width · (side >> depth)²), channel-major.
        """
        blocks = [self.layers[name] for name in ("conv", "norm", "relu", "pool")]
        for conv, norm, relu, pool in zip(*blocks, strict=True):
            images = conv(images)
            watched = any(_has_hooks(layer) for layer in (norm, relu, pool))
            finished = None if watched else fused(norm, images)
            images = pool(relu(norm(images))) if finished is None else finished
        return images.flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, (B, num_classes), of images, (B, channels, side, side)."""
        logits: torch.Tensor = self.classifier(self.features(images))
        return logits


def norm_layer(norm: Norm, width: int) -> nn.Module:
    """Return the layer that follows a convolution."""
    if norm == "batch":
        return nn.BatchNorm2d(width)
    return nn.GroupNorm(width, width) if norm == "instance" else nn.Identity()


def fused(norm: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
    """Return the images after norm, ReLU and pool if kernels can do all three, else None.

    A batch norm in training updates its running statistics, as usual.
    """
    if isinstance(norm, nn.GroupNorm) and takes_kernels(images):
        return norm_relu_pool(images, norm.weight, norm.bias, "instance", eps=norm.eps)
    if not (isinstance(norm, nn.BatchNorm2d) and norm.training and takes_kernels(images)):
        return None
    running, tracked = (norm.running_mean, norm.running_var), norm.num_batches_tracked
    if norm.momentum is None or running[0] is None or running[1] is None or tracked is None:
        return None
    pooled, mean, rstd = normed_block(images, norm.weight, norm.bias, "batch", eps=norm.eps)
    count = images.numel() // images.shape[1]
    variance = (rstd.square().reciprocal() - norm.eps) * (count / (count - 1))
    with torch.no_grad():
        # vmap has no rule for `lerp_`, and would call it class by class.
        running[0].add_(mean[0] - running[0], alpha=norm.momentum)
        running[1].add_(variance[0] - running[1], alpha=norm.momentum)
        tracked.add_(1)
    return pooled


def _has_hooks(layer: nn.Module) -> bool:
    """Return whether the layer has hooks, which need its own call."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
