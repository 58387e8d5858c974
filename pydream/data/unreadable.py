"""Unreadable images: left out, counted and named; too many of them are an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydream.data.source import Source
from pydream.errors import PydreamError
from pydream.formatting import listed
from pydream.progress import say


class Unreadable:
    """The unreadable images of a source in one run.

    Parameters
    ----------
    source
        Source of the images.
    total
        Number of its images that the run requests.
    allowed
        Largest share of these that may be unreadable. None if others are drawn in their place, so
        that nothing is missing from the result.

    Attributes
    ----------
    reasons : dict[int, str]
        Reason that an image is unreadable, by index in the source.
    """

    def __init__(self, source: Source, total: int, allowed: float | None) -> None:
        self.reasons: dict[int, str] = {}
        self._source = source
        self._total = total
        self._allowed = allowed
        self._said = 0

    def add(self, reasons: Mapping[int, str]) -> None:
        """Record images, by index in the source; repeated ones count once.

        Raises
        ------
        PydreamError
            If their number now exceeds the limit.
        """
        self.reasons.update(reasons)
        if self._allowed is not None and len(self.reasons) > self._allowed * self._total:
            raise PydreamError(
                f"{self._count()} cannot be read, more than the share of {self._allowed:g} that "
                f"--allow-skipped allows: {self._names()}; mend or remove them, or give a larger "
                "--allow-skipped (1 allows all)"
            )

    def records(self, indices: Iterable[int] | None = None) -> list[dict[str, str]]:
        """Return ``key`` and ``reason`` of all of them, or of those among some indices."""
        places = sorted(self.reasons) if indices is None else indices
        return [
            {"key": self._source.keys[place], "reason": self.reasons[place]}
            for place in places
            if place in self.reasons
        ]

    def say(self) -> None:
        """Print their number and the first of them on standard error, if there are new ones."""
        if len(self.reasons) > self._said:
            say(f"{self._count()} cannot be read and are left out: {self._names()}")
        self._said = len(self.reasons)

    def _count(self) -> str:
        source = self._source
        return (
            f"{source.description}: {len(self.reasons):,} of {self._total:,} {source.split} images"
        )

    def _names(self) -> str:
        return listed(
            [
                f"{self._source.keys[place]} ({reason})"
                for place, reason in sorted(self.reasons.items())
            ]
        )
