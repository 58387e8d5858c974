"""Numbers and lists as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def byte_words(count: int) -> str:
    """Say a number of bytes in the largest unit that leaves at least one of it."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def score_words(score: float) -> str:
    """Write a realism score, a log probability, so that scores close to 0 can be told apart."""
    text = f"{score + 0.0:.2g}"  # adding 0 turns -0 into 0
    return "−" + text[1:] if text.startswith("-") else text


def listed(names: Sequence[str], most: int = 3) -> str:
    """Join the first few names by commas, and say how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
