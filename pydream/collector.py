"""Python's garbage collector, paused or held back for a while."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Keep Python's collector from looking for cycles within the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_RARE = 1000  # collections of younger objects between two of all objects; Python's default is 10


@contextmanager
def rare_full_collections() -> Iterator[None]:
    """Let Python's collector look through all objects a hundred times less often within the block.

    PyTorch and the packages around it are half a million objects, and looking through them stops
    every thread of Python for 0.12 s. Younger objects are collected as often as before.
    """
    young, middle, old = gc.get_threshold()
    if old >= _RARE:  # the caller's own choice, or another run's in this process
        yield
        return
    gc.set_threshold(young, middle, _RARE)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
