"""Images and labels in the forms in which arrays have them, brought to one form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pydream.errors import PydreamError

_CHANNELS = (1, 3, 4)
_AT_ONCE = 4096  # images that are converted at a time
_EXPECTED = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels"


def as_images(images: np.ndarray, name: str, description: str) -> np.ndarray:
    """Bring images to uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3).

    Parameters
    ----------
    images
        (N, H, W), (N, H, W, C) or (N, C, H, W): integers or floats from 0 to 255, floats from 0 to
        1, or booleans. Of four channels the last, alpha, is dropped.
    name, description
        What they are called, and the source, for messages.

    Raises
    ------
    PydreamError
        If they have another shape, or values out of these ranges.
    """
    found = f"{images.dtype} of shape {images.shape}"
    if images.dtype.kind not in "uifb" or images.ndim not in (3, 4):
        raise PydreamError(
            f"{description}: {name} must be numbers of shape {_EXPECTED}, but are {found}"
        )
    if images.size == 0:
        raise PydreamError(f"{description}: {name} are empty, of shape {images.shape}")
    if images.ndim == 4 and images.shape[3] not in _CHANNELS:
        if images.shape[1] not in _CHANNELS:
            raise PydreamError(f"{description}: {name} must be {_EXPECTED}, but are {found}")
        images = np.moveaxis(images, 1, 3)
    if images.ndim == 4 and images.shape[3] == 4:
        images = images[..., :3]
    return images if images.dtype == np.uint8 else _as_bytes(images, name, description)


def _as_bytes(images: np.ndarray, name: str, description: str) -> np.ndarray:
    least, most = images.min(), images.max()
    if not (least >= 0 and most <= 255):  # also where they are not numbers
        raise PydreamError(
            f"{description}: {name} are {images.dtype} from {least} to {most}; they must be from 0 "
            "to 255, or floats from 0 to 1: undo their normalisation, or their scale"
        )
    small = images.dtype.kind == "b" or (images.dtype.kind == "f" and most <= 1)
    scale = 255.0 if small else 1.0
    out = np.empty(images.shape, dtype=np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        out[rows] = np.rint(images[rows].astype(np.float64) * scale)
    return out


def as_labels(
    labels: np.ndarray, name: str, description: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Bring labels to integers (N,).

    Parameters
    ----------
    labels
        (N,) or (N, 1): integers, whole floats, booleans or strings; or one-hot, (N, K).
    name, description
        What they are called, and the source, for messages.
    names
        Of the classes, where they are known; labels that are strings must be among them.

    Returns
    -------
    ndarray
        Integers (N,).
    list of str or None
        Names of the classes, sorted, where the labels are strings.

    Raises
    ------
    PydreamError
        If they have another form.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "uifb":
        return _from_one_hot(labels, name, description), None
    if labels.ndim == 1 and labels.dtype.kind in "US":
        return _from_strings(labels, name, description, names)
    if labels.ndim == 1 and labels.dtype.kind == "b":
        return labels.astype(np.int64), None
    if labels.ndim == 1 and labels.dtype.kind == "f" and (labels == np.rint(labels)).all():
        return labels.astype(np.int64), None
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise PydreamError(
            f"{description}: {name} must be integers or strings of shape (N,), or one-hot of shape "
            f"(N, classes), but are {labels.dtype} of shape {labels.shape}"
        )
    return labels, None


def _from_one_hot(labels: np.ndarray, name: str, description: str) -> np.ndarray:
    single = (labels == 1).sum(axis=1) == 1
    others = (labels != 0).sum(axis=1) == 1
    wrong = np.flatnonzero(~(single & others))
    if len(wrong):
        raise PydreamError(
            f"{description}: {name} of shape {labels.shape} must be one-hot, but row {wrong[0]} is "
            "not; give one class for each image"
        )
    indices: np.ndarray = labels.argmax(axis=1)
    return indices


def _from_strings(
    labels: np.ndarray, name: str, description: str, names: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise PydreamError(f"{description}: {name} are not valid UTF-8") from error
    known = sorted({*labels.tolist()}) if names is None else list(names)
    places = {each: place for place, each in enumerate(known)}
    strange = sorted({*labels.tolist()} - {*known})
    if strange:
        raise PydreamError(f"{description}: {name} hold {strange[0]!r}, which is no class")
    return np.array([places[each] for each in labels.tolist()], dtype=np.int64), known
