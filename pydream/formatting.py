"""Numbers and lists in a readable form."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydream.errors import PydreamError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", re.IGNORECASE)
_PREFIXES = ("", "K", "M", "G", "T")


def bytes_of(name: str, text: str) -> int:
    """Read a size such as ``300MB`` (10⁶ bytes each) or ``1.5GiB`` (2³⁰ bytes each).

    Parameters
    ----------
    name
        Name of the setting, for the message.
    text
        The size: a number, and B, KB, MB, GB, TB, KiB, MiB, GiB or TiB.

    Raises
    ------
    PydreamError
        If the text is not a size of at least a byte.
    """
    found = _SIZE.fullmatch(text.strip())
    size = 0
    if found is not None and (found[2] or not found[3]):
        base = 1024 if found[3] else 1000
        size = round(float(found[1]) * base ** _PREFIXES.index(found[2].upper()))
    if size < 1:
        raise PydreamError(f"{name} takes a size such as 300MB, 1.5GB or 2GiB, got {text!r}")
    return size


def size_words(size: int) -> str:
    """Write a number of bytes exactly, in the largest decimal unit that divides it."""
    power = next(power for power in (4, 3, 2, 1, 0) if size % 1000**power == 0)
    return f"{size // 1000**power}{_PREFIXES[power]}B"


def byte_words(count: int) -> str:
    """Format a number of bytes in the largest unit of which there is at least one."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def percent_words(mean: float, deviation: float | None) -> str:
    """Format a share as a percentage, with its deviation if there is one."""
    return f"{mean:.1%}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}%"


def count_words(count: int | Sequence[int]) -> str:
    """Format one number, or the range of several."""
    counts = [count] if isinstance(count, int) else count
    least, most = min(counts), max(counts)
    return str(most) if least == most else f"{least} to {most}"


def score_words(score: float) -> str:
    """Format a realism score, a log probability, so that scores close to 0 remain distinct."""
    text = f"{score + 0.0:.2g}"  # adding 0 turns -0 into 0
    return "−" + text[1:] if text.startswith("-") else text


def listed(names: Sequence[str], most: int = 3) -> str:
    """Join the first few names by commas, and add the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
