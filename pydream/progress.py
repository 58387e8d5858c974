"""Progress bars: rate and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:,.1f} {self.unit}/s" if speed >= 1 else f"{1 / speed:,.1f} s each")


def say(line: str) -> None:
    """Tell the person at the keyboard something about the run, on standard error."""
    print(line, file=sys.stderr, flush=True)


class Advance(Protocol):
    """Counts units that are done."""

    def __call__(self, done: int, note: str = "") -> None:
        """Count `done` units; show `note`, some words on how it goes."""


def _silent(done: int, note: str = "") -> None:
    pass


@contextmanager
def track(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Show a bar on standard error while the block runs, if that is a terminal.

    Parameters
    ----------
    description
        What is going on, in two or three words.
    total
        How many units the whole takes.
    unit
        The name of a unit, in the plural.

    Yields
    ------
    Advance
        Call it with the number of units just done.
    """
    if not sys.stderr.isatty():
        yield _silent
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
        task = progress.add_task(description, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            progress.update(task, advance=done, note=note)

        yield advance
