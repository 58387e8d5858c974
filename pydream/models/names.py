"""Architecture names in their usual spellings, and pydream's names for them."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from typing import Any

from pydream.errors import PydreamError
from pydream.lazy import imported
from pydream.models.convnet import NORMS
from pydream.models.resnet_ap import BLOCKS

KINDS = (
    'convnet3 (any depth; "-w64" sets the width, "-instance" or "-none" the norm), '
    'resnetap10 (or 18, 34; "-batch" or "-none" sets the norm), '
    "resnet18-modified (any torchvision ResNet with a 3×3 stem and no max-pool), "
    "any torchvision classifier such as resnet18, or timm/NAME"
)
"""Names for ``build_model``, in words."""

OWN = re.compile(r"convnet\d+(-.+)?|resnetap\d+(-.+)?")
"""Names of ConvNets and ResNet-APs."""

# ConvNet in the code of DC, DM, MTT (ConvNetD3, with instance norm) and RDED (conv3, batch norm).
_CONVNET = re.compile(
    r"(?P<name>conv|convnet|convnetd)(?P<depth>\d*)(w(?P<width>\d+))?"
    r"(?P<norm>|bn|batch|batchnorm|in|instance|instancenorm|nn|none)"
)
_NORM_WORDS = {"b": "batch", "i": "instance", "n": "none"}
_SMALL_RESNET = re.compile(r"((?:wide)?resne[x]?t\w*?)(bn|cifar|cifar10|cifar100|small)")
_POOLED_RESNET = re.compile(r"resnet(\d+)(bn|in)?ap(bn|in)?")


def canonical_arch(arch: str) -> str:
    """Return pydream's name of an architecture.

    Case, underscores, hyphens and blanks do not matter, and names from other code of the field are
    recognised: ``ResNet18``, ``MobileNetV2``, ``EfficientNet-B0``, ``ConvNetD3``, ``conv3``,
    ``ResNet18_CIFAR``, ``ResNet18AP``.

    Parameters
    ----------
    arch
        A name.

    Returns
    -------
    str
        The name for ``build_model``; `arch` itself if it is such a name, or if the name is unknown
        or ambiguous.
    """
    if arch.startswith("timm/") or OWN.fullmatch(arch) or arch in torchvision_names():
        return arch
    plain = re.sub(r"[-_\s]+", "-", arch.strip().lower())
    if OWN.fullmatch(plain):
        return plain
    key = _key(arch)
    known = [name for name in (*torchvision_names(), *_small_resnets()) if _key(name) == key]
    if known:
        return known[0] if len(known) == 1 else arch
    return _field_name(key) or arch


def _field_name(key: str) -> str | None:
    """Translate a name from other code, written without separators."""
    convnet = _CONVNET.fullmatch(key)
    if convnet is not None:
        words = convnet["norm"]
        of_dc = convnet["name"] == "convnetd" or key == "convnet"
        norm = _NORM_WORDS[words[0]] if words else "instance" if of_dc else "batch"
        suffixes = [f"w{convnet['width']}"] if convnet["width"] else []
        suffixes += [] if norm == "batch" else [norm]
        return "-".join([f"convnet{convnet['depth'] or 3}", *suffixes])
    pooled = _POOLED_RESNET.fullmatch(key)
    if pooled is not None:
        batch = "bn" in pooled.groups()
        return f"resnetap{pooled[1]}-batch" if batch else f"resnetap{pooled[1]}"
    small = _SMALL_RESNET.fullmatch(key)
    whole = key.removesuffix("imagenet1k").removesuffix("imagenet")
    wanted = f"{small[1]}modified" if small is not None else whole
    return next(
        (name for name in (*torchvision_names(), *_small_resnets()) if _key(name) == wanted), None
    )


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers."""
    models = imported("torchvision.models")
    names: list[str] = models.list_models(module=models)
    return names


def _small_resnets() -> list[str]:
    resnets = [name for name in torchvision_names() if re.match(r"(wide_)?resne[x]?t", name)]
    return [f"{name}-modified" for name in resnets]


def own_names() -> list[str]:
    """Return examples of pydream's own names, for suggestions."""
    convnets = [f"convnet{depth}" for depth in range(1, 8)]
    suffixed = [f"{name}-{suffix}" for name in convnets for suffix in ("w64", *NORMS)]
    pooled = [f"resnetap{depth}" for depth in BLOCKS]
    suffixed += [f"{name}-{norm}" for name in pooled for norm in NORMS]
    return [*convnets, *pooled, *suffixed, *_small_resnets()]


def unknown_arch(arch: str, names: list[str]) -> PydreamError:
    """Return the error for an unknown name, with the nearest of `names`."""
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(_key(name), []).append(name)
    near = difflib.get_close_matches(_key(arch), by_key, n=3)
    found = [name for key in near for name in by_key[key]][:3]
    if not found and "_" in arch and _is_timm(arch):  # the import takes seconds
        found = [f"timm/{arch}"]
    hint = f"; did you mean {' or '.join(found)}?" if found else "."
    return PydreamError(f"unknown architecture {arch!r}{hint} Known: {KINDS}")


def _is_timm(name: str) -> bool:
    """Return whether timm, if installed, has a model of this name."""
    if importlib.util.find_spec("timm") is None:
        return False
    timm: Any = importlib.import_module("timm")
    return bool(timm.is_model(name))


def _key(name: str) -> str:
    """Return a name without case and separators."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
