"""Classifiers by name: ConvNet, ResNet-AP, and those of torchvision and timm."""

from __future__ import annotations

import importlib
import re
from typing import Any

import torch
from torch import nn

from pydream.errors import PydreamError, first_line
from pydream.lazy import imported
from pydream.models.convnet import NORMS, ConvNet, Norm
from pydream.models.names import canonical_arch, own_names, torchvision_names, unknown_arch
from pydream.models.resnet_ap import BLOCKS, ResNetAP

# While training, the auxiliary heads of these two networks return more than logits.
_WITHOUT_AUXILIARY_HEADS = {"aux_logits": False, "init_weights": True}
_OPTIONS = {"googlenet": _WITHOUT_AUXILIARY_HEADS, "inception_v3": _WITHOUT_AUXILIARY_HEADS}


def build_model(arch: str, *, num_classes: int, side: int, channels: int = 3) -> nn.Module:
    """Build a classifier with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    arch
        ``"convnet3"`` (any depth), followed by ``"-w64"`` (width) and ``"-batch"``, ``"-instance"``
        or ``"-none"`` (norm) in any order; ``"resnetap10"``, ``"resnetap18"`` or ``"resnetap34"``,
        with instance norm unless followed by ``"-batch"`` or ``"-none"``; ``"resnet18-modified"``:
        any torchvision ResNet with a 3×3 stem of stride 1 and no max-pool, for small images; the
        name of any torchvision classifier; ``"timm/NAME"`` for timm's. Case, underscores and
        hyphens do not matter, and names from other code of the field are recognised
        (``"ResNet18"``, ``"ConvNetD3"``, ``"conv3"``).
    num_classes
        Number of logits.
    side
        Height and width of the images, in pixels.
    channels
        Number of channels of the images; other than 3 only with ConvNet, ResNet-AP and timm.

    Returns
    -------
    Module
        In training mode; takes (B, channels, side, side) and returns (B, num_classes).

    Raises
    ------
    PydreamError
        If no such model is known, timm is named but not installed, or the model does not accept
        images of this side or with these channels.
    """
    model = construct(arch, num_classes=num_classes, side=side, channels=channels)
    check_takes(model, arch, side=side, channels=channels)
    return model.train()


def construct(arch: str, *, num_classes: int, side: int, channels: int = 3) -> nn.Module:
    """Build like ``build_model``, without checking that images of this side fit."""
    if num_classes < 1:
        raise PydreamError(f"a classifier needs at least 1 class, got {num_classes}")
    arch = canonical_arch(arch)
    if arch.startswith("convnet") and arch[7:8].isdigit():
        depth, width, norm = _parse_convnet(arch)
        return ConvNet(num_classes, side, channels, depth, width, norm)
    if arch.startswith("resnetap"):
        depth, norm = _parse_resnet_ap(arch)
        return ResNetAP(num_classes, side, channels, depth, norm)
    if arch.startswith("timm/"):
        return _timm_model(arch, num_classes, side, channels)
    base = arch.removesuffix("-modified")
    if base not in torchvision_names():
        raise unknown_arch(arch, [*torchvision_names(), *own_names()])
    if channels != 3:
        raise PydreamError(
            f"{arch} takes images with 3 channels, not {channels}; "
            "ConvNets (convnet3), ResNet-APs (resnetap10) and timm models (timm/NAME) take any "
            "number"
        )
    options: dict[str, Any] = dict(_OPTIONS.get(base, {}))
    if base.startswith("vit_"):
        options["image_size"] = side
    get_model = imported("torchvision.models").get_model
    try:
        model: nn.Module = get_model(base, weights=None, num_classes=num_classes, **options)
    except (AssertionError, ValueError) as error:
        raise PydreamError(f"{arch} cannot be built for {side}×{side} images: {error}") from error
    return model if base == arch else _modify_stem(model, arch)


def check_takes(
    model: nn.Module, arch: str, *, side: int, channels: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run two images of noise through the model, in evaluation mode; return them and the logits.

    Raises
    ------
    PydreamError
        If the model does not accept them, or does not return (2, number of classes).
    """
    model.eval()
    like = next(iter(model.parameters()), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    shape = (2, channels, side, side)
    images = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(like)
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:  # a model may fail in any way on images that do not fit
        raise PydreamError(
            f"{arch} cannot take {side}×{side} images with {channels} channels: {first_line(error)}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != 2:
        what = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise PydreamError(
            f"{arch} is not a classifier: for two images it must return logits of shape "
            f"(2, classes), it returned {what}"
        )
    return images, logits


def _parse_convnet(arch: str) -> tuple[int, int, Norm]:
    """Parse depth, width and norm from a name such as convnet4-w64-instance."""
    head, *suffixes = arch.split("-")
    number = re.fullmatch(r"convnet(\d+)", head)
    widths = [int(suffix[1:]) for suffix in suffixes if re.fullmatch(r"w\d+", suffix)]
    norms: list[Norm] = [norm for suffix in suffixes for norm in NORMS if norm == suffix]
    if (
        number is None
        or len(widths) > 1
        or len(norms) > 1
        or len(widths) + len(norms) < len(suffixes)
    ):
        raise unknown_arch(arch, own_names())
    return int(number[1]), widths[0] if widths else 128, norms[0] if norms else "batch"


def _parse_resnet_ap(arch: str) -> tuple[int, Norm]:
    """Parse depth and norm from a name such as resnetap10-batch."""
    for depth in BLOCKS:
        norms: dict[str, Norm] = {f"resnetap{depth}": "instance"}
        norms |= {f"resnetap{depth}-{norm}": norm for norm in NORMS}
        if arch in norms:
            return depth, norms[arch]
    raise unknown_arch(arch, own_names())


def _modify_stem(model: nn.Module, arch: str) -> nn.Module:
    """Give a torchvision ResNet the stem for small images: 3×3, stride 1, no max-pool."""
    is_resnet = isinstance(model, imported("torchvision.models").ResNet)
    if not is_resnet:
        raise PydreamError(f'{arch}: "-modified" is for torchvision\'s ResNets, e.g. resnet18')
    stem = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = stem, nn.Identity()
    return model


def _timm_model(arch: str, num_classes: int, side: int, channels: int) -> nn.Module:
    """Build one of timm's models; this is the only place that imports timm."""
    name = arch.removeprefix("timm/")
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise PydreamError(f'{arch} needs timm: pip install "pydream-distill[timm]"') from error
    if not timm.is_model(name):
        raise unknown_arch(arch, [f"timm/{listed}" for listed in timm.list_models()])
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        options["img_size"] = side
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise PydreamError(f"{arch} cannot be built for {side}×{side} images: {error}") from error
    return model
