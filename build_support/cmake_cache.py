"""What an earlier build in the same tree has left behind."""

from __future__ import annotations

from pathlib import Path

PROGRAMS = ("CMAKE_MAKE_PROGRAM", "CMAKE_CXX_COMPILER", "CMAKE_CUDA_COMPILER", "CMAKE_COMMAND")


def names_what_is_gone(build: Path) -> bool:
    """Return whether the cache names programs of an isolated environment that is no more."""
    try:
        lines = (build / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    for line in lines.splitlines():
        name, _, value = line.partition("=")
        program = Path(value)
        if name.partition(":")[0] in PROGRAMS and program.is_absolute() and not program.exists():
            return True
    return False
