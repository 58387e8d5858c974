"""ResNet-AP, a ResNet with pooling instead of strides, for ImageNet subsets of few images."""

from __future__ import annotations

import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.models.convnet import NORMS, Norm, norm_layer

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Number of blocks in each of the four stages, by depth."""

_WIDTHS = (64, 128, 256, 512)
# Each stage but the first halves the side.
_HALVINGS = len(_WIDTHS) - 1


class ResNetAP(nn.Module):
    """A ResNet of basic blocks with average pooling in place of strides.

    The image side decides the stem: above 128 a 7×7 convolution and a 4×4 average pool, above 64 a
    3×3 convolution and a 2×2 pool, else only a 3×3 convolution; norm and ReLU precede the pool.
    Four stages of 64, 128, 256 and 512 channels follow, of which all but the first halve the side,
    then a global average pool and one linear layer. No convolution has a bias.

    Parameters and buffers have the names of the published code: ``layer0.conv1.weight``,
    ``layer2.0.downsample.0.weight``, …, ``fc.weight``.

    Parameters
    ----------
    num_classes
        Number of logits.
    side
        Height and width of the images, in pixels; at least 8, and 16 with instance norm.
    channels
        Number of channels of the images.
    depth
        10, 18 or 34: the blocks of ResNet's tables, or one per stage for 10.
    norm
        ``"instance"`` (a group norm with one group per channel and learned scale and shift),
        ``"batch"`` or ``"none"``.

    Raises
    ------
    PydreamError
        If an argument is out of range, or the side is too small.

    Notes
    -----
    He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), as changed by Kim et
    al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (ICML 2022), for
    DREAM+ (arXiv 2310.15052).
    """

    def __init__(
        self,
        num_classes: int,
        side: int,
        channels: int = 3,
        depth: int = 10,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("channels", channels)):
            if value < 1:
                raise PydreamError(f"ResNetAP: {name} must be at least 1, got {value}")
        if depth not in BLOCKS:
            known = ", ".join(map(str, BLOCKS))
            raise PydreamError(f"ResNetAP: depth must be one of {known}, got {depth}")
        if norm not in NORMS:
            raise PydreamError(f"ResNetAP: norm must be one of {', '.join(NORMS)}, got {norm!r}")
        # The instance norm of a single pixel is constant, which would make all features constant.
        last = 2 if norm == "instance" else 1
        if side < last << _HALVINGS:
            raise PydreamError(
                f"ResNetAP: its stages halve the image side {_HALVINGS} times, so with {norm} norm "
                f"the side must be at least {last << _HALVINGS}, got {side}; use larger images"
            )
        self.side, self.depth, self.norm = side, depth, norm
        self.layer0 = _Stem(channels, _WIDTHS[0], side, norm)
        inputs = (_WIDTHS[0], *_WIDTHS)
        for stage, (width, blocks) in enumerate(zip(_WIDTHS, BLOCKS[depth], strict=True), 1):
            first = _BasicBlock(inputs[stage - 1], width, norm, halve=stage > 1)
            others = [_BasicBlock(width, width, norm) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *others))
        self.fc = nn.Linear(_WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the output of the global average pool.

        Parameters
        ----------
        images
            (B, channels, side, side), floating point, normalised.

        Returns
        -------
        Tensor
            (B, 512).
        """
        for name in ("layer0", "layer1", "layer2", "layer3", "layer4"):
            images = getattr(self, name)(images)
        return images.mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, (B, num_classes), of images, (B, channels, side, side)."""
        logits: torch.Tensor = self.fc(self.features(images))
        return logits


class _Stem(nn.Module):
    """Layers before the stages."""

    def __init__(self, channels: int, width: int, side: int, norm: Norm) -> None:
        super().__init__()
        kernel, pool = (7, 4) if side > 128 else (3, 2) if side > 64 else (3, 1)
        self.conv1 = _conv(channels, width, kernel)
        self.bn1 = norm_layer(norm, width)
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.pool(self.relu(self.bn1(self.conv1(images))))
        return pooled


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut; a pool between them if the side is halved."""

    def __init__(self, inputs: int, width: int, norm: Norm, *, halve: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3), norm_layer(norm, width)
        self.conv2, self.bn2 = _conv(width, width, 3), norm_layer(norm, width)
        self.relu = nn.ReLU()
        self.pool: nn.Module = nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if halve:
            self.pool = nn.AvgPool2d(2)
            self.downsample = nn.Sequential(
                _conv(inputs, width, 1), nn.AvgPool2d(2), norm_layer(norm, width)
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = self.pool(self.relu(self.bn1(self.conv1(images))))
        summed: torch.Tensor = self.relu(self.bn2(self.conv2(inner)) + self.downsample(images))
        return summed


def _conv(inputs: int, width: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, width, kernel, padding=kernel // 2, bias=False)
