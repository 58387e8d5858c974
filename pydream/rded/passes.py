"""The observers' passes over a batch of patches: scores, and features of the best crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from pydream.ops import realism_scores
from pydream.rded.patches import PatchMaker
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


def run_observers(
    maker: PatchMaker, patches: Sequence[torch.Tensor], *, features: bool
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Run all observers on the patches made for their inputs.

    Returns
    -------
    tuple[list[Tensor], Tensor | None]
        The logits of each observer, (g·M, K), and, if they are wanted, the features of the first,
        (g·M, D).
    """
    first, *others = [
        (observer, patches[number])
        for observer, number in zip(maker.observers, maker.input_of, strict=True)
    ]
    embedded = None
    if features:
        logits, embedded = first[0].logits_and_features(first[1])
    else:
        logits = first[0].logits(first[1])
    return [logits, *(observer.logits(seen) for observer, seen in others)], embedded


def score_together(
    logits: Sequence[torch.Tensor],
    labels: torch.Tensor,
    usable: Sequence[int],
    combine: Literal["log-probabilities", "logits"],
) -> torch.Tensor:
    """Score the crops of a batch of images by the logits of several observers.

    Parameters
    ----------
    logits
        (g·M, K) float32 of each observer.
    labels, usable
        The same as for `score_images`.
    combine
        ``"log-probabilities"``: the mean of the observers' scores. ``"logits"``: the score by their
        mean logits (EDC, NeurIPS 2024).

    Returns
    -------
    Tensor
        (g, M) float32; of one observer its own scores.

    Raises
    ------
    NotANumberError
        As by `score_images`.
    """
    if combine == "logits" and len(logits) > 1:
        logits = [torch.stack([*logits]).mean(dim=0)]
    scores = [score_images(of_observer, labels, usable) for of_observer in logits]
    return scores[0] if len(scores) == 1 else torch.stack(scores).mean(dim=0)


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
