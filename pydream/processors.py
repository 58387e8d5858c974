"""The processors that this process may use."""

from __future__ import annotations

import os


def usable_processors() -> int:
    """Return the number of processors that this process may use, 1 or more.

    It is below that of the machine if a batch system or ``taskset`` restricts the process. macOS
    has no such limits; all its processors count. Ranks that torchrun starts on a machine share its
    processors.
    """
    return max(1, _processors() // ranks_beside())


def ranks_beside() -> int:
    """Return the number of ranks that torchrun has started on this machine, 1 without it."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(ranks) if ranks.isdigit() else 1)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    if hasattr(os, "process_cpu_count"):  # Python 3.13 and later
        return os.process_cpu_count() or 1
    return os.cpu_count() or 1
