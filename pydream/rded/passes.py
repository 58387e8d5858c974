"""The observer's pass over a batch of patches: realism scores, and features of the best crops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pydream.models import Observer
from pydream.ops import realism_scores
from pydream.streams import to_device


class NotANumberError(Exception):
    """Logits of an image give no score.

    Attributes
    ----------
    row
        Number of the image in the batch.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"the logits of image {row} give no score")
        self.row = row


def run_observer(
    observer: Observer, patches: torch.Tensor, *, features: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logits (g·M, K) of patches and, if they are wanted, the features (g·M, D)."""
    return observer.logits_and_features(patches) if features else (observer.logits(patches), None)


def score_images(logits: torch.Tensor, labels: torch.Tensor, usable: Sequence[int]) -> torch.Tensor:
    """Score the crops of a batch of images by their logits (equation 7).

    Parameters
    ----------
    logits
        (g·M, K) float32, of M crops of each image.
    labels
        (g,) int64, on the CPU.
    usable
        Rows of the images that could be used.

    Returns
    -------
    Tensor
        (g, M) float32, beside the logits; minus infinity for the other images.

    Raises
    ------
    NotANumberError
        If a row of logits holds NaN, or only infinite numbers.
    """
    count = len(labels)
    crops = len(logits) // count
    if len(usable) < count:
        logits = logits.reshape(count, crops, -1)[usable].flatten(0, 1)
        labels = labels[usable]
    labels = to_device(labels.repeat_interleave(crops), logits.device)
    try:
        found = realism_scores(logits, labels).reshape(-1, crops)
    except ValueError as error:
        bad = logits.logsumexp(1).isfinite().logical_not().nonzero()
        if len(bad):
            raise NotANumberError(usable[int(bad[0, 0]) // crops]) from error
        raise
    if len(usable) == count:
        return found
    scores = found.new_full((count, crops), -math.inf)
    scores[usable] = found
    return scores


def of_best_crops(features: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return the features (g, D) of the best crop of each image, of equal ones the first."""
    rows = torch.arange(len(scores), device=scores.device)
    of_images: torch.Tensor = features.unflatten(0, scores.shape)
    return of_images[rows, scores.argmax(1)]
