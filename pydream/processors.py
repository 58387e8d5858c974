"""The processors that this process may use."""

from __future__ import annotations

import os


def usable_processors() -> int:
    """Return how many processors this process may use, 1 or more.

    Fewer than the machine has where a batch system or ``taskset`` allows only some of them. macOS
    has no such limits; there all processors count.
    """
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    return os.cpu_count() or 1
