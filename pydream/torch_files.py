"""Files of ``torch.save`` from anywhere, read without running code and without growing."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pydream.errors import PydreamError

_FOLDER = 0x10  # among the attributes of a member of a zip


def load_torch_file(file: Path | bytes, shown: str, classes: Sequence[Any] = ()) -> Any:
    """Read a file of ``torch.save`` that holds tensors and plain containers only.

    Parameters
    ----------
    file
        The file, or its content.
    shown
        Its name, for messages.
    classes
        Further classes and functions that it may hold, as `torch.serialization.safe_globals` takes
        them; they must run no code of the file.

    Raises
    ------
    PydreamError
        If it is compressed, or its tensors would be larger than the file.
    Exception
        Whatever ``torch.load`` raises for a damaged file; ``pickle.UnpicklingError`` for one with
        other objects, which may carry code.
    """
    size = len(file) if isinstance(file, bytes) else os.path.getsize(file)
    _check_stored(file, size, shown)
    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    with torch.serialization.safe_globals([*classes]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of raises an error, too
        content = torch.load(opened, map_location="cpu", weights_only=True)
    _check_tensors(content, size, shown)
    return content


def _check_stored(file: Path | bytes, size: int, shown: str) -> None:
    """Refuse a zip whose parts are compressed or overlap, which ``torch.save`` never writes."""
    try:
        with zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # the old format, or damaged
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > size:
        raise PydreamError(
            f"{shown} is refused: parts of it are compressed or overlap, and may be of any size in "
            "memory; save it again by torch.save"
        )
    # torch.load reads nothing of such parts, and takes for them what was in its memory before.
    unread = [one for one in members if one.external_attr & _FOLDER or not one.compress_size]
    if any(member.file_size for member in unread):
        raise PydreamError(
            f"{shown} is damaged: a part of it is empty, or marked as a folder; copy or download "
            "it again"
        )


def _check_tensors(content: Any, size: int, shown: str) -> None:
    """Refuse tensors that repeat a few values over a large shape, or that have none."""
    waiting, seen = [content], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, torch.Tensor):
            plain = part.layout == torch.strided and part.device.type == "cpu"
            if not plain or part.is_quantized or part.numel() * part.element_size() > size:
                raise PydreamError(
                    f"{shown} is refused: its tensor of shape {tuple(part.shape)} does not hold a "
                    "value for each element; save it again with dense, contiguous tensors"
                )
        elif isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
