"""The memory of the machine, and the limits of this process."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from pydream.processors import ranks_beside

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def physical_memory() -> int | None:
    """Return the bytes of the machine's memory; None if the system does not report them."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def memory_limit() -> int | None:
    """Return the lowest limit of this process, in bytes: from ulimit -v and cgroups.

    None without a limit, or if the limit is not below the machine's memory.
    """
    limits = []
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    for file in _cgroup_files():
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    physical = physical_memory()
    limits = [limit for limit in limits if physical is None or limit < physical]
    return min(limits, default=None)


def usable_memory() -> int | None:
    """Return the bytes that this process may use; None if the system does not report them.

    Ranks that torchrun starts on a machine share its memory.
    """
    limit = memory_limit()
    usable = physical_memory() if limit is None else limit
    return None if usable is None else usable // ranks_beside()


def _cgroup_files() -> list[Path]:
    """List the files that may hold limits of this process's control groups, versions 1 and 2."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        inside = root / group.lstrip("/")
        folders = (inside, *inside.parents)
        files += [folder / name for folder in folders[: folders.index(root) + 1]]
    return files
