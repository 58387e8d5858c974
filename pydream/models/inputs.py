"""Input of a network: side, mean and standard deviation, and the origin of each."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pydream.errors import PydreamError
from pydream.lazy import imported
from pydream.models.names import OWN
from pydream.models.recognise import recognise_side

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_SIDE = re.compile(r"0*[1-9][0-9]{0,3}")  # as a file may give it
_IMAGENET_SIDE = 224
_SMALL_STEM_SIDE = 32
LARGEST_SMALL_STEM_SIDE = 64
"""Largest side for a ResNet without strides in its stem; above it, a preflight takes minutes."""

GIVEN, FILE, ARCH, SHAPES, DEFAULT = (
    "given",
    "from the checkpoint",
    "of the architecture",
    "by the shapes of the weights",
    "ImageNet's",
)
"""Origin of a number, in words."""


@dataclass(frozen=True)
class Inputs:
    """Input of a network.

    Attributes
    ----------
    side
        Height and width in pixels.
    mean, std
        Mean and standard deviation of the input, a number per channel, for pixels in [0, 1].
    origins
        Origin of ``side``, ``mean`` and ``std``, in words.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origins: Mapping[str, str]


def input_words(
    arch: str,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    origins: Mapping[str, str],
    *,
    images_side: int,
) -> str:
    """Describe the input of a network and the origin of each number.

    Parameters
    ----------
    arch, side, mean, std
        Architecture and input of the network.
    origins
        Their origins, in words; under ``weights``, the state dict chosen among several.
    images_side
        Height and width of the images before they are resized for the network.
    """
    words = [f"{arch} ({origins['arch']})", f"side {side} ({origins['side']})"]
    if images_side != side:
        words.append(f"images resized to it from {images_side}")
    means, stds = (" ".join(f"{value:g}" for value in values) for values in (mean, std))
    if origins["mean"] == origins["std"]:
        words.append(f"mean {means}, std {stds} ({origins['mean']})")
    else:
        words += [f"mean {means} ({origins['mean']})", f"std {stds} ({origins['std']})"]
    return "; ".join([*words, *filter(None, [origins.get("weights")])])


def find_inputs(
    arch: str,
    weights: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    where: str,
    *,
    side: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    likely_side: int | None = None,
) -> Inputs:
    """Determine the images that a network takes.

    In order of precedence: the values given, the metadata of the checkpoint, the shapes of the
    weights (for the side), the records of timm or torchvision for the architecture's pretrained
    weights, and ImageNet's numbers.

    Parameters
    ----------
    arch
        The architecture.
    weights, metadata
        Weights and metadata of the checkpoint.
    where
        The checkpoint's name, for messages.
    side, mean, std
        Values given by the user; None to find them.
    likely_side
        Side of the images of the run, in pixels, for a network that fits several sides if nothing
        else decides.

    Raises
    ------
    PydreamError
        If a value, or one in the metadata, is not a valid side, mean or standard deviation.
    """
    given_here = {"side": side, "mean": mean, "std": std}
    missing = {name for name, value in given_here.items() if value is None} - metadata.keys()
    own = _of_architecture(arch) if missing else {}  # torchvision takes a second to import
    found_side, origin = _side(arch, weights, metadata, where, side, likely_side, own)
    origins = {"side": origin}
    numbers = {}
    for name, given, default in (("mean", mean, IMAGENET_MEAN), ("std", std, IMAGENET_STD)):
        values: Sequence[float | str]
        if given is not None:
            values, origins[name] = given, GIVEN
        elif name in metadata:
            values, origins[name] = metadata[name].split(","), FILE
        elif name in own:
            values, origins[name] = own[name], ARCH
        else:
            values, origins[name] = default, DEFAULT
        numbers[name] = _three_numbers(name, values, where)
    return Inputs(found_side, numbers["mean"], numbers["std"], origins)


def _side(
    arch: str,
    weights: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    where: str,
    given: int | None,
    likely: int | None,
    own: Mapping[str, Any],
) -> tuple[int, str]:
    """Return the side and its origin."""
    if given is not None:
        return given, GIVEN
    text = metadata.get("side")
    if text is not None:
        if not _SIDE.fullmatch(text):
            raise PydreamError(f"{where} has the image side {text!r}; give --observer-side")
        return int(text), FILE
    side, others = recognise_side(weights, likely)
    if side is not None:
        return side, f"{SHAPES}; {others}" if others else SHAPES
    if arch.endswith("-modified"):
        if likely is not None and likely <= LARGEST_SMALL_STEM_SIDE:
            return likely, "that of the images"
        return _SMALL_STEM_SIDE, "CIFAR's"
    if "side" in own:
        return own["side"], ARCH
    return _IMAGENET_SIDE, DEFAULT


def _of_architecture(arch: str) -> dict[str, Any]:
    """Return side, mean and std of the pretrained weights in timm or torchvision."""
    if arch.startswith("timm/"):
        return _of_timm(arch.removeprefix("timm/"))
    if OWN.fullmatch(arch):
        return {}
    models = imported("torchvision.models")
    try:
        preset = models.get_model_weights(arch).DEFAULT.transforms()
    except (ValueError, AttributeError):  # no such model, or none pretrained
        return {}
    return {"side": preset.crop_size[0], "mean": preset.mean, "std": preset.std}


def _of_timm(name: str) -> dict[str, Any]:
    """Return timm's record of a model; empty if timm or the model is missing."""
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError:
        return {}
    settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if settings is None:
        return {}
    own = {"side": settings.input_size[-1]}
    return {**own, **{key: getattr(settings, key) for key in ("mean", "std")}}


def _three_numbers(name: str, values: Sequence[float | str], where: str) -> tuple[float, ...]:
    """Return mean or std as three numbers."""
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        numbers = ()
    usable = len(numbers) == 3 and all(map(math.isfinite, numbers))
    if not usable or (name == "std" and min(numbers) <= 0):
        got = ",".join(map(str, values))
        kind = "three numbers above 0" if name == "std" else "three numbers"
        raise PydreamError(
            f"{name} of {where} must be {kind}, got {got!r}; give --observer-{name}, for example "
            f"--observer-{name} 0.5 0.5 0.5"
        )
    return numbers
