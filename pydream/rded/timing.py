"""Seconds per stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall-clock seconds by the name of a stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._begun = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the seconds of the block towards a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begun

    def report(self) -> dict[str, float]:
        """Return the seconds of every stage and of the whole, rounded to milliseconds."""
        whole = time.perf_counter() - self._begun
        return {name: round(value, 3) for name, value in {**self.seconds, "whole": whole}.items()}
