"""Files of tensors that hold a distilled set: images, labels, and their possible meanings."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pydream.data.array_forms import HALF_LEVEL, levels_scale
from pydream.errors import PydreamError, first_line
from pydream.torch_files import load_torch_file

# Whitened images have a standard deviation of their means, over that of the pixels, below the first
# number, and a correlation of neighbouring pixels within the others.
_WHITENED_MEANS = 0.25
_WHITENED_NEIGHBOURS = (0.25, 0.8)
_MOST_BEYOND = 0.5  # share of values outside [0, 1] above which mean and std must be wrong
# Tolerance for probabilities rounded to float16 and summed over a thousand classes.
_SUM_TOLERANCE = 1e-3
_LEAST_PROBABILITY = 1e-12  # in place of a probability of 0, whose logarithm is not finite
# Function that unpickles the accuracies beside the images in DC's results; it makes only numbers.
# NumPy 1 and 2 have it in different modules.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS_OF_NUMPY: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]


@dataclass(frozen=True)
class LabelledTensors:
    """Images and labels from a file.

    Attributes
    ----------
    images
        (N, C, S, S) floating point or uint8; C is 1 or 3.
    labels
        (N,) int64, not checked against a number of classes; None if there are only `soft_labels`,
        or no labels at all.
    soft_labels
        (N, K) float32 logits; None if the file has only hard labels.
    in_colours
        Whether the images are known to be colours on the scale of [0, 1] that may lie beyond it,
        as CIM leaves them.
    """

    images: Tensor
    labels: Tensor | None
    soft_labels: Tensor | None
    in_colours: bool = False


def read_tensors(file: Path) -> LabelledTensors:
    """Read images and labels from a file, or from two files side by side.

    Parameters
    ----------
    file
        File of ``torch.save``; `pydream.sets.imported.open_distilled` lists its possible contents.

    Raises
    ------
    PydreamError
        If a file cannot be read, carries code, or has any other content.
    """
    content = _load(file)
    images, labels, soft = _parts(content, file)
    _check_images(images, file)
    rows = None
    if labels is not None and labels.dim() == 2:
        labels, rows = _read_rows(labels, len(images))
    if soft is None:
        soft = _beside(file, "soft_labels")
    if rows is not None:
        if soft is not None:
            raise PydreamError(
                f"{file}: the labels are soft labels already, and there are soft_labels, too: "
                "leave out one of them"
            )
        soft = rows
    if soft is not None:
        soft = as_logits(soft, len(images), file)
    if labels is not None:
        _check_labels(labels, len(images), file)
        labels = labels.long()
    of_cim = isinstance(content, dict) and {"dataset", "data", "label"} <= {*content}
    return LabelledTensors(images, labels, soft, in_colours=of_cim)


def labels_beside(file: Path) -> list[Path]:
    """Return the files beside a file of images from which `read_tensors` may take its labels."""
    found = [_named(file, kind) for kind in ("labels", "soft_labels")]
    return [labels for labels in found if labels is not None]


def read_soft_labels(file: Path, num_images: int) -> Tensor:
    """Read soft labels, (N, K) float32 logits, from a file of their own.

    Raises
    ------
    PydreamError
        If it cannot be read, or does not have a row for each image.
    """
    content = _load(file)
    if not isinstance(content, Tensor):
        raise PydreamError(f"{file} must hold a tensor of soft labels, ({num_images}, K)")
    return as_logits(content, num_images, file)


def as_logits(soft: Tensor, num_images: int, file: Path) -> Tensor:
    """Return soft labels as logits, (N, K) float32: logarithms, if rows are probabilities."""
    shape = tuple(soft.shape)
    if soft.dim() != 2 or shape[0] != num_images or not soft.is_floating_point():
        raise PydreamError(
            f"{file}: soft labels must be a row of floating point for each of {num_images} images, "
            f"({num_images}, K), got {soft.dtype} of shape {shape}"
        )
    soft = soft.detach().float()
    if not soft.isfinite().all():
        raise PydreamError(f"{file}: soft labels hold values that are not finite")
    if (soft >= 0).all() and ((soft.sum(dim=1) - 1).abs() <= _SUM_TOLERANCE).all():
        return soft.clamp(min=_LEAST_PROBABILITY).log()
    return soft


def to_pixels(
    held: LabelledTensors, file: Path, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Tensor:
    """Convert the images of a file to (N, S, S, 3) uint8, undoing the scaling.

    Values in [0, 1] and 8-bit levels, which `levels_scale` distinguishes, are used directly. For
    all others, the normalisation with `mean` and `std`, one number per channel, is undone; there is
    none if the images are known to be colours.
    """
    images = held.images
    if images.dtype == torch.uint8:
        levels = images
    else:
        images = images.detach().float()
        low, high = (float(value) for value in images.aminmax())
        scale = levels_scale(low, high)
        if scale is None:
            undone = ""
            if not held.in_colours:
                images = _undo(images, file, (low, high), mean, std)
                undone = " when mean and std are undone"
            beyond = _share_beyond(images)
            if beyond > _MOST_BEYOND:
                raise PydreamError(
                    f"{file}: {beyond:.0%} of the values are outside [0, 1], and CIM's are colours "
                    "in it: save [images, labels], and give the mean and std of the images"
                )
            if beyond:
                warnings.warn(
                    f"{file}: {beyond:.2%} of the values are outside [0, 1]{undone}, and are "
                    "clipped",
                    RuntimeWarning,
                    stacklevel=3,
                )
        elif scale == 1:
            images = images / 255
        levels = to_levels(images)
    return levels.movedim(1, -1).expand(-1, -1, -1, 3).contiguous()


def to_levels(colours: Tensor) -> Tensor:
    """Round colours on the scale of [0, 1] to uint8, and clip those beyond it."""
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8)


def may_be_whitened(held: LabelledTensors) -> bool:
    """Return whether the images are neither 8-bit levels nor colours on the scale of [0, 1]."""
    if not held.images.is_floating_point() or held.in_colours:
        return False
    low, high = (float(value) for value in held.images.aminmax())
    return levels_scale(low, high) is None


def look_whitened(images: Tensor) -> bool:
    """Return whether normalised images, (N, C, S, S), look as if they were whitened (ZCA).

    Whitening takes away what the pixels of an image have in common, so the means of whole images
    differ little beside the pixels. Neighbouring pixels stay somewhat alike, unlike those of
    images that began as noise. For images of CIFAR-10 (three classes for the last two):

    | | standard deviation of means, over that of pixels | correlation of neighbours |
    |---|---|---|
    | normalised | 0.63 | 0.95 |
    | whitened | 0.16 | 0.68 |
    | whitened, after 40 iterations of MTT | 0.07 | 0.51 |
    | noise, after 12 iterations of DM | 0.06 | 0.08 |
    """
    images = images.detach().float()
    spread = images.std()
    alike = 1 - images.diff(dim=-1).var() / (2 * images.var())
    of_means = images.mean((2, 3)).std() / spread
    centred = images.mean().abs() < _WHITENED_MEANS * spread
    least, most = _WHITENED_NEIGHBOURS
    return bool(centred and of_means < _WHITENED_MEANS and least < alike < most)


def _undo(
    images: Tensor,
    file: Path,
    found: tuple[float, float],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Tensor:
    """Undo the normalisation; raise PydreamError if most of the result is outside [0, 1]."""
    values = f"{file}: values are {found[0]:.4g} to {found[1]:.4g}, beyond [0, 1]"
    channels = images.shape[1]
    whitened = look_whitened(images)
    if (mean is None or std is None) and whitened:
        raise PydreamError(
            f"{values}, and look whitened (ZCA), as by MTT: `pydream evaluate` and `inspect` undo "
            "that with --zca and --source TRAINING_IMAGES; if they are only normalised, give "
            "--image-mean and --image-std"
        )
    if mean is None or std is None:
        raise PydreamError(
            f"{values}: give the mean and std they were normalised with (--image-mean, "
            f"--image-std), {channels} numbers each"
        )
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != channels or len(std) != channels or not finite or min(std) <= 0:
        raise PydreamError(
            f"{values}: mean and std must be {channels} numbers each, all finite, std above 0, got "
            f"{tuple(mean)} and {tuple(std)}"
        )
    if whitened:
        warnings.warn(
            f"{values}, and look whitened (ZCA), as by MTT, which mean and std do not undo: see "
            "--zca of `pydream evaluate`",
            RuntimeWarning,
            stacklevel=4,
        )
    scale, offset = (torch.tensor(list(values)).view(-1, 1, 1) for values in (std, mean))
    images = images * scale + offset
    if (beyond := _share_beyond(images)) > _MOST_BEYOND:
        raise PydreamError(
            f"{values}, and {beyond:.0%} of them are still beyond it when mean {tuple(mean)} and "
            f"std {tuple(std)} are undone: they were normalised with others"
        )
    return images


def _share_beyond(images: Tensor) -> float:
    """Return the share of values that are no 8-bit level, because they are outside [0, 1]."""
    return ((images < -HALF_LEVEL) | (images > 1 + HALF_LEVEL)).float().mean().item()


def _parts(content: Any, file: Path) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Find images, labels and soft labels in the content of a file; None for a missing one."""
    if isinstance(content, Tensor):
        return content, _beside(file, "labels"), None
    parts: list[Any] = []
    data = content.get("data") if isinstance(content, dict) else None
    if isinstance(content, dict) and not (isinstance(data, (list, tuple)) and data):
        labels = content.get("labels", content.get("label"))
        parts = [content.get("images", data), labels, content.get("soft_labels")]
    else:
        pair = content if data is None else _first_pair(data, file)
        parts = [*pair, None] if isinstance(pair, (list, tuple)) else []
    tensors = all(part is None or isinstance(part, Tensor) for part in parts)
    if len(parts) != 3 or not tensors or parts[0] is None or parts[1] is parts[2]:
        raise PydreamError(
            f"{file} holds no distilled set: it must be [images, labels], or a dict with images "
            "and labels, all of them tensors"
        )
    return parts[0], parts[1], parts[2]


def _first_pair(pairs: Sequence[Any], file: Path) -> Any:
    """Return the set of the first of several experiments."""
    if len(pairs) > 1:
        warnings.warn(
            f"{file} holds the sets of {len(pairs)} experiments; the first is taken",
            RuntimeWarning,
            stacklevel=4,
        )
    return pairs[0]


def _beside(file: Path, kind: str) -> Tensor | None:
    """Read the tensor in the file with `kind` instead of images in its name, if there is one."""
    beside = _named(file, kind)
    if beside is None:
        return None
    labels = _load(beside)
    if not isinstance(labels, Tensor) or labels.dim() not in (1, 2):
        raise PydreamError(f"{beside} must hold a tensor of labels, (N,), or soft labels, (N, K)")
    return labels


def _named(file: Path, kind: str) -> Path | None:
    """Return the file with `kind` instead of images in its name, if there is one."""
    beside = file.with_name(file.name.replace("images", kind))
    return beside if beside != file and beside.is_file() else None


def _read_rows(labels: Tensor, num_images: int) -> tuple[Tensor | None, Tensor | None]:
    """Distinguish rows of labels: hard labels as (N, 1) or one-hot rows, else soft labels."""
    integers = not (labels.is_floating_point() or labels.is_complex())
    if labels.shape[1] == 1 and integers:
        return labels[:, 0], None
    one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(dim=1) == 1).all()
    if len(labels) == num_images and bool(one_hot):
        return labels.to(torch.int64).argmax(dim=1), None
    return None, labels


def _check_labels(labels: Tensor, num_images: int, file: Path) -> None:
    """Raise PydreamError unless hard labels are a class number for each image."""
    integers = not (labels.is_floating_point() or labels.is_complex())
    if labels.dim() != 1 or not integers or len(labels) != num_images:
        raise PydreamError(
            f"{file}: labels must be one class number for each of {num_images} images, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )


def _check_images(images: Tensor, file: Path) -> None:
    """Raise PydreamError unless images are finite, (N, 1 or 3, S, S), floating point or uint8."""
    shape = tuple(images.shape)
    known = images.is_floating_point() or images.dtype == torch.uint8
    if not known or len(shape) != 4 or shape[1] not in (1, 3) or not shape[0]:
        raise PydreamError(
            f"{file}: images must be floating point or uint8, of shape (N, 3, S, S) or "
            f"(N, 1, S, S), got {images.dtype} of shape {shape}"
        )
    if shape[2] != shape[3]:
        raise PydreamError(f"{file}: images must be square, they are {shape[2]}x{shape[3]}")
    if not images.isfinite().all():
        raise PydreamError(f"{file}: images hold values that are not finite")


def _load(file: Path) -> Any:
    """Read a file of torch.save without running code."""
    try:
        return load_torch_file(file, str(file), _NUMBERS_OF_NUMPY)
    except pickle.UnpicklingError as error:
        raise PydreamError(
            f"{file} cannot be read: it is damaged, or carries objects that could run code; save "
            "it again as torch.save([images, labels], file)"
        ) from error
    except (MemoryError, PydreamError):
        raise
    except Exception as error:  # the reader of a damaged file may raise anything
        raise PydreamError(f"{file} is not a file of torch.save: {first_line(error)}") from error
