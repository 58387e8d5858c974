"""Stages of a run by name: ranges for NVTX, and figures for `pydream profile`.

With neither asked for a stage costs about a microsecond, so it stands around work of a
millisecond and more. ``PYDREAM_NVTX=1`` makes each an NVTX range, for Nsight.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class StageRecorder(Protocol):
    """Is told of every stage while it is installed by `recording`."""

    def stage(
        self, name: str, device: torch.device | None, nbytes: int
    ) -> AbstractContextManager[None]:
        """Watch a stage; may be called from any thread."""


_recorder: StageRecorder | None = None


@contextmanager
def stage(name: str, device: torch.device | None = None, *, nbytes: int = 0) -> Iterator[None]:
    """Mark the block as a stage of a run; stages may lie within each other.

    Parameters
    ----------
    name
        Of the stage.
    device
        Where the work is done that the block starts, if not on the CPU.
    nbytes
        What the stage must read and write at least: its inputs and outputs, each once.
    """
    recorder = _recorder
    ranged = os.environ.get("PYDREAM_NVTX") == "1" and torch.cuda.is_available()
    if recorder is None and not ranged:
        yield
        return
    if ranged:
        torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
    try:
        if recorder is None:
            yield
        else:
            with recorder.stage(name, device, nbytes):
                yield
    finally:
        if ranged:
            torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


def each_in_stage(name: str, items: Iterable[T], device: torch.device | None = None) -> Iterator[T]:
    """Give out the items; the making of each is a stage, what is done with it is not."""
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
    """Tell a recorder of all stages, of all threads, while the block runs."""
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before
