"""Classes whose images are being scored."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from pydream.rded.contenders import Contenders
from pydream.rded.patches import CutPatch, PatchMaker, Preselection
from pydream.rded.scoring import ScoredImages


@dataclass(frozen=True)
class ScoredClass:
    """A class all of whose candidates have been scored.

    Attributes
    ----------
    label
        The class.
    candidates
        Its n candidates.
    scores
        (n, M) float32, on the CPU; minus infinity for an image that could not be used.
    sizes
        Height and width of each image, in pixels; meaningless for one that could not be used.
    errors
        Reason that an image could not be used, by candidate.
    enlarged
        Number of images that are smaller than a patch.
    cut
        The patches that may win, cut while their images were in memory, by candidate.
    features
        (n, D) float32, on the CPU: features of the best crop of each image, if they are wanted.
    """

    label: int
    candidates: range
    scores: torch.Tensor
    sizes: list[tuple[int, int]]
    errors: dict[int, str]
    enlarged: int
    cut: dict[int, CutPatch]
    features: torch.Tensor | None = None


class OpenClasses:
    """Collects the scores of classes, batch by batch, until each class is complete.

    Parameters
    ----------
    maker, selection
        The run's patch maker and its preselection.
    counts
        Number of patches of each class to cut early; see `Contenders`.
    finished
        Classes that an earlier run has written; `pop_complete` does not return them.
    """

    def __init__(
        self,
        maker: PatchMaker,
        selection: Preselection,
        counts: Sequence[int],
        finished: Collection[int],
    ) -> None:
        self._selection = selection
        self._contenders = Contenders(maker, selection, counts)
        self._scores: dict[int, torch.Tensor] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._features: dict[int, torch.Tensor] = {}
        self._errors: dict[int, str] = {}
        self._enlarged: set[int] = set()
        self._scored = 0  # candidates below this one are
        self._pending = deque(
            label for label in range(len(selection.starts) - 1) if label not in finished
        )

    def add(self, batch: ScoredImages) -> None:
        """Add the scores of a batch; batches come in the order of their candidates."""
        self._scores.update(zip(batch.candidates, batch.scores, strict=True))
        self._sizes.update(zip(batch.candidates, batch.sizes, strict=True))
        if batch.features is not None:
            self._features.update(zip(batch.candidates, batch.features, strict=True))
        self._errors.update(batch.errors)
        self._enlarged.update(batch.enlarged)
        self._contenders.add(batch)
        self._scored = batch.candidates[-1] + 1

    def pop_complete(self) -> Iterator[ScoredClass]:
        """Return the classes whose last candidate has been scored, and forget them."""
        while self._pending and self._selection.candidates(self._pending[0]).stop <= self._scored:
            yield self._pop(self._pending.popleft())

    def _pop(self, label: int) -> ScoredClass:
        candidates = self._selection.candidates(label)
        # A GPU knows the size of an image before decoding shows that it is unreadable.
        enlarged = self._enlarged.intersection(candidates) - self._errors.keys()
        features = [self._features.pop(row) for row in candidates if row in self._features]
        return ScoredClass(
            label,
            candidates,
            torch.stack([self._scores.pop(candidate) for candidate in candidates]),
            [self._sizes.pop(candidate) for candidate in candidates],
            {
                candidate: self._errors.pop(candidate)
                for candidate in candidates
                if candidate in self._errors
            },
            len(enlarged),
            self._contenders.take(label),
            torch.stack(features) if features else None,
        )
