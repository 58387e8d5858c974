"""Stage 3 of RDED, streamed: reading, decoding, cropping, the observer and the scores.

On the CPU files are read while the observer runs, and between its batches all threads decode and
crop. An observer that shares its processors waits, at every layer, for the thread that was held up:
taking turns made a run with ResNet-18 on two cores 4 to 17 % faster (17.9, 21.8, 18.0 and 20.5 s
against 21.5, 22.7, 19.4 and 22.3 s side by side).

On a GPU three streams of work run at once: threads of the host decode, one stream uploads and crops
the next batch, another runs the observer on this one. The host reads the scores of a batch when two
more are queued behind it, so the GPU always has work.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pydream.data import ImageError, decode_ahead
from pydream.data.decode import EncodedJpeg
from pydream.data.device_jpeg import decode_on
from pydream.data.prefetch import read_ahead
from pydream.errors import PydreamError
from pydream.models import Observer
from pydream.ops import check_values, realism_scores
from pydream.rded.config import RdedConfig
from pydream.rded.patches import PatchMaker, Preselection
from pydream.streams import to_device
from pydream.timeline import Stopwatch

_Decoded: TypeAlias = torch.Tensor | EncodedJpeg | ImageError

# Batches behind the one whose scores the host waits for; on the CPU there is nothing to wait for.
_QUEUED = {"cpu": 0, "cuda": 2}


@dataclass(frozen=True)
class ScoredImages:
    """The realism scores of some pre-selected images.

    Attributes
    ----------
    places
        (g,) their places in the pre-selection, rising.
    scores
        (g, M) float32, on the CPU; minus infinity for an image that could not be used.
    errors
        Why, by place in the pre-selection.
    enlarged
        Places of the images that are smaller than a patch.
    images
        The g images, (H, W, 3) uint8; None where the memory budget has no room for them.
    """

    places: list[int]
    scores: torch.Tensor
    errors: dict[int, str]
    enlarged: list[int]
    images: list[torch.Tensor] | None


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
    """Score the crops of the images needed, in order (equation 7).

    Images are read and decoded on threads. Batches cross the borders of classes; they begin at
    whole groups. Where the observer's device has too little memory, batches are halved, and if
    that is not enough its passes; then the last bits of later scores may be others.

    Yields
    ------
    ScoredImages
        For every batch.

    Raises
    ------
    PydreamError
        If a score is not a number: names the image. If not one image fits the device.
    """
    places = np.flatnonzero(needed)
    while len(places):
        try:
            for scored in _Run(maker, selection, config, watch).scores(places):
                places = places[len(scored.places) :]
                yield scored
        except PydreamError:
            # What the batches still under way report is the same, and not the next op's to raise.
            with suppress(ValueError):
                check_values(maker.observer.device)
            raise
        except torch.OutOfMemoryError as error:
            images = batch_images(config, maker.observer)
            if images > group_size(maker.observer.tile, config.crops):
                config = replace(config, batch_size=max(1, images * config.crops // 2))
            else:
                maker.observer.halve_tile(error)


@dataclass(frozen=True)
class _Batch:
    """Images made into patches; `ready` is an event of the stream that made them."""

    places: list[int]
    patches: torch.Tensor  # [g·M, 3, S, S]
    errors: dict[int, str]
    enlarged: list[int]
    images: list[torch.Tensor] | None
    ready: torch.cuda.Event | None


@dataclass(frozen=True)
class _Queued:
    """A batch whose scores are being computed; complete once `arrived` has happened."""

    scored: ScoredImages
    arrived: torch.cuda.Event | None


class _Run:
    """Scores images in batches until it ends, or the device's memory does."""

    def __init__(
        self, maker: PatchMaker, selection: Preselection, config: RdedConfig, watch: Stopwatch
    ) -> None:
        self._maker = maker
        self._selection = selection
        self._config = config
        self._watch = watch
        self._device = maker.observer.device
        self._queued = _QUEUED.get(self._device.type, 0)
        self._turn: threading.Event | None = None
        if self._device.type == "cpu":
            self._turn = threading.Event()
            self._turn.set()
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        # Half of the budget is for patches, a quarter each for images that wait for their batch and
        # for those of the batches under way: one being prepared, one being scored, and the queue.
        quarter = config.memory_budget * 2**20 // 4
        self._waiting_bytes = quarter
        self._batch_bytes = quarter // (self._queued + 2)

    def scores(self, places: npt.NDArray[np.int64]) -> Iterator[ScoredImages]:
        queue: deque[_Queued] = deque()
        with closing(self._decoded(places)) as decoded:
            with closing(self._batches(places, decoded)) as batches:
                try:
                    for batch in batches:
                        queue.append(self._launch(batch))
                        if len(queue) > self._queued:
                            yield self._collect(queue.popleft())
                except ValueError:  # what a kernel found is raised by a later op, in any thread
                    for each in queue:
                        self._collect(each)
                    raise
            while queue:
                yield self._collect(queue.popleft())

    def _decoded(self, places: npt.NDArray[np.int64]) -> Generator[_Decoded, None, None]:
        source, workers = self._maker.source, self._config.workers
        indices = self._selection.indices[places].tolist()
        budget = self._waiting_bytes
        if self._config.decode == "device":
            return read_ahead(source, indices, workers=workers, budget=budget)
        return decode_ahead(source, indices, workers=workers, budget=budget, turn=self._turn)

    def _batches(
        self, places: npt.NDArray[np.int64], decoded: Iterator[_Decoded]
    ) -> Generator[_Batch, None, None]:
        """Prepare the batches: for the CPU each when it is wanted, for a GPU one ahead."""
        step = batch_images(self._config, self._maker.observer)
        groups = [
            group.tolist()
            for group in np.split(places, np.flatnonzero(np.diff(places // step)) + 1)
        ]
        if self._turn is not None:
            for group in groups:
                yield self._prepare(group, decoded)
            return
        with ThreadPoolExecutor(1) as ahead:
            prepared = ahead.submit(self._prepare, groups[0], decoded)
            for following in groups[1:]:
                batch = prepared.result()
                prepared = ahead.submit(self._prepare, following, decoded)
                yield batch
            yield prepared.result()

    def _prepare(self, places: list[int], decoded: Iterator[_Decoded]) -> _Batch:
        """Decode and crop the images of a batch, no more of them at a time than the budget has."""
        maker, crops = self._maker, self._maker.crops
        errors: dict[int, str] = {}
        enlarged: list[int] = []
        images: list[torch.Tensor] | None = None
        with self._on_stream():
            patches = maker.empty(len(places))
            done = 0
            while done < len(places):
                with self._watch("wait for decoding"):
                    taken = self._take(places[done:], decoded, errors, enlarged)
                piece, broken = decode_on(self._device, taken)
                errors |= {places[done + row]: reason for row, reason in broken.items()}
                indices = self._selection.indices[places[done : done + len(piece)]].tolist()
                rows = slice(done * crops, (done + len(piece)) * crops)
                read = sum(image.nbytes for image in piece)
                with self._watch("crop", self._device, nbytes=read + patches[rows].nbytes):
                    maker.shown(indices, piece, out=patches[rows])
                done += len(piece)
                on_host = all(image.device.type == "cpu" for image in piece)
                images = piece if on_host and len(piece) == len(places) else None
            ready = None if self._stream is None else self._stream.record_event()
        return _Batch(places, patches, errors, enlarged, images, ready)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _take(
        self,
        places: list[int],
        decoded: Iterator[_Decoded],
        errors: dict[int, str],
        enlarged: list[int],
    ) -> list[torch.Tensor | EncodedJpeg]:
        """Take images, up to all of these places, until the budget is reached."""
        side = self._maker.patch_side
        images: list[torch.Tensor | EncodedJpeg] = []
        size = 0
        for place, image in zip(places, decoded, strict=False):
            if isinstance(image, ImageError):
                errors[place] = str(image)
                image = torch.zeros((side, side, 3), dtype=torch.uint8)
            elif self._maker.enlarges(image):
                enlarged.append(place)
            images.append(image)  # an unusable image keeps its rows, so that no other moves
            size += image.nbytes
            if size >= self._batch_bytes or len(images) == len(places):
                break
        return images

    def _launch(self, batch: _Batch) -> _Queued:
        """Start the observer and the scores of a batch; on the CPU, finish them."""
        maker, crops = self._maker, self._maker.crops
        if batch.ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(batch.ready)
            batch.patches.record_stream(stream)
        with self._watch("observer", self._device), self._observers_turn():
            logits = maker.observer.logits(batch.patches)
        with self._watch("score", self._device, nbytes=logits.nbytes):
            good = [row for row, place in enumerate(batch.places) if place not in batch.errors]
            labels = torch.from_numpy(self._selection.labels[batch.places])
            if len(good) < len(batch.places):
                logits = logits.reshape(len(batch.places), crops, -1)[good].flatten(0, 1)
                labels = labels[good]
            labels = to_device(labels.repeat_interleave(crops), logits.device)
            try:
                scores = realism_scores(logits, labels).reshape(-1, crops)
            except ValueError as error:
                bad = logits.logsumexp(1).isfinite().logical_not().nonzero()
                if len(bad):
                    place = batch.places[good[int(bad[0, 0]) // crops]]
                    raise self._not_a_number(place) from error
                raise
            if len(good) < len(batch.places):
                found, scores = scores, scores.new_full((len(batch.places), crops), -math.inf)
                scores[good] = found
            host, arrived = self._to_host(scores)
        scored = ScoredImages(batch.places, host, batch.errors, batch.enlarged, batch.images)
        return _Queued(scored, arrived)

    @contextmanager
    def _observers_turn(self) -> Iterator[None]:
        """Let no image be decoded on the processors that the observer needs."""
        if self._turn is None:
            yield
            return
        self._turn.clear()
        try:
            yield
        finally:
            self._turn.set()

    def _to_host(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        if self._device.type != "cuda":
            return scores.cpu(), None
        host = torch.empty(scores.shape, pin_memory=True)
        host.copy_(scores, non_blocking=True)
        return host, torch.cuda.current_stream(self._device).record_event()

    def _collect(self, queued: _Queued) -> ScoredImages:
        """Wait for the scores of a batch, and check them."""
        if queued.arrived is not None:
            with self._watch("wait for the device"):
                queued.arrived.synchronize()
        scored = replace(queued.scored, scores=queued.scored.scores.clone())
        bad = scored.scores.isnan().any(dim=1).nonzero()
        if len(bad):
            raise self._not_a_number(scored.places[int(bad[0, 0])])
        return scored

    def _not_a_number(self, place: int) -> PydreamError:
        source = self._maker.source
        return PydreamError(
            f"{source.description}: the observer's scores of "
            f"{source.keys[self._selection.indices[place]]} are not numbers: its weights are "
            "damaged, or too large for this precision (try --precision float32)"
        )
