"""The real images of a step: representatives of their class, or random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pydream.dream.draws import Draw
from pydream.dream.real import ClassImages
from pydream.dream.recipes import PRESETS
from pydream.dream.resolved import ResolvedConfig
from pydream.dream.sampler import RepresentativeSampler
from pydream.seeds import derived_seed, drawn_order
from pydream.streams import to_device

_FOR_GOOD = 1 << 62  # an interval that no run is long enough for


class Rows(NamedTuple):
    """Real images of k classes.

    Attributes
    ----------
    rows
        int64 (k, B): the images of each class; beyond its count, the first one again.
    weights
        float32 (k, B), sums of 1: weight of each image, 0 beyond the count; None if all have the
        same.
    counts
        Number of images of each class; None if all have B.
    """

    rows: Tensor
    weights: Tensor | None
    counts: tuple[int, ...] | None


class RealBatches:
    """Chooses real images of some classes, for the first images and for every step.

    Parameters
    ----------
    config
        Resolved settings.
    real
        The real images.
    classes
        The k classes, ascending.
    fixed
        True if the representatives of the first step remain those of all steps.
    """

    def __init__(
        self, config: ResolvedConfig, real: ClassImages, classes: Sequence[int], *, fixed: bool
    ) -> None:
        self._config, self._real, self._classes = config, real, tuple(classes)
        self._interval = _FOR_GOOD if fixed else config.interval
        self._fixed = fixed
        self._many_classes = PRESETS[config.recipe].many_classes and config.per_cluster == 1
        self._sampler = self._representatives(config.batch_real, config.per_cluster)

    def _representatives(self, count: int, per_cluster: int) -> RepresentativeSampler:
        unnormalised = self._config.exact and self._config.of_framework.in_turn
        return RepresentativeSampler(
            self._real.pixels,
            self._real.labels,
            count,
            per_cluster=per_cluster,
            many_classes=self._many_classes,
            interval=self._interval,
            transform=None if unnormalised else self._real.normalise,
            classes=self._classes,
            seed=self._config.seed,
        )

    def first(self, network: nn.Module | None, count: int, seed: int) -> Tensor:
        """Choose the real images that the first synthetic images are made of.

        Parameters
        ----------
        network
            Network whose features tell representatives; None for random images.
        count
            Number of images of each class.
        seed
            Random seed of the random images.

        Returns
        -------
        Tensor
            int64 (k, count).
        """
        if network is None:
            return self._random(seed, 0, count).rows
        return torch.stack([chosen[:count] for chosen in self._representatives(count, 1)(network)])

    def restart(self) -> None:
        """Choose representatives anew at the next step, because the network is another one."""
        if not self._fixed:
            self._sampler.restart()

    def of_step(self, chooser: Callable[[], nn.Module], seed: int, step: int) -> Rows:
        """Choose the real images of a step.

        Parameters
        ----------
        chooser
            Function that returns the network whose features tell representatives; it is not called
            for random images.
        seed
            Random seed of the iteration.
        step
            Number of the step in the iteration.
        """
        if self._config.sampler == "random":
            return self._random(seed, step, self._config.batch_real)
        chosen = self._sampler(chooser())
        if self._config.weights == "equal":
            return padded(chosen)
        return padded(chosen, self._sampler.weights)

    def example(self) -> Rows:
        """Return rows of the shapes of a step's, which cost no pass of a network."""
        if self._config.sampler == "random":
            return self._random(0, 0, self._config.batch_real)
        device = self._real.pixels.device
        rows = [
            self._real.offsets[label] + torch.arange(count, device=device)
            for label, count in zip(self._classes, self._sampler.counts, strict=True)
        ]
        if self._config.weights == "equal":
            return padded(rows)
        return padded(rows, [torch.full(own.shape, 1 / len(own), device=device) for own in rows])

    def _random(self, seed: int, step: int, count: int) -> Rows:
        offsets, rows = self._real.offsets, []
        for label in self._classes:
            begin, end = offsets[label], offsets[label + 1]
            order = drawn_order(derived_seed(seed, Draw.REAL, step, label), end - begin)
            rows.append(torch.from_numpy(begin + order[:count]))
        device = self._real.pixels.device
        chosen: Rows = tree_map_only(Tensor, lambda own: to_device(own, device), padded(rows))
        return chosen


def padded(rows: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Rows:
    """Pad lists of rows to one length.

    Parameters
    ----------
    rows
        int64, a list for each class.
    weights
        float32, parallel to them; by default 1 / length of the list.
    """
    lengths = [len(class_rows) for class_rows in rows]
    longest = max(lengths)
    together = torch.stack(
        [
            torch.cat([class_rows, class_rows[:1].expand(longest - len(class_rows))])
            for class_rows in rows
        ]
    )
    counts = None if min(lengths) == longest else tuple(lengths)
    if weights is not None:
        given = [nn.functional.pad(own, (0, longest - len(own))) for own in weights]
        return Rows(together, torch.stack(given), counts)
    if counts is None:
        return Rows(together, None, None)
    place, length = torch.arange(longest), torch.tensor(lengths)[:, None]
    return Rows(together, to_device((place < length) / length, together.device), counts)
