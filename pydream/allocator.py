"""How glibc treats the memory of tensors on the CPU."""

from __future__ import annotations

import ctypes
import functools

# Options of mallopt, from malloc.h, and what they are set to, in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = 1 << 30
_PAD = 64 << 20


@functools.cache
def keep_freed_memory() -> None:
    """Let the process keep large blocks that are freed, where its C library is glibc.

    PyTorch takes every tensor of the CPU from ``malloc`` and gives it back when it is done with.
    By default glibc maps a large one anew each time, so that all of its pages are faulted in
    again: of a ConvNet-3's forward pass, 64 images of 32 x 32 at width 128, that was half (1.4 ms
    an image, 0.9 ms without). The process holds on to its peak of memory in return. Variables
    of the environment that say otherwise (``MALLOC_MMAP_THRESHOLD_``) are overruled.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    for option, value in (
        (_MMAP_THRESHOLD, _KEPT),
        (_TRIM_THRESHOLD, _KEPT),
        (_TOP_PAD, _PAD),
    ):
        mallopt(option, value)
