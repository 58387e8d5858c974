"""The best patches so far, cut while their images are in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pydream.rded.patches import CutPatch, PatchMaker, Preselection
from pydream.rded.scoring import ScoredImages


@dataclass(frozen=True)
class _Contender:
    score: float
    patch: CutPatch


class Contenders:
    """Keeps the patches of open classes that may win, so that few images are decoded twice.

    A patch is dropped as soon as its class has enough better ones, so the patches kept never exceed
    those in the distilled images of a class.

    Parameters
    ----------
    maker, selection
        The run's patch maker and its preselection.
    counts
        Number of key patches of each class; 0 keeps none, where more than the score decides.
    """

    def __init__(self, maker: PatchMaker, selection: Preselection, counts: Sequence[int]) -> None:
        self._maker = maker
        self._selection = selection
        self._counts = counts
        self._classes: dict[int, dict[int, _Contender]] = {}

    def add(self, scored: ScoredImages) -> None:
        """Consider the best crop of each image of a batch, if the batch kept its images.

        Where cells differ in size, a patch cannot be cut before its cell is known.
        """
        if scored.images is None or self._maker.tiling.cells_differ:
            return
        scores = scored.scores.numpy()
        crops, best = scores.argmax(axis=1), scores.max(axis=1)
        labels = self._selection.labels[scored.candidates]
        rows = [row for label in np.unique(labels) for row in self._enter(label, labels, best)]
        if not rows:
            return
        cut = self._maker.cut(
            [int(self._selection.indices[scored.candidates[row]]) for row in rows],
            [scored.images[row] for row in rows],
            crops[rows].tolist(),
        )
        for row, patch in zip(rows, cut, strict=True):
            contender = _Contender(float(best[row]), patch)
            self._classes[int(labels[row])][scored.candidates[row]] = contender

    def _enter(self, label: int, labels: np.ndarray, best: np.ndarray) -> list[int]:
        """Return the rows that enter the best of their class; drop the patches they displace."""
        held, count = self._classes.setdefault(int(label), {}), self._counts[int(label)]
        rows = np.flatnonzero((labels == label) & np.isfinite(best))
        ranked = sorted(
            [(-held[candidate].score, candidate, -1) for candidate in held]
            + [(-float(best[row]), np.iinfo(int).max, int(row)) for row in rows]
        )
        for _, candidate, row in ranked[count:]:
            if row < 0:
                del held[candidate]
        return [row for _, _, row in ranked[:count] if row >= 0]

    def take(self, label: int) -> dict[int, CutPatch]:
        """Return the patches of a class, by candidate, and forget them."""
        contenders = self._classes.pop(label, {})
        return {candidate: contender.patch for candidate, contender in contenders.items()}
