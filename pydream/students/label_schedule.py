"""The epochs of a training that have labels of their own, that share them, or that need none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pydream.students.recipe import ResolvedRecipe


@dataclass(frozen=True)
class LabelSchedule:
    """Schedule of the labels over the epochs of a training.

    Attributes
    ----------
    every
        Number of consecutive epochs that share views and labels.
    hard
        Epochs in the middle whose labels are the classes: HALD trains on soft, then hard, then soft
        labels. They need no stored labels, and each has views of its own.
    """

    every: int = 1
    hard: range = range(0)

    def shown(self, epoch: int) -> int:
        """Return the epoch whose views and labels are shown in an epoch."""
        if epoch in self.hard:
            return epoch
        start = self.hard.stop if epoch >= self.hard.stop else 0
        return epoch - (epoch - start) % self.every

    def recipe_in(self, epoch: int, recipe: ResolvedRecipe) -> ResolvedRecipe:
        """Return the recipe of an epoch: classes are compared at temperature 1."""
        at_one = epoch in self.hard
        return dataclasses.replace(recipe, loss="kl", temperature=1.0) if at_one else recipe

    def stored(self, epochs: int) -> list[int]:
        """Return the epochs whose labels a training of some epochs needs."""
        soft = (epoch for epoch in range(epochs) if epoch not in self.hard)
        return [epoch for epoch in soft if self.shown(epoch) == epoch]


SMOOTHING = 0.8
"""Share of the hard labels between soft ones that all classes have in equal parts: HALD's default
(its published code, ``--label-smoothing``)."""
EVERY_EPOCH = LabelSchedule()
"""The schedule in which every epoch has views and labels of its own."""


def in_the_middle(hard: int, epochs: int) -> range:
    """Return some epochs in the middle of all; one more of the others comes after, if any."""
    start = (epochs - hard) // 2
    return range(start, start + hard) if hard else range(0)
