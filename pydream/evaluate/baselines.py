"""Real images as baselines for a distilled set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pydream.data import Source
from pydream.data.resized import (
    LabelledImages,
    fitted_images,
    load_split,
    whole_images,
    whole_view_boxes,
)
from pydream.data.unreadable import Unreadable
from pydream.errors import PydreamError
from pydream.evaluate.config import is_tiled, rule_of
from pydream.evaluate.coresets import herding, k_centre
from pydream.models import Observer
from pydream.ops import random_keys
from pydream.progress import track
from pydream.seeds import Draw
from pydream.tiling import CellFit, Tiling

_MOST_BYTES = 16 << 30  # in all images together
_AT_ONCE = 1024  # number of images decoded and embedded, or tiled, at a time

Rows: TypeAlias = npt.NDArray[np.int64]
"""Indices of images in a source."""


@dataclass(frozen=True)
class _Features:
    """The observer's features of all readable images of a source, the rows of a class contiguous.

    Attributes
    ----------
    rows
        Index of each image in the source.
    values
        float32 (R, D).
    offsets
        First row of each class, and the end of the last.
    unreadable
        The images that are left out.
    """

    rows: Rows
    values: torch.Tensor
    offsets: list[int]
    unreadable: Unreadable


class Baselines:
    """Chooses real images, as many as a distilled set has, and tiles them like the set if asked.

    Parameters
    ----------
    source
        The training split.
    per_class
        Number of images of every class, or of each class. A smaller class gives all of its own;
        where they are tiled, it repeats some to fill its last image. Ignored for ``"full"``.
    side
        Side of the images, in pixels.
    factor, cells
        Number of cells along each side of a tiled image, and the way to fit a real image into a
        cell.
    observer
        Observer whose features select the coresets. They are computed once.
    workers
        Number of threads that decode.
    allow_skipped
        Largest share of the images that may be unreadable, for baselines that read all of them.
    """

    def __init__(
        self,
        source: Source,
        per_class: int | Sequence[int],
        side: int,
        *,
        factor: int = 1,
        cells: CellFit = "shrunk",
        observer: Observer | None = None,
        workers: int,
        allow_skipped: float = 0.01,
    ) -> None:
        self._source, self._per_class, self._side = source, per_class, side
        self._factor, self._cells = factor, cells
        self._observer, self._workers = observer, workers
        self._allow_skipped = allow_skipped

    def images(self, name: str, seed: int) -> LabelledImages:
        """Return the images of a baseline.

        Parameters
        ----------
        name
            ``"random"``, ``"herding"``, ``"k-centre"`` or ``"full"``; or one of the first three
            with ``"-tiled"`` behind, for factor² as many real images in the cells of as many
            images.
        seed
            Random seed of ``random``; the others do not depend on it.

        Raises
        ------
        PydreamError
            If too many images are unreadable, all images of a class are, a coreset has no observer,
            or the images exceed the memory limit.
        """
        if name == "full":
            return _all_images(self._source, self._side, self._workers, self._allow_skipped)
        tiling = Tiling(self._side, self._factor if is_tiled(name) else 1, self._cells)
        rule = rule_of(name)
        if rule == "random":
            return _random(self._source, self._per_class, tiling, seed, self._workers)
        if self._observer is None:
            raise PydreamError(f"the {rule} coreset needs an observer's features: give --observer")
        features, choose = self._features, herding if rule == "herding" else k_centre
        counts = _counts(self._source, self._per_class, tiling)
        chosen = [
            features.rows[rows.cpu().numpy()]
            for rows in choose(features.values, features.offsets, counts)
        ]
        return _load(self._source, chosen, tiling, self._workers, features.unreadable)

    @cached_property
    def _features(self) -> _Features:
        assert self._observer is not None
        unreadable = Unreadable(self._source, len(self._source), self._allow_skipped)
        features = _embed(self._source, self._side, self._observer, self._workers, unreadable)
        unreadable.say()
        return features


def _random(
    source: Source, per_class: int | Sequence[int], tiling: Tiling, seed: int, workers: int
) -> LabelledImages:
    """Draw images of every class: the first readable ones, in an order that seed and identity give.

    A smaller class gives all of its own.
    """
    ids = torch.from_numpy(source.ids)
    keys = random_keys(ids, seed=seed, draw=Draw.RANDOM_BASELINE).numpy()
    unreadable = Unreadable(source, len(source), None)
    counts = _counts(source, per_class, tiling)
    while True:
        chosen = [
            _first(source, label, keys, unreadable, count) for label, count in enumerate(counts)
        ]
        known = len(unreadable.reasons)
        images = _load(source, chosen, tiling, workers, unreadable)
        if len(unreadable.reasons) == known:
            unreadable.say()
            return images


def _counts(source: Source, per_class: int | Sequence[int], tiling: Tiling) -> list[int]:
    """Return the number of real images that the images of each class are made of."""
    classes = len(source.class_names)
    numbers = [per_class] * classes if isinstance(per_class, int) else per_class
    return [number * tiling.factor**2 for number in numbers]


def _first(
    source: Source,
    label: int,
    keys: Rows,
    unreadable: Unreadable,
    count: int,
) -> Rows:
    """Return the readable images of a class with the lowest keys."""
    indices = source.class_indices(label)
    usable = indices[~np.isin(indices, list(unreadable.reasons))]
    if not len(usable):
        raise PydreamError(
            f"{source.description}: class {source.class_names[label]} has no readable image"
        )
    return usable[np.argsort(keys[usable], kind="stable")[:count]]


def _embed(
    source: Source, side: int, observer: Observer, workers: int, unreadable: Unreadable
) -> _Features:
    """Compute the features of all readable images."""
    order = np.concatenate([source.class_indices(c) for c in range(len(source.class_names))])
    features: list[torch.Tensor] = []
    readable: list[int] = []
    with track("features for coresets", len(order), "images") as advance:
        for images, places in whole_images(
            source,
            order.tolist(),
            side,
            workers=workers,
            unreadable=unreadable,
            rows=_AT_ONCE,
            advance=advance,
        ):
            features.append(observer.features(observer.views(images.to(observer.device))))
            readable += places
    rows = order[np.asarray(readable, dtype=np.int64)]
    lengths = np.bincount(source.labels[rows], minlength=len(source.class_names))
    if (lengths == 0).any():
        missing = source.class_names[int(np.argmin(lengths))]
        raise PydreamError(f"{source.description}: class {missing} has no readable image")
    offsets = [0, *np.cumsum(lengths).tolist()]
    return _Features(rows, torch.cat(features), offsets, unreadable)


def _load(
    source: Source,
    chosen: Sequence[Rows],
    tiling: Tiling,
    workers: int,
    unreadable: Unreadable,
) -> LabelledImages:
    """Decode the chosen images of each class, and tile them; unreadable ones are black.

    Decoded images and cells are held for a limited number of tiled images at a time.
    """
    ranked = _by_cell(chosen, tiling.factor**2)
    cells, count = ranked.shape
    images = torch.zeros((count, tiling.side, tiling.side, 3), dtype=torch.uint8)
    most = max(1, _AT_ONCE // cells)
    groups = [ranked[:, first : first + most] for first in range(0, count, most)]
    order = np.concatenate([group.ravel() for group in groups])
    cell = np.concatenate([np.arange(group.size) // group.shape[1] for group in groups])

    def fit(decoded: list[torch.Tensor], places: list[int]) -> torch.Tensor:
        boxes = whole_view_boxes(decoded, tiling.side)
        return tiling.cut(decoded, boxes, cell[places].tolist())

    for fitted, places in fitted_images(
        source,
        order.tolist(),
        fit,
        workers=workers,
        unreadable=unreadable,
        rows=most * cells,
    ):
        number = places[0] // (most * cells)
        of_group = fitted.new_zeros((groups[number].size, *fitted.shape[1:]))
        of_group[torch.tensor(places) - number * most * cells] = fitted
        tiled = tiling.tile(of_group[None])[0]
        images[number * most : number * most + len(tiled)] = tiled.permute(0, 2, 3, 1)
    return LabelledImages(images, torch.from_numpy(source.labels[ranked[0]].astype(np.int64)))


def _by_cell(chosen: Sequence[Rows], cells: int) -> Rows:
    """Return (cells, N) indices for N tiled images, class by class, as `collage` ranks patches.

    Where the images of a class do not fill its last tiled image, the first ones are repeated.
    """
    ranked = [np.resize(rows, -(-len(rows) // cells) * cells) for rows in chosen]
    return np.concatenate([rows.reshape(cells, -1) for rows in ranked], axis=1)


def _all_images(source: Source, side: int, workers: int, allow_skipped: float) -> LabelledImages:
    size = len(source) * 3 * side**2
    if size > _MOST_BYTES:
        raise PydreamError(
            f"{source.description}: all {len(source):,} images are {size >> 30} GiB at {side} "
            f"pixels a side, above the {_MOST_BYTES >> 30} GiB that are held; leave out the "
            "baseline full"
        )
    return load_split(
        source, side, workers=workers, device=torch.device("cpu"), allow_skipped=allow_skipped
    )
