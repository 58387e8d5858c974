"""Settings of the memory allocator: reuse between steps, large pages, and the peak of memory."""

from __future__ import annotations

import ctypes
import functools
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# From <malloc.h> of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_INT_MAX = 2**31 - 1
# Upper end of glibc's own adjustment of its thresholds, and its limit on mappings.
_LARGEST_MMAP_THRESHOLD = 32 << 20
_DEFAULT_MMAP_MAX = 65536
# From <sys/mman.h> of Linux, and the size of large pages of its usual processors.
_MADV_HUGEPAGE = 14
_LARGE_PAGE = 2 << 20


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let the C library keep freed memory during the block instead of returning it to the system.

    A training step allocates and frees its activations, hundreds of megabytes. By default glibc
    returns large pieces at once, and the system maps and clears every page of them again in the
    next step: an eighth of the processor time of a ConvNet-3 at batch 50 on CIFAR images. At the
    end of the block, free memory is returned to the system. Without glibc, nothing changes.
    """
    libc = _libc()
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_TRIM_THRESHOLD, _INT_MAX)
    libc.mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
        libc.malloc_trim(0)


def in_large_pages(tensor: torch.Tensor) -> torch.Tensor:
    """Request large pages for a large CPU tensor that has not been written to yet.

    glibc maps memory above 32 MiB anew for every tensor, and the system clears its 4 KiB pages one
    by one at the first write: 11.6 ms for 33 MiB, of which the write itself takes 2 ms. With pages
    of 2 MiB it is 4.7 ms. If the system has none left, nothing changes.

    Parameters
    ----------
    tensor
        Any tensor; small ones and those on other devices do not change.

    Returns
    -------
    Tensor
        The same tensor.
    """
    if tensor.nbytes < _LARGEST_MMAP_THRESHOLD or not tensor.is_cpu:
        return tensor
    if sys.platform != "linux" or not hasattr(_libc(), "madvise"):
        return tensor
    begin = -(-tensor.data_ptr() // _LARGE_PAGE) * _LARGE_PAGE
    end = (tensor.data_ptr() + tensor.nbytes) // _LARGE_PAGE * _LARGE_PAGE
    _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_HUGEPAGE)
    return tensor


def peak_host_bytes() -> int:
    """Return the peak memory of this program, in bytes.

    On Linux this is the kernel's own count of the program: the value from ``getrusage`` is never
    less than the memory of the program that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
