"""Conversion of images and labels from the various forms of arrays to one form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pydream.errors import PydreamError

_CHANNELS = (1, 3, 4)
# Floats that reach this value are 8-bit levels. Normalised images span at most 1 / std, which is
# below 5 for every usual std (0.2 to 0.35).
_LEAST_BRIGHT_LEVEL = 8
_AT_ONCE = 4096  # number of images converted at a time
_EXPECTED = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels"

HALF_LEVEL = 0.5 / 255
"""Distance outside [0, 1] at which a value still rounds to an 8-bit level."""


def levels_scale(least: float, most: float) -> float | None:
    """Return the factor that turns floating-point pixels into 8-bit levels.

    Resizing and arithmetic leave values slightly outside their range; up to half a level outside,
    they are clamped.

    Parameters
    ----------
    least, most
        The range of the values.

    Returns
    -------
    float or None
        255 for values in [0, 1]; 1 for levels from 0 to 255 that reach at least 8; None for all
        others, which were normalised or are not numbers.
    """
    if least >= -HALF_LEVEL and most <= 1 + HALF_LEVEL:
        return 255.0
    return 1.0 if least >= -0.5 and _LEAST_BRIGHT_LEVEL <= most < 255.5 else None


def as_images(images: np.ndarray, name: str, description: str) -> np.ndarray:
    """Convert images to uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3).

    Parameters
    ----------
    images
        (N, H, W), (N, H, W, C) or (N, C, H, W): integers from 0 to 255, booleans, or floats in a
        range of `levels_scale`. Of four channels, the last (alpha) is dropped.
    name, description
        Name of the array and of the source, for messages.

    Raises
    ------
    PydreamError
        If they have another shape, or values outside of these ranges.
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
    scale: float | None
    if images.dtype.kind == "f":
        scale = levels_scale(float(least), float(most))
    else:
        scale = 255.0 if images.dtype.kind == "b" else 1.0 if 0 <= least <= most <= 255 else None
    if scale is None:
        raise PydreamError(
            f"{description}: {name} are {images.dtype} from {least} to {most}; they must be floats "
            f"from 0 to 1, or numbers from 0 to 255 (floats that reach {_LEAST_BRIGHT_LEVEL} at "
            "least): undo their normalisation, or their scale"
        )
    out = np.empty(images.shape, dtype=np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        out[rows] = np.rint(images[rows].astype(np.float64) * scale).clip(0, 255)
    return out


def as_labels(
    labels: np.ndarray, name: str, description: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Convert labels to integers (N,).

    Parameters
    ----------
    labels
        (N,) or (N, 1): integers, whole floats, booleans or strings; or one-hot, (N, K).
    name, description
        Name of the array and of the source, for messages.
    names
        Names of the classes, if known; labels that are strings must be among them.

    Returns
    -------
    ndarray
        Integers (N,).
    list of str or None
        Names of the classes, sorted, if the labels are strings.

    Raises
    ------
    PydreamError
        If they have another form.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "uifb":
        return _from_one_hot(labels, name, description), None
    if labels.ndim == 1 and (labels.dtype.kind in "US" or _are_strings(labels)):
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


def _are_strings(labels: np.ndarray) -> bool:
    """Return whether objects are all strings, as in pandas' columns."""
    return labels.dtype.kind in "OT" and all(isinstance(label, str) for label in labels.tolist())


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
    places = {label: place for place, label in enumerate(known)}
    strange = sorted({*labels.tolist()} - {*known})
    if strange:
        raise PydreamError(f"{description}: {name} hold {strange[0]!r}, which is not a class")
    return np.array([places[label] for label in labels.tolist()], dtype=np.int64), known
