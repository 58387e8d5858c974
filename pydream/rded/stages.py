"""The stages of RDED as plain functions (arXiv 2312.03526, section 4; Algorithm 1).

Random numbers are keyed by (seed, image identity, crop), and the rows of the observer's
passes by an image's place in the run: what a class gets does not depend on batch size,
workers, other classes, or where a run was taken up again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pydream.data import ImageError, Source, decode_ahead, upload
from pydream.errors import PydreamError
from pydream.models import Observer
from pydream.ops import (
    check_values,
    collage,
    crop_resize,
    random_crop_boxes,
    random_keys,
    realism_scores,
    select_key_patches,
)
from pydream.rded.config import RdedConfig
from pydream.rded.timing import Stopwatch

_DRAW = 1  # the purpose of the pre-selection's random keys; the preflight draws with 2


@dataclass(frozen=True)
class Preselection:
    """The real images a run looks at, class by class.

    Attributes
    ----------
    indices
        (n,) int64, places in the source, rising.
    labels
        (n,) int64, their classes.
    starts
        (C + 1,) int64: class c has the places starts[c] to starts[c + 1].
    """

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoredImages:
    """The realism scores of some pre-selected images.

    Attributes
    ----------
    places
        (g,) their places in the pre-selection, rising.
    scores
        (g, M) float32; minus infinity for an image that could not be used.
    errors
        Why, by place in the pre-selection.
    """

    places: list[int]
    scores: torch.Tensor
    errors: dict[int, str]


@dataclass(frozen=True)
class KeyPatch:
    """A patch chosen for a distilled image.

    Attributes
    ----------
    place
        Of its image in the pre-selection.
    crop
        Which of the image's crops.
    score
        Log-probability of the true class.
    """

    place: int
    crop: int
    score: float


def preselect(source: Source, count: int, seed: int) -> Preselection:
    """Draw `count` images of every class without replacement; all where there are fewer.

    Stage 1. Images of a class are put in an order that follows from the seed and their
    identity, and the first ones are taken: adding a class changes no other.
    """
    ids = source.ids
    chosen = []
    for label in range(len(source.class_names)):
        indices = source.class_indices(label)
        keys = random_keys(torch.from_numpy(ids[indices]), seed=seed, draw=_DRAW)
        order = torch.argsort(keys, stable=True).numpy()
        chosen.append(np.sort(indices[order[:count]]))
    sizes = [len(indices) for indices in chosen]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Preselection(
        indices=np.concatenate(chosen),
        labels=np.repeat(np.arange(len(chosen)), sizes).astype(np.int64),
        starts=starts,
    )


class PatchMaker:
    """Draws the crops of an image and makes patches of them (stages 2 and 3).

    Parameters
    ----------
    source, config
        The run's.
    observer
        Gives side, mean, std and arithmetic of the patches it is shown.

    Raises
    ------
    PydreamError
        If the observer does not take the patch alone (``canvas="native"``).

    Attributes
    ----------
    observer
        The one that takes what `shown` makes.
    side, factor
        Of a distilled image, in pixels, and the patches along it.
    """

    def __init__(
        self, source: Source, config: RdedConfig, observer: Observer, side: int, factor: int
    ) -> None:
        self.source = source
        self.seed = config.seed
        self.crops = config.crops
        self.patch_side = side // factor
        self.observer = observer
        if config.canvas == "native" and self.patch_side != observer.side:
            self.observer = observer.with_side(self.patch_side)
        self._ids = torch.from_numpy(source.ids)
        self._upscale = config.upscale

    def refuse(self, image: torch.Tensor) -> str | None:
        """Say why an image cannot be used, if so."""
        height, width = image.shape[0], image.shape[1]
        if min(height, width) < self.patch_side and not self._upscale:
            return f"{width}x{height} pixels, smaller than a patch ({self.patch_side}); see upscale"
        return None

    def boxes(self, indices: Sequence[int], images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Draw the (n, M, 4) int32 boxes of n images: top, left, height, width."""
        sizes = torch.tensor([image.shape[:2] for image in images], dtype=torch.int64)
        ids = self._ids[torch.as_tensor(np.asarray(indices, dtype=np.int64))]
        return random_crop_boxes(sizes.reshape(-1, 2), self.crops, seed=self.seed, ids=ids)

    def shown(self, indices: Sequence[int], images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Make the (n·M, 3, S, S) patches of n images as the observer takes them, where it is."""
        boxes, device = self.boxes(indices, images).reshape(-1, 4), self.observer.device
        if device.type != "cpu":
            images, boxes = upload(images, device), boxes.to(device, non_blocking=True)
        return crop_resize(
            list(images),
            boxes,
            self.patch_side,
            canvas=self.observer.side,
            mean=self.observer.mean,
            std=self.observer.std,
            dtype=self.observer.dtype,
            channels_last=True,
        )

    def kept(self, index: int, image: torch.Tensor, crop: int) -> tuple[torch.Tensor, list[int]]:
        """Make a key patch again: (1, 3, s, s) uint8, and its box."""
        box = self.boxes([index], [image])[0, crop]
        return crop_resize([image], box[None], self.patch_side, dtype=torch.uint8), box.tolist()


def group_size(tile: int, crops: int) -> int:
    """Return the least number of images whose crops fill whole passes of the observer."""
    return tile // math.gcd(tile, crops)


def batch_images(config: RdedConfig, observer: Observer) -> int:
    """Return how many images to score at a time: whole groups, three batches in half the budget."""
    group = group_size(observer.tile, config.crops)
    patch_bytes = 3 * observer.side**2 * observer.dtype.itemsize
    budget = config.memory_budget * 2**20 // 2 // 3
    patches = min(config.batch_size, budget // patch_bytes)
    return max(1, patches // (group * config.crops)) * group


def needed_images(
    selection: Preselection, observer: Observer, crops: int, finished: set[int]
) -> npt.NDArray[np.bool_]:
    """Mark the images to score when some classes are finished: (n,) bool.

    The patches of a group of images share passes of the observer, and the last bits of a sum
    may depend on the other rows of a pass. So a group is scored whole or not at all.
    """
    wanted = ~np.isin(selection.labels, list(finished))
    group = group_size(observer.tile, crops)
    groups = np.arange(len(wanted)) // group
    return np.isin(groups, groups[wanted])


def score(
    maker: PatchMaker,
    selection: Preselection,
    needed: npt.NDArray[np.bool_],
    config: RdedConfig,
    watch: Stopwatch,
) -> Iterator[ScoredImages]:
    """Score the crops of the images needed, in order (stage 3, equation 7).

    Images are decoded ahead on threads. Batches cross the borders of classes; they begin at
    whole groups.

    Yields
    ------
    ScoredImages
        For every batch.

    Raises
    ------
    PydreamError
        If a score is not a number: names the image.
    """
    step = batch_images(config, maker.observer)
    places = np.flatnonzero(needed)
    batches = [
        group.tolist()
        for group in np.split(places, np.flatnonzero(np.diff(places // step)) + 1)
        if len(group)
    ]
    decoded = decode_ahead(
        maker.source,
        selection.indices[places].tolist(),
        workers=config.workers,
        budget=config.memory_budget * 2**20 // 2,
    )
    # The next batch is decoded and cropped while the observer runs on this one.
    with closing(decoded), ThreadPoolExecutor(1) as ahead:
        prepared = ahead.submit(_prepare, maker, selection, batches[0], decoded, watch)
        for number in range(len(batches)):
            batch = prepared.result()
            if number + 1 < len(batches):
                prepared = ahead.submit(
                    _prepare, maker, selection, batches[number + 1], decoded, watch
                )
            yield _score_batch(maker, selection, batch, watch)


@dataclass(frozen=True)
class _Batch:
    places: list[int]
    patches: torch.Tensor  # [g·M, 3, S, S]
    errors: dict[int, str]


def _prepare(
    maker: PatchMaker,
    selection: Preselection,
    places: list[int],
    decoded: Iterator[torch.Tensor | ImageError],
    watch: Stopwatch,
) -> _Batch:
    images: list[torch.Tensor] = []
    errors: dict[int, str] = {}
    with watch("wait for decoding"):
        for place, image in zip(places, decoded, strict=False):
            if isinstance(image, ImageError):
                errors[place] = str(image)
                image = torch.zeros((maker.patch_side, maker.patch_side, 3), dtype=torch.uint8)
            elif (reason := maker.refuse(image)) is not None:
                errors[place] = reason
            images.append(image)  # an unusable image keeps its rows, so that no other moves
    with watch("crop"):
        patches = maker.shown(selection.indices[places].tolist(), images)
    return _Batch(places, patches, errors)


def _score_batch(
    maker: PatchMaker, selection: Preselection, batch: _Batch, watch: Stopwatch
) -> ScoredImages:
    with watch("observer"):
        logits = maker.observer.logits(batch.patches)
    with watch("score"):
        scores = torch.full((len(batch.places), maker.crops), -math.inf)
        good = [row for row, place in enumerate(batch.places) if place not in batch.errors]
        if good:
            places = [batch.places[row] for row in good]
            logits = logits.reshape(*scores.shape, -1)[good].flatten(0, 1)
            labels = torch.from_numpy(selection.labels[places]).repeat_interleave(maker.crops)
            try:
                found = realism_scores(logits, labels.to(logits.device)).cpu()
                check_values(logits.device)
            except ValueError as error:
                raise _not_a_number(maker, selection, places, logits) from error
            if found.isnan().any():  # a GPU's fault, raised meanwhile in the thread that prepares
                raise _not_a_number(maker, selection, places, logits)
            scores[good] = found.reshape(len(good), maker.crops)
    return ScoredImages(batch.places, scores, batch.errors)


def _not_a_number(
    maker: PatchMaker, selection: Preselection, places: list[int], logits: torch.Tensor
) -> PydreamError:
    row = int(torch.log_softmax(logits, dim=1).isnan().any(dim=1).nonzero()[0, 0])
    key = maker.source.keys[selection.indices[places[row // maker.crops]]]
    return PydreamError(
        f"{maker.source.description}: the observer's scores of {key} are not numbers: its weights "
        "are damaged, or too large for this precision (try --precision float32)"
    )


def select(scores: torch.Tensor, first_place: int, count: int) -> list[KeyPatch]:
    """Choose the best crop of every image, then the best images of the class (stage 4).

    Parameters
    ----------
    scores
        (n, M) float32, of one class.
    first_place
        Place of its first image in the pre-selection.
    count
        Key patches wanted.

    Returns
    -------
    list[KeyPatch]
        Best first; ties go to the image that comes first.
    """
    labels = torch.zeros(len(scores), dtype=torch.int64)
    chosen = select_key_patches(scores, labels, count, 1)
    return [
        KeyPatch(first_place + image, crop, value)
        for image, crop, value in zip(
            chosen.image[0].tolist(), chosen.crop[0].tolist(), chosen.score[0].tolist(), strict=True
        )
        if image >= 0
    ]


def assemble(
    maker: PatchMaker,
    selection: Preselection,
    ranked: Sequence[KeyPatch],
    *,
    ipc: int,
    factor: int,
    side: int,
    workers: int,
    budget: int,
) -> tuple[torch.Tensor, list[dict[str, object]]]:
    """Crop the key patches of a class again and tile them (stage 5).

    Parameters
    ----------
    ranked
        IPC·f² key patches, best first.
    ipc, factor, side
        Of the distilled images.
    workers, budget
        Threads that decode, and bytes of decoded images that may wait.

    Returns
    -------
    tuple[torch.Tensor, list[dict[str, object]]]
        (IPC, S, S, 3) uint8, and one provenance row per patch, by image and cell.
    """
    indices = [int(selection.indices[patch.place]) for patch in ranked]
    patches, rows = [], []
    images = decode_ahead(maker.source, indices, workers=workers, budget=budget)
    for rank, (patch, index, image) in enumerate(zip(ranked, indices, images, strict=True)):
        if isinstance(image, ImageError):
            raise PydreamError(
                f"{maker.source.description}: {maker.source.keys[index]} could be read when it "
                f"was scored, and no longer: {image}"
            )
        pixels, (top, left, height, width) = maker.kept(index, image, patch.crop)
        patches.append(pixels)
        rows.append(
            {
                "class": int(selection.labels[patch.place]),
                "image": rank % ipc,
                "cell": rank // ipc,
                "source": maker.source.keys[index],
                "top": top,
                "left": left,
                "height": height,
                "width": width,
                "score": patch.score,
            }
        )
    tiled = collage(torch.cat(patches)[None], factor, side)[0]
    rows.sort(key=lambda row: (row["image"], row["cell"]))
    return tiled.permute(0, 2, 3, 1).contiguous(), rows
