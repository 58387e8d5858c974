"""Batches of the images that train and test an observer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pydream.data import ImageError, Source, decode_ahead
from pydream.data.resized import SMALL_SIDE, whole_images
from pydream.data.unreadable import Unreadable
from pydream.data_parallel import ALONE, DataParallel
from pydream.errors import PydreamError
from pydream.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from pydream.ops import crop_resize, random_crop_boxes, random_keys
from pydream.seeds import Draw

_MOST_PADDING = 4  # pixels on each side, for sides of 32 and more; an eighth of smaller sides
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_BUDGET = 256 << 20  # bytes of decoded images that may wait

Indices = npt.NDArray[np.int64]


def hold_out(source: Source, test: Source | None, seed: int) -> tuple[Indices, Indices, str]:
    """Choose the training images and the test images.

    Without a test split, a tenth of each class, at least one image, is held out: the images with
    the lowest random keys, so that further images of one class change no other.

    Returns
    -------
    tuple[ndarray, ndarray, str]
        Indices in `source` for training, indices in `test` (or `source`) for testing, and a
        description of the latter.

    Raises
    ------
    PydreamError
        If the splits have different classes, or a class has a single image.
    """
    everything = np.arange(len(source))
    if test is not None:
        if test.class_names != source.class_names:
            differing = sorted({*test.class_names} ^ {*source.class_names})[:3]
            raise PydreamError(
                f"{source.description}: the classes of the train and test splits differ: "
                f"{', '.join(differing)} is in one only"
            )
        return everything, np.arange(len(test)), "images of the test split"
    ids = torch.from_numpy(source.ids)
    aside = []
    for label, name in enumerate(source.class_names):
        members = source.class_indices(label)
        if len(members) < 2:
            raise PydreamError(
                f"{source.description}: class {name} has {len(members)} image; at least 2 are "
                "needed, one to train on and one to measure on, where there is no test split"
            )
        keys = random_keys(ids[torch.from_numpy(members)], seed=seed, draw=Draw.HOLD_OUT)
        order = torch.argsort(keys, stable=True).numpy()
        aside.append(np.sort(members[order[: max(1, len(members) // 10)]]))
    held_out = np.concatenate(aside)
    return np.setdiff1d(everything, held_out), held_out, "training images kept aside"


class TrainingImages:
    """Yields the training images batch by batch, augmented.

    Images of up to 64 pixels a side are decoded once, stored, and cropped after padding. Larger
    images are decoded again in every epoch, by threads, and cropped at random scales.

    Parameters
    ----------
    source, indices
        The images, and the indices of those to use.
    side
        Side of the images in a batch, in pixels.
    batch_size
        Number of images in a batch; at most the number of all images.
    horizontal_flip
        Mirror half of the images.
    seed
        Random seed of order, crops and flips.
    workers
        Number of threads that decode.
    allow_skipped
        Largest share of the images that may be unreadable.
    parallel
        The ranks that train together, if they are several: each takes its part of every batch.

    Attributes
    ----------
    unreadable
        The unreadable images.

    Raises
    ------
    PydreamError
        If too many images cannot be read, or a batch has fewer images than there are ranks.
    """

    def __init__(
        self,
        source: Source,
        indices: Indices,
        side: int,
        *,
        batch_size: int,
        horizontal_flip: bool,
        seed: int,
        workers: int,
        allow_skipped: float,
        parallel: DataParallel = ALONE,
    ) -> None:
        self._parallel = parallel
        self.unreadable = Unreadable(source, len(indices), allow_skipped)
        self._source = source
        self._side = side
        self._flip_share = 0.5 if horizontal_flip else 0.0
        self._generator = torch.Generator().manual_seed(seed)
        self._ids = torch.from_numpy(source.ids)
        self._labels = torch.from_numpy(source.labels.astype(np.int64))
        self._workers = workers
        self._start = self._done = 0  # batches of this epoch: skipped, and yielded
        self._begun = self._generator.get_state()  # state at the start of this epoch
        self._pixels = self._load(indices) if side <= SMALL_SIDE else None
        self._indices = torch.from_numpy(np.setdiff1d(indices, sorted(self.unreadable.reasons)))
        self.batch_size = min(batch_size, len(self._indices))
        parallel.check_batch(self.batch_size)

    @property
    def steps(self) -> int:
        """Number of batches in an epoch; images that do not fill a batch are left out of it."""
        return len(self._indices) // self.batch_size

    def epoch(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the images once, in random order; only the rest of them after `restore`.

        Yields
        ------
        tuple[Tensor, Tensor]
            (batch_size, 3, side, side) float32, normalised, channels-last, and (batch_size,) int64
            labels; or this rank's part of them. Batches with unreadable images are smaller. A part
            without a readable image has a black one, without a label.
        """
        self._begun = self._generator.get_state()
        self._done, self._start = self._start, 0
        used = self.steps * self.batch_size
        order = torch.randperm(len(self._indices), generator=self._generator)[:used]
        flips = torch.rand(used, generator=self._generator) < self._flip_share
        batches = self._resized_crops if self._pixels is None else self._padded_crops
        yield from batches(order, flips)
        self._done, self._begun = 0, self._generator.get_state()
        for reasons in self._parallel.ranks.gather(self.unreadable.reasons):
            self.unreadable.add(reasons)
        self.unreadable.say()

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`: after the last batch yielded."""
        reasons = dict(self.unreadable.reasons)
        return {"generator": self._begun, "batches": self._done, "unreadable": reasons}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue within an epoch."""
        self._generator.set_state(state["generator"])
        self._start = self._done = state["batches"]
        self.unreadable.reasons.update(state["unreadable"])

    def _load(self, indices: Indices) -> torch.Tensor:
        """Decode the images: (n, side, side, 3) uint8, without unreadable ones."""
        pixels = torch.empty(len(indices), self._side, self._side, 3, dtype=torch.uint8)
        count = 0
        for views, _ in whole_images(
            self._source,
            indices.tolist(),
            self._side,
            workers=self._workers,
            unreadable=self.unreadable,
        ):
            pixels[count : count + len(views)] = views
            count += len(views)
        return pixels[:count]

    def _padded_crops(
        self, order: torch.Tensor, flips: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Crop images in memory at random positions after padding them with black."""
        assert self._pixels is not None
        boxes = torch.full((len(order), 4), self._side, dtype=torch.int32)
        padding = min(_MOST_PADDING, self._side // 8)
        boxes[:, :2] = torch.randint(2 * padding + 1, (len(order), 2), generator=self._generator)
        border = (0, 0, *4 * [padding])
        for rows, box, flip in self._split(order, boxes, flips):
            self._done += 1
            batch = functional.pad(self._pixels[rows], border)
            yield self._crop(batch, box, flip), self._labels[self._indices[rows]]

    def _resized_crops(
        self, order: torch.Tensor, flips: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Decode images and cut random parts of them."""
        seed = int(torch.randint(2**62, (), generator=self._generator))
        indices = self._indices[order]
        batches = list(self._split(indices, flips))
        left = [index for group, _ in batches for index in group.tolist()]
        decoded = decode_ahead(self._source, left, workers=self._workers, budget=_BUDGET)
        with closing(decoded):
            for group, flip in batches:
                self._done += 1
                images: list[torch.Tensor] = []
                kept: list[int] = []
                for place, (index, image) in enumerate(zip(group.tolist(), decoded, strict=False)):
                    if isinstance(image, ImageError):
                        self.unreadable.add({index: str(image)})
                    else:
                        images.append(image)
                        kept.append(place)
                if not images:
                    if self._parallel.count > 1:  # the other ranks wait for this step
                        shape = (1, 3, self._side, self._side)
                        yield torch.zeros(shape), group[:0]
                    continue
                sizes = torch.tensor([image.shape[:2] for image in images])
                boxes = random_crop_boxes(
                    sizes, 1, scale=_SCALE, ratio=_RATIO, seed=seed, ids=self._ids[group[kept]]
                )
                yield self._crop(images, boxes[:, 0], flip[kept]), self._labels[group[kept]]

    def _split(self, *columns: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Split columns into batches, from the first one not done; yield this rank's part."""
        start, part = self._done * self.batch_size, self._parallel.part(self.batch_size)
        batches = [torch.split(column[start:], self.batch_size) for column in columns]
        if start < len(columns[0]):
            for batch in zip(*batches, strict=True):
                yield tuple(column[part] for column in batch)

    def _crop(
        self, images: torch.Tensor | list[torch.Tensor], boxes: torch.Tensor, flip: torch.Tensor
    ) -> torch.Tensor:
        """Cut one box out of each image, normalised for the model."""
        return crop_resize(
            images,
            boxes,
            self._side,
            flip=flip,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            channels_last=True,
        )
