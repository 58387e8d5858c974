"""The weights of a network in the content of a trainer's file, with pydream's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from pydream.formatting import listed

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
"""Keys under which trainers store a state dict."""

# Weights averaged over the training, by the names of timm, torchvision and others.
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
# Prefixes from data parallelism, torch.compile, Lightning modules and timm's wrapper.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "timm_model.")
# A head next to a backbone is part of the network, so this prefix is removed only from all names.
_WHOLE_PREFIXES = (*_PREFIXES, "backbone.")


def find_weights(content: Any) -> tuple[dict[str, torch.Tensor], str]:
    """Find the state dict in the content of a torch file.

    Parameters
    ----------
    content
        Result of ``torch.load``.

    Returns
    -------
    dict of str to Tensor
        The weights, without wrappers' prefixes of all names; empty if there is no state dict.
    str
        Description of the choice among several state dicts; empty if there was none.
    """
    weights, key, other = _state_dict(content)
    remarks = []
    if key in _AVERAGED:
        remarks.append(f"the averaged weights in {key}")
    elif other is not None:
        remarks.append(f"the weights in {key}, not the averaged ones in {other}")
    if weights.pop("n_averaged", None) is not None:
        remarks.append("the averaged weights of SWA or EMA")
    return _without_common_prefixes(weights), "; ".join(remarks)


def _state_dict(content: Any) -> tuple[dict[str, torch.Tensor], str | None, str | None]:
    """Return a state dict, its key, and the key of an averaged state dict that is ignored.

    Trained weights are preferred to averaged ones.
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
    bare = {
        name: tensor
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }
    return bare, None, None


def _without_common_prefixes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the prefixes of wrappers that all names have."""
    while weights:
        prefix = next(
            (
                prefix
                for prefix in _WHOLE_PREFIXES
                if all(name.startswith(prefix) for name in weights)
            ),
            None,
        )
        if prefix is None:
            break
        weights = _below(weights, prefix)
    return weights


def readings(weights: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """List the subsets of some weights that may be the network.

    A Lightning module has the weights of its loss next to those of its network, which have a
    prefix. But a network may also have most of its weights in a part with the name of a wrapper.

    Parameters
    ----------
    weights
        Weights as returned by `find_weights`.

    Returns
    -------
    list of dict
        The weights unchanged, then those below the prefix of most names, and so on.
    """
    found = [weights]
    while (prefix := _main_prefix(found[-1])) is not None:
        found.append(_without_common_prefixes(_below(found[-1], prefix)))
    return found


def choose_reading(found: Sequence[dict[str, torch.Tensor]], own: Iterable[str]) -> tuple[int, str]:
    """Choose the weights of a network from everything in a trainer's file.

    Parameters
    ----------
    found
        Readings as returned by `readings`.
    own
        Names of the network's weights.

    Returns
    -------
    int
        Index of the reading with most of these names; of several, the last.
    str
        Description of the weights left out; empty if none was.
    """
    names = {*own}
    chosen = max(reversed(range(len(found))), key=lambda place: len(names & found[place].keys()))
    kept = {id(tensor) for tensor in found[chosen].values()}
    outside = [name for name, tensor in found[0].items() if id(tensor) not in kept]
    remark = f"without {listed(outside)}, which is outside the network" if outside else ""
    return chosen, remark


def _below(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the weights with this prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def _main_prefix(weights: Iterable[str]) -> str | None:
    """Return the wrapper's prefix of most names, if there is one."""
    names = list(weights)
    counts = {wrapper: sum(name.startswith(wrapper) for name in names) for wrapper in _PREFIXES}
    prefix, count = max(counts.items(), key=lambda item: item[1])
    return prefix if 2 * count > len(names) else None


def fit_names(
    weights: Mapping[str, torch.Tensor], own: Iterable[str]
) -> Mapping[str, torch.Tensor]:
    """Rename weights of the same network in other code if that gives the network's own names.

    Weights outside the network are left out first, as by `choose_reading`.

    Recognised are the ResNets of kuangliu/pytorch-cifar and of DC's code (``shortcut`` for
    ``downsample``; ``linear`` or ``classifier`` for ``fc``) and DC's ConvNet (``features.0``, …).

    Parameters
    ----------
    weights
        Weights as returned by `find_weights`.
    own
        Names of the network's weights.

    Returns
    -------
    Mapping of str to Tensor
        The renamed weights if their names are then the network's own, else the original ones.
    """
    found = readings(dict(weights))
    weights = found[choose_reading(found, own := [*own])[0]]
    needed = {name for name in own if not name.endswith(".num_batches_tracked")}
    for renamed in (weights, _torchvision_resnet(weights), _convnet(weights)):
        if needed <= renamed.keys():
            return renamed
    return weights


def usual_names(weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Rename weights like `fit_names`, by the names in the file alone."""
    weights = readings(dict(weights))[-1]
    return _convnet(weights) or _torchvision_resnet(weights)


def _torchvision_resnet(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of other ResNets to torchvision's names."""
    if "layer1.0.conv1.weight" not in weights:
        return dict(weights)
    return {
        re.sub(r"^(linear|classifier)\.", "fc.", name.replace(".shortcut.", ".downsample.")): tensor
        for name, tensor in weights.items()
    }


def _convnet(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of DC's ConvNet to pydream's names; empty for any other network."""
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
        name if name in heads else f"{layers[places[name]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in weights.items()
    }
