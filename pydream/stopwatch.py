"""Seconds per stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pydream.stages import stage


class Stopwatch:
    """Adds up seconds by the name of a stage: of the clock, or of a GPU's stream."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._begun = time.perf_counter()

    @contextmanager
    def __call__(
        self, name: str, device: torch.device | None = None, *, nbytes: int = 0
    ) -> Iterator[None]:
        """Count the seconds of the block towards a stage (`pydream.stages.stage`).

        Parameters
        ----------
        name
            Of the stage; one thread at a time may count towards it.
        device
            Where the work is done that the block starts. On a GPU the seconds are those of the
            current stream, and nothing waits for them before `report`.
        nbytes
            As of `pydream.stages.stage`.
        """
        with stage(name, device, nbytes=nbytes), self._timed(name, device):
            yield

    @contextmanager
    def _timed(self, name: str, device: torch.device | None) -> Iterator[None]:
        if device is not None and device.type == "cuda":
            first, last = (
                torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
                for _ in range(2)
            )
            stream = torch.cuda.current_stream(device)
            first.record(stream)
            yield
            last.record(stream)
            self._events.append((name, first, last))
            return
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

    def report(self) -> dict[str, float]:
        """Return the seconds of every stage and of the whole, rounded to milliseconds."""
        while self._events:
            name, first, last = self._events.pop(0)
            last.synchronize()
            self.seconds[name] += first.elapsed_time(last) / 1e3
        whole = time.perf_counter() - self._begun
        return {name: round(value, 3) for name, value in {**self.seconds, "whole": whole}.items()}
