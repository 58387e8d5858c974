"""Stage 3 of RDED as a stream: reading, decoding, cropping, the observer and the scores.

On the CPU, files are read while the observer runs, and all threads decode and crop between its
batches. An observer that shares its processors with decoding waits at every layer for the slowest
thread. Taking turns made a run with ResNet-18 on two cores 4 to 17 % faster (17.9, 21.8, 18.0 and
20.5 s against 21.5, 22.7, 19.4 and 22.3 s side by side).

On a GPU, three streams of work run at once: host threads decode, one stream uploads and crops the
next batch, and another runs the observer on the current one. The host reads the scores of a batch
when two more are queued behind it, so the GPU always has work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pydream.data import ImageError, decode_ahead
from pydream.data.decode import EncodedJpeg
from pydream.data.device_jpeg import decode_on
from pydream.data.prefetch import read_ahead
from pydream.errors import PydreamError
from pydream.ops import check_values
from pydream.rded.groups import images_together
from pydream.rded.memory import QUEUED, MemoryShares
from pydream.rded.passes import NotANumberError, of_best_crops, run_observers, score_together
from pydream.rded.patches import PatchMaker, Preselection
from pydream.timeline import Stopwatch

_Decoded: TypeAlias = torch.Tensor | EncodedJpeg | ImageError


@dataclass(frozen=True)
class ScoredImages:
    """Realism scores of some preselected images.

    Attributes
    ----------
    candidates
        The g images, ascending.
    scores
        (g, M) float32, on the CPU; minus infinity for an image that could not be used.
    errors
        Reason that an image could not be used, by candidate.
    enlarged
        Candidates that are smaller than a patch.
    images
        Pixels of the images, (H, W, 3) uint8; None if the memory budget has no room for them.
    sizes
        Height and width of each image, in pixels; meaningless for one that could not be used.
    features
        (g, D) float32, on the CPU: features of the best crop of each image, if they are wanted.
    """

    candidates: list[int]
    scores: torch.Tensor
    errors: dict[int, str]
    enlarged: list[int]
    images: list[torch.Tensor] | None
    sizes: list[tuple[int, int]]
    features: torch.Tensor | None = None


@dataclass(frozen=True)
class ScoringLimits:
    """Limits of one batch of scoring. Of them, only `decode` can change a score.

    Attributes
    ----------
    batch_size
        Number of patches cropped and scored at a time.
    decode
        Decoder of JPEGs: the CPU ("host") or the observer's GPU ("device").
    workers
        Number of threads that read and decode.
    memory
        Bytes of patches and images.
    """

    batch_size: int
    decode: Literal["host", "device"]
    workers: int
    memory: MemoryShares


def batch_images(maker: PatchMaker, limits: ScoringLimits) -> int:
    """Return the number of images to score at a time: whole groups, within the limits."""
    group = images_together(maker)
    patch_bytes = sum(3 * seen.side**2 * seen.dtype.itemsize for seen in maker.inputs)
    patches = min(limits.batch_size, limits.memory.patches // patch_bytes)
    return max(1, patches // (group * maker.crops)) * group


def score(
    maker: PatchMaker,
    selection: Preselection,
    needed: npt.NDArray[np.bool_],
    limits: ScoringLimits,
    watch: Stopwatch,
    *,
    features: bool = False,
    combine: Literal["log-probabilities", "logits"] = "log-probabilities",
) -> Iterator[ScoredImages]:
    """Score the crops of the images needed, in order (equation 7).

    Images are read and decoded on threads. Batches cross the borders of classes and begin at whole
    groups. If the observer's device runs out of memory, batches are halved. If that is not enough,
    the observer's passes are halved, which can change the last bits of later scores.

    Parameters
    ----------
    maker, selection
        The run's patch maker and its preselection.
    needed
        (n,) bool: True for each candidate to score; see `pydream.rded.groups.needed_images`.
    limits
        Limits of one batch.
    watch
        Stopwatch of the stages.
    features
        Take the first observer's features of the best crops from the same passes; the scores stay
        what they are.
    combine
        Score by several observers; see `score_together`.

    Yields
    ------
    ScoredImages
        The scores of each batch.

    Raises
    ------
    PydreamError
        If a score or a feature is not a number (the message names the image), or if the device has
        no room for a single image.
    """
    candidates = np.flatnonzero(needed)
    while len(candidates):
        try:
            run = _ScoringRun(maker, selection, limits, watch, features, combine)
            for scored in run.scores(candidates):
                candidates = candidates[len(scored.candidates) :]
                yield scored
        except PydreamError:
            # Batches still under way report the same fault, which the next op must not raise.
            with suppress(ValueError):
                check_values(maker.observer.device)
            raise
        except torch.OutOfMemoryError as error:
            images = batch_images(maker, limits)
            if images > images_together(maker):
                limits = replace(limits, batch_size=max(1, images * maker.crops // 2))
            else:
                max(maker.observers, key=lambda observer: observer.tile).halve_tile(error)


@dataclass(frozen=True)
class _Batch:
    """Images cropped to patches; `ready` is an event of the stream that cropped them."""

    candidates: list[int]
    patches: list[torch.Tensor]  # [g·M, 3, S, S] for each distinct input
    errors: dict[int, str]
    enlarged: list[int]
    images: list[torch.Tensor] | None
    sizes: list[tuple[int, int]]
    ready: torch.cuda.Event | None


@dataclass(frozen=True)
class _Queued:
    """A batch whose scores are being computed; complete once `arrived` has happened."""

    scored: ScoredImages
    arrived: torch.cuda.Event | None


class _ScoringRun:
    """Scores images in batches until none is left or the device runs out of memory."""

    def __init__(
        self,
        maker: PatchMaker,
        selection: Preselection,
        limits: ScoringLimits,
        watch: Stopwatch,
        features: bool,
        combine: Literal["log-probabilities", "logits"],
    ) -> None:
        self._maker = maker
        self._selection = selection
        self._limits = limits
        self._watch = watch
        self._features = features
        self._combine = combine
        self._device = maker.observer.device
        self._patches: list[torch.Tensor] = []  # of the last batch, on the CPU
        self._queued = QUEUED.get(self._device.type, 0)
        self._turn: threading.Event | None = None
        if self._device.type == "cpu":
            self._turn = threading.Event()
            self._turn.set()
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)

    def scores(self, candidates: npt.NDArray[np.int64]) -> Iterator[ScoredImages]:
        queue: deque[_Queued] = deque()
        with closing(self._decoded(candidates)) as decoded:
            with closing(self._batches(candidates, decoded)) as batches:
                try:
                    for batch in batches:
                        queue.append(self._launch(batch))
                        if len(queue) > self._queued:
                            yield self._collect(queue.popleft())
                except ValueError:  # a later op, in any thread, raises a kernel's fault
                    for queued in queue:
                        self._collect(queued)
                    raise
            while queue:
                yield self._collect(queue.popleft())

    def _decoded(self, candidates: npt.NDArray[np.int64]) -> Generator[_Decoded, None, None]:
        source, workers = self._maker.source, self._limits.workers
        indices = self._selection.indices[candidates].tolist()
        budget = self._limits.memory.waiting
        if self._limits.decode == "device":
            return read_ahead(source, indices, workers=workers, budget=budget)
        return decode_ahead(source, indices, workers=workers, budget=budget, turn=self._turn)

    def _batches(
        self, candidates: npt.NDArray[np.int64], decoded: Iterator[_Decoded]
    ) -> Generator[_Batch, None, None]:
        """Prepare the batches: on the CPU each on demand, on a GPU one ahead."""
        step = batch_images(self._maker, self._limits)
        groups = [
            group.tolist()
            for group in np.split(candidates, np.flatnonzero(np.diff(candidates // step)) + 1)
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

    def _prepare(self, candidates: list[int], decoded: Iterator[_Decoded]) -> _Batch:
        """Decode and crop the images of a batch, as many at a time as the budget allows."""
        maker, crops = self._maker, self._maker.crops
        errors: dict[int, str] = {}
        enlarged: list[int] = []
        images: list[torch.Tensor] | None = None
        sizes: list[tuple[int, int]] = []
        with self._on_stream():
            patches = self._room(len(candidates))
            done = 0
            while done < len(candidates):
                with self._watch("wait for decoding"):
                    taken = self._take(candidates[done:], decoded, errors, enlarged)
                piece, broken = decode_on(self._device, taken)
                errors |= {candidates[done + row]: reason for row, reason in broken.items()}
                indices = self._selection.indices[candidates[done : done + len(piece)]].tolist()
                rows = slice(done * crops, (done + len(piece)) * crops)
                read = sum(image.nbytes for image in piece)
                made = sum(of_input[rows].nbytes for of_input in patches)
                with self._watch("crop", self._device, nbytes=read + made):
                    for place, of_input in enumerate(patches):
                        maker.shown(indices, piece, of_input[rows], place)
                done += len(piece)
                sizes += [(image.shape[0], image.shape[1]) for image in piece]
                on_host = all(image.device.type == "cpu" for image in piece)
                images = piece if on_host and len(piece) == len(candidates) else None
            ready = None if self._stream is None else self._stream.record_event()
        return _Batch(candidates, patches, errors, enlarged, images, sizes, ready)

    def _room(self, images: int) -> list[torch.Tensor]:
        """Return room for the patches of a batch: on the CPU that of the batch before.

        The observer has seen those. Memory that is new for every batch would have its pages cleared
        by the system each time, which takes half as long as decoding the photographs.
        """
        inputs = range(len(self._maker.inputs))
        if self._turn is None:
            return [self._maker.empty(images, place) for place in inputs]
        wanted = images * self._maker.crops
        if not self._patches or len(self._patches[0]) < wanted:
            self._patches = [self._maker.empty(images, place) for place in inputs]
        return [of_input[:wanted] for of_input in self._patches]

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _take(
        self,
        candidates: list[int],
        decoded: Iterator[_Decoded],
        errors: dict[int, str],
        enlarged: list[int],
    ) -> list[torch.Tensor | EncodedJpeg]:
        """Take images of these candidates, in order, until the budget is reached."""
        side = self._maker.patch_side
        images: list[torch.Tensor | EncodedJpeg] = []
        size = 0
        for candidate, image in zip(candidates, decoded, strict=False):
            if isinstance(image, ImageError):
                errors[candidate] = str(image)
                image = torch.zeros((side, side, 3), dtype=torch.uint8)
            elif self._maker.enlarges(image):
                enlarged.append(candidate)
            images.append(image)  # an unusable image keeps its rows, so that no other moves
            size += image.nbytes
            if size >= self._limits.memory.images or len(images) == len(candidates):
                break
        return images

    def _launch(self, batch: _Batch) -> _Queued:
        """Launch the observer and the scores of a batch; on the CPU, finish them."""
        if batch.ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(batch.ready)
            for of_input in batch.patches:
                of_input.record_stream(stream)
        usable = [
            row for row, candidate in enumerate(batch.candidates) if candidate not in batch.errors
        ]
        labels = torch.from_numpy(self._selection.labels[batch.candidates])
        with self._watch("observer", self._device), self._observers_turn():
            logits, features = run_observers(self._maker, batch.patches, features=self._features)
        with self._watch("score", self._device, nbytes=sum(one.nbytes for one in logits)):
            try:
                scores = score_together(logits, labels, usable, self._combine)
            except NotANumberError as error:
                raise self._not_a_number(batch.candidates[error.row]) from error
            results = [scores]
            if features is not None:
                results.append(of_best_crops(features, scores))
            host, arrived = self._to_host(results)
        scored = ScoredImages(
            batch.candidates,
            host[0],
            batch.errors,
            batch.enlarged,
            batch.images,
            batch.sizes,
            *host[1:],
        )
        return _Queued(scored, arrived)

    @contextmanager
    def _observers_turn(self) -> Iterator[None]:
        """Keep decoding off the processors while the observer needs them."""
        if self._turn is None:
            yield
            return
        try:
            self._turn.clear()
            yield
        finally:
            self._turn.set()

    def _to_host(
        self, results: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.cuda.Event | None]:
        if self._device.type != "cuda":
            return [result.cpu() for result in results], None
        host = [torch.empty(result.shape, pin_memory=True) for result in results]
        for copy, result in zip(host, results, strict=True):
            copy.copy_(result, non_blocking=True)
        return host, torch.cuda.current_stream(self._device).record_event()

    def _collect(self, queued: _Queued) -> ScoredImages:
        """Wait for the scores of a batch and check them."""
        if queued.arrived is not None:
            with self._watch("wait for the device"):
                queued.arrived.synchronize()
        scores, features = queued.scored.scores.clone(), queued.scored.features
        bad = scores.isnan().any(dim=1)
        if features is not None:
            features = features.clone()
            bad |= features.isfinite().all(dim=1).logical_not()
        if bad.any():
            raise self._not_a_number(queued.scored.candidates[int(bad.nonzero()[0, 0])])
        return replace(queued.scored, scores=scores, features=features)

    def _not_a_number(self, candidate: int) -> PydreamError:
        source = self._maker.source
        whose = "the observer's" if len(self._maker.observers) == 1 else "an observer's"
        return PydreamError(
            f"{source.description}: {whose} scores of "
            f"{source.keys[self._selection.indices[candidate]]} are not numbers: its weights are "
            "damaged, or too large for this precision (try --precision float32)"
        )
