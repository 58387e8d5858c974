"""An observer's answers to whole images and to the cells of distilled ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from pydream.errors import PydreamError
from pydream.models import Observer
from pydream.ops import realism_scores


def cell_boxes(side: int, factor: int) -> torch.Tensor:
    """Return the boxes of the cells of a collage (`pydream.ops.collage`), row by row.

    Parameters
    ----------
    side
        Side of the image, in pixels; at least `factor`.
    factor
        Number of cells along each side.

    Returns
    -------
    Tensor
        (factor², 4) int32: top, left, height, width.
    """
    pixels = np.array_split(np.arange(side), factor)  # the first ones are one pixel larger
    parts = [(int(batch[0]), len(batch)) for batch in pixels]
    boxes = [(top, left, height, width) for top, height in parts for left, width in parts]
    return torch.tensor(boxes, dtype=torch.int32)


def label_entropies(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the soft label of each row, at temperature 1, in nats.

    Parameters
    ----------
    logits
        (n, K) float32.

    Returns
    -------
    Tensor
        (n,) float32, in [0, log K].
    """
    terms: torch.Tensor = torch.special.entr(torch.softmax(logits, dim=1))
    return terms.sum(dim=1)


class Observed(NamedTuple):
    """An observer's answers to n images, on the CPU."""

    features: torch.Tensor  # (n, D) float32
    scores: torch.Tensor  # (n,) float32
    right: torch.Tensor  # (n,) bool
    entropies: torch.Tensor  # (n,) float32

    @classmethod
    def joined(cls, parts: Sequence[Observed]) -> Observed:
        """Concatenate the answers to several batches."""
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def observe(images: torch.Tensor, labels: torch.Tensor, observer: Observer) -> Observed:
    """Query the observer about (n, S, S, 3) uint8 images with these labels."""
    seen = []
    for start in range(0, len(images), observer.tile):
        rows, own = images[start : start + observer.tile], labels[start : start + observer.tile]
        views = observer.views(rows)
        logits = observer.logits(views).cpu()
        seen.append(
            Observed(
                features=observer.features(views).cpu(),
                scores=_scores(logits, own, observer),
                right=logits.argmax(dim=1) == own,
                entropies=label_entropies(logits),
            )
        )
    return Observed.joined(seen)


def patch_scores(
    images: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor, observer: Observer
) -> torch.Tensor:
    """Return the scores of the cells of (n, S, S, 3) uint8 images: (n · cells,) float32."""
    image_index = torch.arange(len(images)).repeat_interleave(len(boxes))
    boxes = boxes.repeat(len(images), 1)
    scores = []
    for start in range(0, len(boxes), observer.tile):
        rows = slice(start, start + observer.tile)
        views = observer.views(images, boxes[rows], image_index[rows])
        own = labels[image_index[rows]]
        scores.append(_scores(observer.logits(views).cpu(), own, observer))
    return torch.cat(scores)


def features_of(images: Iterator[torch.Tensor], observer: Observer) -> torch.Tensor:
    """Embed a stream of images: (n, D) float32, on the CPU; (0, 0) without images."""
    parts = []
    while tile := list(islice(images, observer.tile)):
        parts.append(observer.features(observer.views(torch.stack(tile))).cpu())
    return torch.cat(parts) if parts else torch.empty(0, 0)


def _scores(logits: torch.Tensor, labels: torch.Tensor, observer: Observer) -> torch.Tensor:
    try:
        return realism_scores(logits, labels)
    except ValueError as error:  # values that are not numbers
        raise PydreamError(f"the observer ({observer.arch}) cannot be used: {error}") from error
