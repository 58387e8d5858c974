"""Real images of all classes, stored on the device that matches them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pydream.data import Source
from pydream.data.resized import load_images
from pydream.data.unreadable import Unreadable
from pydream.data.whitening import Whitening, check_side, fit_once
from pydream.errors import PydreamError

_MOST_AT_ONCE = 4096  # number of images summed at a time


@dataclass(frozen=True)
class ClassImages:
    """Real images sorted by class, as uint8 on one device; gathered and normalised there.

    Attributes
    ----------
    pixels
        uint8 (N, C, S, S).
    labels
        int64 (N,), ascending.
    offsets
        First image of each class, and the end of the last.
    keys
        Name of each image in the source.
    mean, std
        (C,) per channel, on the scale of [0, 1].
    whitening
        The whitening that is fitted on these images, on their device; None if networks see them
        only normalised.
    """

    pixels: Tensor
    labels: Tensor
    offsets: tuple[int, ...]
    keys: tuple[str, ...]
    mean: Tensor
    std: Tensor
    whitening: Whitening | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.offsets) - 1

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.pixels.shape[-1])

    def take(self, rows: Tensor) -> Tensor:
        """Return the images of some rows, in [0, 1]: float32 (*rows.shape, C, S, S)."""
        return self.pixels[rows].float() / 255

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise (..., C, S, S) in [0, 1], or whiten them."""
        if self.whitening is not None:
            return self.whitening(images)
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    def colours(self, normalised: Tensor) -> Tensor:
        """Undo `normalise`."""
        if self.whitening is not None:
            return self.whitening.undo(normalised)
        return normalised * self.std[:, None, None] + self.mean[:, None, None]

    def colour_step(self, step: Tensor) -> Tensor:
        """Return how far colours move if normalised images move by a step, (..., C, S, S)."""
        if self.whitening is not None:
            return self.whitening.undo_step(step)
        return step * self.std[:, None, None]


def load_class_images(
    source: Source,
    side: int,
    *,
    device: torch.device,
    workers: int,
    allow_skipped: float,
    zca: bool = False,
) -> tuple[ClassImages, list[dict[str, str]]]:
    """Decode all images of a source and bring them to one side.

    Parameters
    ----------
    source
        The images.
    side
        Side of the images, in pixels.
    device
        Device that stores them.
    workers
        Threads that decode.
    allow_skipped
        Largest share of the images that may be unreadable; these are left out.
    zca
        Fit a whitening on the images.

    Returns
    -------
    ClassImages
        The readable images.
    list of dict
        ``key`` and ``reason`` of each image that was skipped.

    Raises
    ------
    PydreamError
        If too many images are unreadable, or all of a class, or they are too large to be whitened.
    """
    if zca:
        check_side(side)
    unreadable = Unreadable(source, len(source), allow_skipped)
    images = load_images(source, range(len(source)), side, workers=workers, unreadable=unreadable)
    unreadable.say()
    order = np.setdiff1d(np.arange(len(source)), list(unreadable.reasons))
    counts = np.bincount(source.labels[order], minlength=len(source.class_names))
    if not counts.all():
        empty = source.class_names[int(counts.argmin())]
        raise PydreamError(f"{source.description}: class {empty} has no readable image")
    if unreadable.reasons:
        images = images[torch.from_numpy(order)]
    pixels = images.permute(0, 3, 1, 2).contiguous()
    mean, std = _statistics(pixels)
    ends = itertools.accumulate(counts.tolist(), initial=0)
    labels = torch.from_numpy(source.labels[order].astype(np.int64))
    keys = tuple(source.keys[row] for row in order)
    return (
        ClassImages(
            pixels.to(device),
            labels.to(device),
            tuple(ends),
            keys,
            mean.to(device),
            std.to(device),
            fit_once(pixels).to(device) if zca else None,
        ),
        unreadable.records(),
    )


def _statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, from exact sums."""
    channels = pixels.shape[1]
    total, squares = torch.zeros(channels, dtype=torch.int64), torch.zeros(channels).long()
    for part in torch.split(pixels, _MOST_AT_ONCE):
        values = part.to(torch.int32)
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = pixels.numel() / channels * 255
    mean = total.double() / count
    variance = squares.double() / (count * 255) - mean.square()
    std = variance.clamp(min=0).sqrt()
    std[std == 0] = 1.0  # for a channel of one colour
    return mean.float(), std.float()


def check_enough(images: ClassImages, class_names: Sequence[str], ipc: int, factor: int) -> None:
    """Raise PydreamError if a class has fewer images than its synthetic ones are made of."""
    needed = ipc * factor**2
    counts = [end - begin for begin, end in itertools.pairwise(images.offsets)]
    least = min(range(len(counts)), key=counts.__getitem__)
    if counts[least] < needed:
        raise PydreamError(
            f"class {class_names[least]} has {counts[least]} images, fewer than the {needed} that "
            f"ipc {ipc} and factor {factor} take; lower --ipc or --factor"
        )
