"""Costs of stages by their path: seconds, calls, bytes and operations."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from pydream.profiling.operations import OperationCounter
from pydream.streams import capturing
from pydream.timeline import stream_seconds

# Prefix of the ranges of stages among the events of torch's profiler.
PREFIX = "pydream: "
BETWEEN = " / "


@dataclass
class StageTotal:
    """All passes of one stage.

    Attributes
    ----------
    seconds
        Seconds of the clock, or of a GPU's stream, summed over all threads.
    calls
        Number of calls.
    nbytes
        Number of bytes that it had to read and write at least; 0 if unknown.
    operations
        Number of operations in convolutions and matrix products; a multiplication and an addition
        count as two.
    threads
        Threads that ran it.
    """

    seconds: float = 0.0
    calls: int = 0
    nbytes: int = 0
    operations: int = 0
    threads: set[int] = field(default_factory=set)


class Recorder:
    """Sums stages by their path: the names of the surrounding stages and its own.

    Attributes
    ----------
    totals
        Totals by path, in the order in which the stages began.
    uncounted
        Names of products whose operations could not be counted.
    """

    def __init__(self) -> None:
        self.totals: dict[str, StageTotal] = {}
        self.uncounted: set[str] = set()
        self._lock = threading.Lock()
        self._around = threading.local()
        self._queued: list[tuple[str, Callable[[], float]]] = []

    @contextmanager
    def stage(self, name: str, device: torch.device | None, nbytes: int) -> Iterator[None]:
        """Watch a stage; see `pydream.timeline.stage`."""
        with self._counting() as counter:
            outer = counter.path
            path = f"{outer}{BETWEEN}{name}" if outer else name
            counter.path = path
            with self._lock:  # in the order of their beginning, so that an outer stage comes first
                self.totals.setdefault(path, StageTotal())
            try:
                with torch.profiler.record_function(PREFIX + path), self._timed(path, device):
                    yield
            finally:
                counter.path = outer
                with self._lock:
                    total = self.totals[path]
                    total.calls += 1
                    total.nbytes += nbytes
                    total.threads.add(threading.get_ident())

    @contextmanager
    def _counting(self) -> Iterator[OperationCounter]:
        """Yield the counter of this thread, which begins with an outermost stage."""
        present: OperationCounter | None = getattr(self._around, "counter", None)
        if present is not None:
            yield present
            return
        counter = self._around.counter = OperationCounter()
        try:
            with counter:
                yield counter
        finally:
            self._around.counter = None
            with self._lock:
                self.uncounted |= counter.uncounted
                for path, operations in counter.by_stage.items():
                    self.totals[path].operations += operations

    @contextmanager
    def _timed(self, path: str, device: torch.device | None) -> Iterator[None]:
        if device is None or device.type != "cuda":
            begun = time.perf_counter()
            try:
                yield
            finally:
                passed = time.perf_counter() - begun
                with self._lock:
                    self.totals[path].seconds += passed
        elif capturing(device):
            yield  # a replay of the graph runs it, within the stage around that
        else:
            with stream_seconds(device) as seconds:
                with self._lock:
                    self._queued.append((path, seconds))
                yield

    def finish(self) -> None:
        """Wait for the pending work of a GPU, and add its seconds."""
        for path, seconds in self._queued:
            self.totals[path].seconds += seconds()
        self._queued.clear()
