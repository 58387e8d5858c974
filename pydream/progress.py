"""Progress of a run, with rate and time left: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pydream.errors import printable

_SHORTEST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds between two lines of a log


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed, self.unit) if speed else "")


class Together(Protocol):
    """The ranks of a run, of which the first shows the progress of all; see `pydream.ranks`."""

    count: int

    @property
    def first(self) -> bool:
        """Whether this rank shows it."""

    @property
    def connected(self) -> bool:
        """Whether there are several, which talk to each other."""

    def count_together(self, name: str, done: int) -> int:
        """Add to a count of all ranks, and return it."""

    def new_name(self, what: str) -> str:
        """Return a name that is the same on all ranks, and another one with every call."""

    def tell(self, work: str) -> None:
        """Tell the others what this rank is doing."""

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until something is so."""


_ranks: Together | None = None
_outer: tuple[str, Advance] | None = None  # unit of the divided activity that runs, and its count


@contextmanager
def shared_with(ranks: Together) -> Iterator[None]:
    """Show lines and progress of the block for all ranks: by the first of them, once."""
    global _ranks
    before, _ranks = _ranks, ranks
    try:
        yield
    finally:
        _ranks = before


def is_silent() -> bool:
    """Return whether another rank speaks for this one."""
    return _ranks is not None and _ranks.connected and not _ranks.first


def say(line: str) -> None:
    """Print a line about the run on standard error, unless another rank does."""
    if not is_silent():
        print("\n".join(map(printable, line.split("\n"))), file=sys.stderr, flush=True)


class Advance(Protocol):
    """Counts finished units."""

    def __call__(self, done: int, note: str = "") -> None:
        """Count `done` units; show `note`, a few words on the progress, until the next one."""


class _Shown(Protocol):
    """Shows how many units of how many are finished."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class _Log:
    """Progress for a log: a line after every tenth, or every half minute."""

    def __init__(self, description: str, total: int, unit: str, done: int) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done = self._done_before = self._told = done
        self._begun = self._told_at = time.monotonic()
        self._note = ""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self._done, self._total = done, total
        self._note = note or self._note
        if self._done >= self._total:  # `end` reports the end, once
            return
        now = time.monotonic()
        another_tenth = 10 * self._done // self._total > 10 * self._told // self._total
        if now - self._told_at >= (_SHORTEST_WAIT if another_tenth else _LONGEST_WAIT):
            self._tell(now)

    def end(self) -> None:
        self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        seconds, done = now - self._begun, self._done - self._done_before
        words = [f"{self._description}: {self._done:,} of {self._total:,} {self._unit}"]
        if done and seconds > 0:
            words.append(_rate(done / seconds, self._unit))
            left = (self._total - self._done) * seconds / done
            time_left = f"{clock(left)} left" if self._done < self._total else None
            words.append(time_left or f"{clock(seconds)} taken")
        say(", ".join([*words, *([self._note] if self._note else [])]))
        self._told, self._told_at = self._done, now


def _rate(speed: float, unit: str) -> str:
    return f"{speed:,.1f} {unit}/s" if speed >= 1 else f"{1 / speed:,.1f} s each"


def clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds, as in 0:03:20."""
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def track(
    description: str, total: int, unit: str, *, done: int = 0, divided: bool = False
) -> Iterator[Advance]:
    """Show the progress of the block on standard error: a bar on a terminal, else lines.

    The lines suit logs and notebooks: one after every tenth, at least a second apart, one every
    half minute, and one at the end. Of several ranks, the first shows it.

    Parameters
    ----------
    description
        Name of the activity, in two or three words.
    total
        Number of units in the whole.
    unit
        Name of the units, in the plural.
    done
        Number of units finished before.
    divided
        Whether each rank does a part of the activity, of which `total` and `done` count that part.
        All ranks then enter the block, the sums are shown, and the first waits at its end for all.
        Otherwise ranks need not do the same. Activities inside a divided one are not shown, but
        count for it if they have its unit.

    Yields
    ------
    Advance
        Function to call with the number of units just finished.
    """
    if _outer is not None:
        assert not divided
        yield _inner(description, unit, *_outer)
    elif _ranks is None or not _ranks.connected:
        with _counted(description, total, unit, done) as count:
            yield count
    elif divided:
        with _tracked_together(_ranks, description, total, unit, done) as count:
            yield count
    else:
        alone = _counted(description, total, unit, done) if _ranks.first else nullcontext(_nothing)
        with alone as count:
            yield _telling(_ranks, description, unit, count)


def _nothing(done: int, note: str = "") -> None:
    """Show nothing."""


@contextmanager
def _counted(description: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    """Count what this process does, and show it."""
    with _shown(description, total, unit, done) as show:
        finished = done

        def advance(done: int, note: str = "") -> None:
            nonlocal finished
            finished += done
            show(finished, total, note)

        yield advance


def _telling(ranks: Together, description: str, unit: str, count: Advance) -> Advance:
    """Tell the other ranks of progress, too."""

    def advance(done: int, note: str = "") -> None:
        ranks.tell(f"{description}, {note or unit}")
        count(done, note)

    return advance


def _inner(description: str, unit: str, unit_around: str, around: Advance) -> Advance:
    """Count an activity inside a divided one for that, if it has its unit."""

    def advance(done: int, note: str = "") -> None:
        around(done if unit == unit_around else 0, ": ".join(filter(None, (description, note))))

    return advance


@contextmanager
def _tracked_together(
    ranks: Together, description: str, total: int, unit: str, done: int
) -> Iterator[Advance]:
    """Count for all ranks; the first shows the sums, until all have done their part."""
    global _outer
    name = ranks.new_name(description)
    whole, ended = f"{name}, all", f"{name}, ended"
    ranks.count_together(whole, total)
    ranks.count_together(name, done)

    def sums(more: int) -> tuple[int, int]:
        return ranks.count_together(name, more), ranks.count_together(whole, 0)

    with _shown(description, total, unit, done) if ranks.first else nullcontext() as show:

        def count(done: int, note: str = "") -> None:
            finished = sums(done)
            if show is not None:
                show(*finished, note)

        def all_ended() -> bool:
            all_have = ranks.count_together(ended, 0) == ranks.count
            count(0)  # afterwards: a rank counts its last work before it ends
            return all_have

        advance = _telling(ranks, description, unit, count)
        _outer = unit, advance
        try:
            yield advance
        finally:
            _outer = None
        ranks.count_together(ended, 1)
        if ranks.first:
            ranks.until(all_ended)


@contextmanager
def _shown(description: str, total: int, unit: str, done: int) -> Iterator[_Shown]:
    """Show a bar on a terminal, else lines."""
    if not sys.stderr.isatty():
        log = _Log(description, total, unit, done)
        yield log
        log.end()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=done, note="")

        def show(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total)
            if note:
                progress.update(task, note=note)

        yield show
