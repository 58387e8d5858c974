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


def sleep_sooner() -> None:
    """Have threads of GNU OpenMP that wait for others sleep sooner, unless the user has decided.

    By default they poll for a millisecond and more. Where another program needs a processor, the
    threads of a layer wait for the one that has to share its own, and meanwhile keep the other
    program from theirs. Beside a busy process on two cores, a student's training took 2.6 times
    its time alone, and 1.9 times with a hundredth of the polling, which costs nothing alone.

    OpenMP reads this when PyTorch is imported, so the call must come before. Ranks and other
    processes that this one starts inherit it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
