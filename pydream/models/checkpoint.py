"""Weights on disk: read without running code, checked against the model, never overwritten."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from pydream.errors import PydreamError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
# Heads that torchvision's GoogLeNet and Inception use in training only.
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")
_LISTED_KEYS = 3


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a checkpoint; no code in it is ever run.

    Parameters
    ----------
    path
        A safetensors file, or a torch file with a state dict in it, bare or under ``model``,
        ``state_dict``, ``model_state_dict`` or ``net``.

    Returns
    -------
    dict of str to Tensor
        The weights on the CPU, their names without the ``module.`` and ``_orig_mod.`` that
        parallel and compiled models put in front.
    dict of str to str
        The metadata of a safetensors file; of a torch file its ``arch``, if it has one.

    Raises
    ------
    PydreamError
        If the file is missing, is no checkpoint, or carries code.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise PydreamError(f"checkpoint {path} {what}; give a .safetensors, .pt or .pth file")
    try:
        is_safetensors = _looks_like_safetensors(path)
    except OSError as error:
        raise PydreamError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    weights, metadata = _read_safetensors(path) if is_safetensors else _read_torch(path)
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in weights):
                weights = {name.removeprefix(prefix): each for name, each in weights.items()}
    return weights, metadata


def load_into(
    model: nn.Module, path: str | os.PathLike[str], weights: Mapping[str, torch.Tensor], arch: str
) -> None:
    """Copy weights into a model, in place; all must fit.

    Parameters
    ----------
    model
        What takes the weights.
    path
        Where they came from, for messages.
    weights
        As ``read_weights`` returns them.
    arch
        What the model is, in words, for messages.

    Raises
    ------
    PydreamError
        If names or shapes differ: another architecture, another number of classes, another side.
    """
    own = model.state_dict()
    given = {
        name: each
        for name, each in weights.items()
        if name in own or not name.startswith(_AUXILIARY_HEADS)
    }
    # Old torch files lack the counters of batch norm, which evaluation does not use.
    optional = {name for name in own if name.endswith(".num_batches_tracked")}
    missing = [name for name in own if name not in given and name not in optional]
    unexpected = [name for name in given if name not in own]
    if missing or unexpected:
        parts = [
            f"{word} {_listed(names)}"
            for word, names in (("it lacks", missing), ("it has the unknown", unexpected))
            if names
        ]
        raise PydreamError(f"{path} does not hold weights for {arch}: {' and '.join(parts)}")
    for name, mine in own.items():
        if name in given and given[name].shape != mine.shape:
            raise _shape_error(model, path, arch, name, given[name], mine)
    model.load_state_dict({**own, **given})


def save_weights(
    model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Write the weights of a model as safetensors, beside the path first and then renamed.

    Parameters
    ----------
    model
        Whose parameters and buffers are written.
    path
        The file to make, and its folders if need be.
    metadata
        Stored in the file's header.

    Raises
    ------
    PydreamError
        If something is there already, or cannot be written.
    """
    path = Path(path)
    check_free(path)
    tensors = {
        name: each.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, each in model.state_dict().items()
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(_serialize(tensors, metadata))
        check_free(path)
        part.rename(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise PydreamError(f"weights cannot be written to {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # never made, or renamed
            part.unlink()


def _serialize(tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file, the same ones for the same content.

    safetensors itself writes the metadata in an order that changes from call to call.
    """
    content = safetensors.torch.save(tensors, metadata=dict(metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def check_free(path: Path) -> None:
    """Raise PydreamError if there is something at the path."""
    if os.path.lexists(path):
        raise PydreamError(f"{path} exists and is not overwritten; give another path or remove it")


def hash_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256, in hex, over names, dtypes, shapes and bytes, in the order of the names.

    The same weights give the same hash whatever file they came in.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _looks_like_safetensors(path: Path) -> bool:
    """Return whether the file starts as safetensors do: the length of a JSON header, then it."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and start[:2] != b"PK"


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata: dict[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise PydreamError(f"{path} is no whole safetensors file: {error}") from error
    if not weights:
        raise PydreamError(f"{path} holds no weights")
    return weights, metadata


def _read_torch(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a file of torch.save with the reader that builds tensors and plain containers only."""
    try:
        # Namespace, a bare record, is how torchvision's and timm's trainers keep their options.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is an error here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint fail in any way
        raise _unreadable(path, error) from error
    arch = content.get("arch") if isinstance(content, dict) else None
    weights = _find_weights(content)
    if not weights:
        raise PydreamError(
            f"{path} is no checkpoint: it holds no state dict, neither bare nor under "
            f"{', '.join(_WRAPPERS)}"
        )
    return weights, {"arch": arch} if isinstance(arch, str) else {}


def _unreadable(path: Path, error: Exception) -> PydreamError:
    """Tell a pickle with objects in it from what is no checkpoint at all."""
    with path.open("rb") as file:
        pickled = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    refused = isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error)
    if not (pickled and refused):
        return PydreamError(
            f"{path} is no checkpoint: neither safetensors nor a torch file that can be read"
        )
    named = re.search(r"GLOBAL (\S+)", str(error))
    return PydreamError(
        f"{path} is refused: it carries {named[1] if named else 'Python objects'}, and such a file "
        "can run any code when it is loaded; if you trust it, convert it once: "
        f"c = torch.load({str(path)!r}, weights_only=False), then torch.save(c['state_dict'], "
        "'weights.pt'), or torch.save(c.state_dict(), 'weights.pt') where c is a model"
    )


def _find_weights(content: Any) -> dict[str, torch.Tensor]:
    """Return the named tensors of a state dict, bare or wrapped; none if there is no state dict."""
    if not isinstance(content, dict):
        return {}
    for wrapper in _WRAPPERS:
        inner = _find_weights(content.get(wrapper))
        if inner:
            return inner
    return {name: each for name, each in content.items() if isinstance(each, torch.Tensor)}


def _shape_error(
    model: nn.Module,
    path: str | os.PathLike[str],
    arch: str,
    name: str,
    given: torch.Tensor,
    mine: torch.Tensor,
) -> PydreamError:
    """Say which tensor differs, and why where that is known."""
    shapes = f"{name} is {tuple(given.shape)} in {path} but {tuple(mine.shape)} in {arch}"
    alone = given.shape[1:] == mine.shape[1:] and name.startswith(_classifier_names(model))
    why = f": it was trained for {given.shape[0]} classes" if alone else ""
    return PydreamError(f"{shapes}{why}")


def _classifier_names(model: nn.Module) -> str:
    """Return the name of the last layer with weights."""
    names = [name for name, each in model.named_parameters() if each.dim() > 1]
    return names[-1].rpartition(".")[0] + "." if names else "."


def _listed(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    rest = len(names) - _LISTED_KEYS
    return ", ".join(names[:_LISTED_KEYS]) + (f" and {rest} more" if rest > 0 else "")
