"""Weights on disk: read without running code, checked against the network, never overwritten."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.files import check_free, write_new
from pydream.formatting import listed
from pydream.models.foreign_files import foreign_file, foreign_folder
from pydream.models.state_dicts import WRAPPERS, find_weights, fit_names
from pydream.torch_files import load_torch_file

# Heads of torchvision's GoogLeNet and Inception that only training uses.
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")


class Checkpoint(NamedTuple):
    """Content of a file of weights."""

    weights: dict[str, torch.Tensor]
    metadata: dict[str, str]
    remark: str
    """The state dict chosen among several; empty if there was no choice."""


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a checkpoint without running any code in it.

    Parameters
    ----------
    path
        A safetensors file, or a torch file with a state dict in it, bare or under a key that
        trainers use: ``model``, ``state_dict``, ``net``, ``state_dict_ema``, …

    Returns
    -------
    dict of str to Tensor
        The weights on the CPU. Prefixes that parallel, compiled, averaged and Lightning models put
        before all names (``module.``, ``_orig_mod.``, ``model.``, …) are removed. A prefix of only
        most names stays; `load_into` removes it if the network has no such names.
    dict of str to str
        The metadata of a safetensors file; the ``arch`` of a torch file, if it has one.

    Raises
    ------
    PydreamError
        If the file is missing, is not a checkpoint, or carries code.
    """
    return open_checkpoint(path)[:2]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint like `read_weights`, and describe the choice among several state dicts."""
    path = Path(path)
    try:
        if not path.is_file():
            what = foreign_folder(path) if path.is_dir() else "does not exist; give another file"
            raise PydreamError(f"checkpoint {path} {what}")
        is_safetensors = _looks_like_safetensors(path)
        foreign = None if is_safetensors else foreign_file(path)
    except OSError as error:
        raise PydreamError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if foreign is not None:
        raise PydreamError(f"checkpoint {path} {foreign}")
    checkpoint = _read_safetensors(path) if is_safetensors else _read_torch(path)
    empty = [name for name, tensor in checkpoint.weights.items() if not tensor.numel()]
    if empty:
        raise PydreamError(
            f"checkpoint {path} has no values for {listed(empty)}: it is one shard of a network "
            "split over processes; join the shards (DeepSpeed: zero_to_fp32.py)"
        )
    return checkpoint


def load_into(
    model: nn.Module, path: str | os.PathLike[str], weights: Mapping[str, torch.Tensor], arch: str
) -> None:
    """Copy weights into a network, in place; all must fit.

    Parameters
    ----------
    model
        Network that the weights are loaded into.
    path
        Origin of the weights, for messages.
    weights
        Weights as returned by ``read_weights``.
    arch
        Architecture of the network, for messages.

    Raises
    ------
    PydreamError
        If names or shapes differ (another architecture, number of classes or side), or a weight is
        NaN or infinite.
    """
    own = model.state_dict()
    given = {
        name: tensor
        for name, tensor in fit_names(weights, own).items()
        if name in own or not name.startswith(_AUXILIARY_HEADS)
    }
    # Old torch files lack batch norm's counters, which evaluation does not use.
    optional = {name for name in own if name.endswith(".num_batches_tracked")}
    missing = [name for name in own if name not in given and name not in optional]
    unexpected = [name for name in given if name not in own]
    if missing or unexpected:
        parts = [
            f"{word} {listed(names)}"
            for word, names in (("it lacks", missing), ("it has the unknown", unexpected))
            if names
        ]
        raise PydreamError(f"{path} does not hold weights for {arch}: {' and '.join(parts)}")
    for name, mine in own.items():
        if name in given and given[name].shape != mine.shape:
            raise _shape_error(model, path, arch, name, given[name], mine)
    _check_values(given, path)
    model.load_state_dict({**own, **given})


def save_weights(
    model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Write the weights of a network as safetensors, under another name first and then renamed.

    Parameters
    ----------
    model
        Network whose parameters and buffers are written.
    path
        The new file; missing folders are made.
    metadata
        Metadata for the file's header.

    Raises
    ------
    PydreamError
        If the file exists or cannot be written.
    """
    path = Path(path)
    check_free(path)
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    try:
        content = _serialize(tensors, metadata)
    except safetensors.SafetensorError as error:
        raise PydreamError(f"weights cannot be written to {path}: {error}") from error
    write_new(path, content)


def _serialize(tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file, always the same for the same content.

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


def hash_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256, in hex, of names, dtypes, shapes and bytes, in the order of the names.

    The same weights give the same hash in any file.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _looks_like_safetensors(path: Path) -> bool:
    """Return whether the file begins like safetensors: with the length of a JSON header."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and start[:2] != b"PK"


def _read_safetensors(path: Path) -> Checkpoint:
    """Read a safetensors file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata: dict[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise PydreamError(f"{path} is not a complete safetensors file: {error}") from error
    weights, remark = find_weights(content)
    if not weights:
        raise PydreamError(f"{path} holds no weights")
    return Checkpoint(weights, metadata, remark)


def _read_torch(path: Path) -> Checkpoint:
    """Read a file of torch.save with the reader that makes only tensors and plain containers."""
    try:
        # torchvision's and timm's trainers keep their options in a Namespace, a bare record.
        content = load_torch_file(path, str(path), [argparse.Namespace])
    except (MemoryError, PydreamError):
        raise
    except Exception as error:  # a damaged file fails in any way
        raise _unreadable(path, error) from error
    arch = content.get("arch") if isinstance(content, dict) else None
    weights, remark = find_weights(content)
    if not weights:
        held = listed([str(key) for key in content]) if isinstance(content, dict) else ""
        raise PydreamError(
            f"{path} is not a checkpoint: it holds no state dict, neither bare nor under "
            f"{', '.join(WRAPPERS)}" + (f"; it has {held}" if held else "")
        )
    return Checkpoint(weights, {"arch": arch} if isinstance(arch, str) else {}, remark)


def _unreadable(path: Path, error: Exception) -> PydreamError:
    """Distinguish a pickle with objects in it from a file that is not a checkpoint."""
    with path.open("rb") as file:
        pickled = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    if not (pickled and isinstance(error, pickle.UnpicklingError)):
        return PydreamError(
            f"{path} is not a checkpoint: neither safetensors nor a torch file that can be read; "
            "it may be cut short: copy or download it again"
        )
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named is not None and named[1].startswith("torch.distributed"):
        return PydreamError(
            f"{path} is one shard of a network split over processes ({named[1]}): save the whole "
            "with torch.distributed.checkpoint.state_dict.get_model_state_dict and "
            "full_state_dict=True"
        )
    return PydreamError(
        f"{path} is refused: it carries {named[1] if named else 'Python objects'}, and such a file "
        "can run any code when it is loaded; if you trust it, convert it once: "
        f"c = torch.load({str(path)!r}, weights_only=False), then torch.save(c['state_dict'], "
        "'weights.pt'), or torch.save(c.state_dict(), 'weights.pt') where c is a model"
    )


def _check_values(weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Raise PydreamError if a weight is not finite."""
    broken = [
        name
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if broken:
        raise PydreamError(
            f"{path} has weights that are NaN or infinite ({listed(broken)}): its training "
            "diverged; give an earlier checkpoint"
        )


def _shape_error(
    model: nn.Module,
    path: str | os.PathLike[str],
    arch: str,
    name: str,
    given: torch.Tensor,
    mine: torch.Tensor,
) -> PydreamError:
    """Name the tensor that differs, and the reason if known."""
    shapes = f"{name} is {tuple(given.shape)} in {path} but {tuple(mine.shape)} in {arch}"
    alone = given.shape[1:] == mine.shape[1:] and name.startswith(_classifier_names(model))
    why = f": it was trained for {given.shape[0]} classes" if alone else ""
    return PydreamError(f"{shapes}{why}")


def _classifier_names(model: nn.Module) -> str:
    """Return the name of the last layer with weights."""
    names = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    return names[-1].rpartition(".")[0] + "." if names else "."
