"""The weights of a network inside what a trainer saved, under the names they have here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pydream.words import listed

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
"""Under which keys trainers keep a state dict."""

# Weights averaged over the training, under the names that timm, torchvision and others give them.
_AVERAGED = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_state_dict_ema",
    "ema_model",
    "ema",
    "averaged_model",
    "swa_model",
)
# What data parallelism, torch.compile, Lightning modules and timm's wrapper put in front of names.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "timm_model.")
# A head beside a backbone is part of the network, so this one goes only where all names have it.
_WHOLE_PREFIXES = (*_PREFIXES, "backbone.")


def find_weights(content: Any) -> tuple[dict[str, torch.Tensor], str]:
    """Find the state dict in what a torch file holds.

    Parameters
    ----------
    content
        What ``torch.load`` returned.

    Returns
    -------
    dict of str to Tensor
        The weights, without prefixes of wrappers; empty if there is no state dict.
    str
        In words, what was chosen among several state dicts or left out; empty if nothing was.
    """
    named, key, other = _state_dict(content)
    weights, outside = _without_prefixes(named)
    remarks = []
    if key in _AVERAGED:
        remarks.append(f"the averaged weights in {key}")
    elif other is not None:
        remarks.append(f"the weights in {key}, not the averaged ones in {other}")
    outside = [name for name in outside if name != "n_averaged"]
    if "n_averaged" in named:
        remarks.append("the averaged weights of SWA or EMA")
    if outside:
        remarks.append(f"without {listed(outside)}, which is outside the network")
    return weights, "; ".join(remarks)


def _state_dict(content: Any) -> tuple[dict[str, torch.Tensor], str | None, str | None]:
    """Return a state dict, the key it is under, and the key of an averaged one that is not taken.

    The weights that were trained come before those that were averaged.
    """
    if not isinstance(content, Mapping):
        return {}, None, None
    averaged = next((key for key in _AVERAGED if _state_dict(content.get(key))[0]), None)
    for key in WRAPPERS:
        inner, inner_key, inner_other = _state_dict(content.get(key))
        if inner:
            return inner, inner_key or key, inner_other or averaged
    if averaged is not None:
        return _state_dict(content[averaged])[0], averaged, None
    bare = {name: each for name, each in content.items() if isinstance(each, torch.Tensor)}
    return bare, None, None


def _without_prefixes(
    weights: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Remove the prefixes of wrappers; return also the names of what lies outside the network."""
    outside: list[str] = []
    while weights:
        prefix = next(
            (each for each in _WHOLE_PREFIXES if all(name.startswith(each) for name in weights)),
            None,
        ) or _main_prefix(weights)
        if prefix is None:
            break
        outside += [name for name in weights if not name.startswith(prefix)]
        weights = {
            name.removeprefix(prefix): each
            for name, each in weights.items()
            if name.startswith(prefix)
        }
    return weights, outside


def _main_prefix(weights: Iterable[str]) -> str | None:
    """Return the prefix that most names have, where the others are a trainer's own.

    A Lightning module has the weights of its loss beside those of its network, and an averaged
    model the number of its updates.
    """
    names = list(weights)
    counts = {each: sum(name.startswith(each) for name in names) for each in _PREFIXES}
    prefix, count = max(counts.items(), key=lambda item: item[1])
    return prefix if 2 * count > len(names) else None


def fit_names(
    weights: Mapping[str, torch.Tensor], own: Iterable[str]
) -> Mapping[str, torch.Tensor]:
    """Rename weights of the same network in other code, where that gives the network's own names.

    Known are the ResNets of kuangliu/pytorch-cifar and of DC's code (``shortcut`` for
    ``downsample``; ``linear`` or ``classifier`` for ``fc``) and DC's ConvNet (``features.0``, …).

    Parameters
    ----------
    weights
        By the names in the file.
    own
        The names that the network here has.

    Returns
    -------
    Mapping of str to Tensor
        Under other names if they are then the network's own, else as they were.
    """
    needed = {name for name in own if not name.endswith(".num_batches_tracked")}
    for renamed in (weights, _torchvision_resnet(weights), _convnet(weights)):
        if needed <= renamed.keys():
            return renamed
    return weights


def usual_names(weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Rename weights as `fit_names` does, judging by the names in the file alone."""
    return _convnet(weights) or _torchvision_resnet(weights)


def _torchvision_resnet(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the weights of other ResNets as torchvision does."""
    if "layer1.0.conv1.weight" not in weights:
        return dict(weights)
    return {
        re.sub(r"^(linear|classifier)\.", "fc.", name.replace(".shortcut.", ".downsample.")): each
        for name, each in weights.items()
    }


def _convnet(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the weights of DC's ConvNet as ours; nothing if they are of something else."""
    heads = {"classifier.weight", "classifier.bias"}
    parts = {name: re.fullmatch(r"features\.(\d+)\.(\w+)", name) for name in {*weights} - heads}
    if not heads <= weights.keys() or not parts or not all(parts.values()):
        return {}
    places = {name: int(match[1]) for name, match in parts.items() if match is not None}
    convs = sorted({place for name, place in places.items() if weights[name].dim() == 4})
    norms = sorted({*places.values()} - {*convs})
    if norms and len(norms) != len(convs):
        return {}
    layers = {place: f"layers.conv.{number}" for number, place in enumerate(convs)}
    layers |= {place: f"layers.norm.{number}" for number, place in enumerate(norms)}
    return {
        name if name in heads else f"{layers[places[name]]}.{name.rpartition('.')[2]}": each
        for name, each in weights.items()
    }
