"""Recognition of a network's architecture and image side by the names and shapes of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from pydream.errors import PydreamError
from pydream.models.registry import construct
from pydream.models.state_dicts import usual_names

Weights = Mapping[str, torch.Tensor]

# By the blocks of the four stages, and whether a block has three convolutions.
_RESNETS: dict[tuple[tuple[int, ...], bool], tuple[str, ...]] = {
    ((2, 2, 2, 2), False): ("resnet18",),
    ((3, 4, 6, 3), False): ("resnet34",),
    ((3, 4, 6, 3), True): ("resnet50", "wide_resnet50_2", "resnext50_32x4d"),
    ((3, 4, 23, 3), True): (
        "resnet101",
        "wide_resnet101_2",
        "resnext101_32x8d",
        "resnext101_64x4d",
    ),
    ((3, 8, 36, 3), True): ("resnet152",),
}
_RESNET_APS: dict[tuple[int, ...], int] = {(1, 1, 1, 1): 10, (2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_DEFAULT_WIDTH = 128
_PREFIX_TOKENS = (1, 2, 0, 5, 4)  # class, distillation and register tokens before the patches
# Sides of the field's images: MNIST, CIFAR, STL-10, Tiny-ImageNet and ImageNet subsets.
_USUAL_SIDES = (28, 32, 64, 96, 128, 224, 256)


def recognise_arch(weights: Weights) -> str | None:
    """Name the architecture with the names and shapes of these weights.

    Parameters
    ----------
    weights
        Weights by name.

    Returns
    -------
    str or None
        The name for ``build_model``; None unless it is a ConvNet, a torchvision ResNet (also with
        the stem for small images) or a ResNet-AP.
    """
    weights = usual_names(weights)
    for name in _candidates(weights):
        if _fits(name, weights):
            return name
    return None


def _candidates(weights: Weights) -> Iterable[str]:
    """Yield architectures whose layers have such names."""
    if "layers.conv.0.weight" in weights:
        return _convnets(weights)
    if "fc.weight" not in weights or "layer1.0.conv1.weight" not in weights:
        return ()
    blocks = tuple(
        len({name.split(".")[1] for name in weights if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    if "layer0.conv1.weight" in weights:
        depth = _RESNET_APS.get(blocks)
        batch = any(name.endswith("running_mean") for name in weights)
        suffixes = ("-batch",) if batch else ("", "-none")
        return () if depth is None else [f"resnetap{depth}{suffix}" for suffix in suffixes]
    names = _RESNETS.get((blocks, "layer1.0.conv3.weight" in weights), ())
    stem = weights["conv1.weight"] if "conv1.weight" in weights else torch.empty(0)
    small = tuple(stem.shape[2:]) == (3, 3)
    return [f"{name}-modified" if small else name for name in names]


def _convnets(weights: Weights) -> list[str]:
    depth = _convnet_depth(weights)
    width = len(weights["layers.conv.0.weight"])
    name = f"convnet{depth}" if width == _DEFAULT_WIDTH else f"convnet{depth}-w{width}"
    if "layers.norm.0.running_mean" in weights:
        return [name]
    return [f"{name}-instance" if "layers.norm.0.weight" in weights else f"{name}-none"]


def _convnet_depth(weights: Weights) -> int:
    return sum(name.startswith("layers.conv.") and name.endswith(".weight") for name in weights)


def _fits(arch: str, weights: Weights) -> bool:
    """Return whether a network of this architecture has weights of these names and shapes."""
    classes = next((len(weights[n]) for n in ("fc.bias", "classifier.bias") if n in weights), 0)
    side, _ = recognise_side(weights)
    side = side or (224 if _large_resnet_ap_stem(weights) else 64)
    try:
        with torch.device("meta"):
            own = construct(arch, num_classes=classes, side=side).state_dict()
    except PydreamError:
        return False
    needed = {
        name: tensor for name, tensor in own.items() if not name.endswith("num_batches_tracked")
    }
    return all(
        name in weights and weights[name].shape == tensor.shape for name, tensor in needed.items()
    )


def _large_resnet_ap_stem(weights: Weights) -> bool:
    stem = weights.get("layer0.conv1.weight")
    return stem is not None and stem.shape[-1] == 7


def recognise_side(weights: Weights, likely: int | None = None) -> tuple[int | None, str]:
    """Determine the side of the images from the shapes of a ConvNet or a vision transformer.

    Parameters
    ----------
    weights
        Weights by name.
    likely
        Side of the images of the run, which decides if several sides give the same shapes.

    Returns
    -------
    int or None
        Side in pixels; None if the shapes do not depend on it.
    str
        The other sides with the same shapes, if there are any.
    """
    weights = usual_names(weights)
    depth = _convnet_depth(weights)
    last, head = (
        weights.get(name) for name in (f"layers.conv.{depth - 1}.weight", "classifier.weight")
    )
    if last is not None and head is not None and head.dim() == 2 and len(last):
        least = math.isqrt(head.shape[1] // len(last)) << depth
        most = least + (1 << depth) - 1
        usual = [
            usual_side
            for usual_side in (likely, *_USUAL_SIDES)
            if usual_side and least <= usual_side <= most
        ]
        return (usual[0] if usual else least), f"{least} to {most} have the same shapes"
    return _transformer_side(weights), ""


def _transformer_side(weights: Weights) -> int | None:
    """Determine the side from the number of position embeddings and the size of a patch."""
    for positions, patches in (
        ("pos_embed", "patch_embed.proj.weight"),  # timm
        ("encoder.pos_embedding", "conv_proj.weight"),  # torchvision
    ):
        table, patch = weights.get(positions), weights.get(patches)
        if table is None or patch is None or table.dim() != 3 or patch.dim() != 4:
            continue
        for tokens in _PREFIX_TOKENS:
            along = math.isqrt(max(0, table.shape[1] - tokens))
            if along and along**2 == table.shape[1] - tokens:
                return along * patch.shape[-1]
    return None
