"""Numbers and lists in a readable form."""

from __future__ import annotations

from collections.abc import Sequence


def byte_words(count: int) -> str:
    """Format a number of bytes in the largest unit of which there is at least one."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


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
