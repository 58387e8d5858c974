"""Stages of a run by name: their seconds, NVTX ranges, and the figures of `pydream profile`.

When neither ranges nor figures are requested, a stage costs about a microsecond, so it suits work
of a millisecond and more. ``PYDREAM_NVTX=1`` makes each stage an NVTX range, for Nsight.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class StageRecorder(Protocol):
    """Notified of every stage while `recording` has it installed."""

    def stage(
        self, name: str, device: torch.device | None, nbytes: int
    ) -> AbstractContextManager[None]:
        """Watch a stage; may be called from any thread."""


_recorder: StageRecorder | None = None


@contextmanager
def stage(name: str, device: torch.device | None = None, *, nbytes: int = 0) -> Iterator[None]:
    """Mark the block as a stage of a run; stages may be nested.

    Parameters
    ----------
    name
        Name of the stage.
    device
        Device that does the work started by the block, if not the CPU.
    nbytes
        Number of bytes that the stage must read and write at least: its inputs and outputs, once
        each.
    """
    recorder = _recorder
    ranged = os.environ.get("PYDREAM_NVTX") == "1" and torch.cuda.is_available()
    if recorder is None and not ranged:
        yield
        return
    if ranged:
        torch.cuda.nvtx.range_push(name)
    try:
        if recorder is None:
            yield
        else:
            with recorder.stage(name, device, nbytes):
                yield
    finally:
        if ranged:
            torch.cuda.nvtx.range_pop()


def each_in_stage(name: str, items: Iterable[T], device: torch.device | None = None) -> Iterator[T]:
    """Yield the items; making an item belongs to the stage, using it does not."""
    source = iter(items)
    while True:
        with stage(name, device):
            try:
                item = next(source)
            except StopIteration:
                return
        yield item


@contextmanager
def recording(recorder: StageRecorder) -> Iterator[None]:
    """Notify a recorder of all stages of all threads during the block."""
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before


@contextmanager
def stream_seconds(device: torch.device) -> Iterator[Callable[[], float]]:
    """Measure the work that the block queues on a GPU's current stream, without waiting for it.

    Yields
    ------
    Callable[[], float]
        Function that waits for the end of that work and returns its seconds; call it after the
        block.
    """
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds() -> float:
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    stream = torch.cuda.current_stream(device)
    first.record(stream)
    try:
        yield seconds
    finally:
        last.record(stream)


class Stopwatch:
    """Sums seconds by the name of a stage: of the clock, or of a GPU's stream."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._queued: list[tuple[str, Callable[[], float]]] = []
        self._begun = time.perf_counter()

    @contextmanager
    def __call__(
        self, name: str, device: torch.device | None = None, *, nbytes: int = 0
    ) -> Iterator[None]:
        """Count the seconds of the block towards a stage (`stage`).

        Parameters
        ----------
        name
            Name of the stage; only one thread at a time may count towards it.
        device
            Device of the work that the block starts. On a GPU the seconds are those of the current
            stream, and nothing waits for them before `report`.
        nbytes
            The same as for `stage`.
        """
        with stage(name, device, nbytes=nbytes), self._timed(name, device):
            yield

    @contextmanager
    def _timed(self, name: str, device: torch.device | None) -> Iterator[None]:
        if device is not None and device.type == "cuda":
            with stream_seconds(device) as seconds:
                yield
            self._queued.append((name, seconds))
            return
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

    def report(self) -> dict[str, float]:
        """Return the seconds of every stage and of the whole, rounded to microseconds."""
        while self._queued:
            name, seconds = self._queued.pop(0)
            self.seconds[name] += seconds()
        whole = time.perf_counter() - self._begun
        return {name: round(value, 6) for name, value in {**self.seconds, "whole": whole}.items()}
