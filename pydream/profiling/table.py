"""Profiles as tables: one, or two side by side."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pydream.errors import PydreamError
from pydream.formatting import byte_words
from pydream.profiling.recorder import BETWEEN
from pydream.profiling.results import Profile, Stage

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def profile_table(profile: Profile) -> RenderableType:
    """Format one profile for a terminal.

    Parameters
    ----------
    profile
        Result of `pydream.profiling.profile` or `pydream.profiling.read_profile`.
    """
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("stage", overflow="fold")
    for name in ("seconds", "share", "work", "a second", "of limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in profile.stages:
        seconds, share, of_limit = _cells(stage)
        table.add_row(_indented(stage), seconds, share, *_work(stage), of_limit)
    return Group(Text(_title(profile)), table, Text(_limits(profile), style="dim"))


def comparison_table(one: Profile, other: Profile, *, names: tuple[str, str]) -> RenderableType:
    """Format two profiles of the same method side by side.

    Parameters
    ----------
    one, other
        Two results of `pydream.profiling.profile` or `pydream.profiling.read_profile`.
    names
        Names of the two in the table.

    Raises
    ------
    PydreamError
        If they are of different methods.
    """
    if one.method != other.method:
        raise PydreamError(
            f"{names[0]} is of {one.method}, {names[1]} of {other.method}: only profiles of "
            "the same method can be compared"
        )
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", overflow="fold")
    for label in ("A, s", "share", "of limit", "B, s", "share", "of limit", "A / B"):
        table.add_column(label, justify="right", no_wrap=True)
    by_path = [{stage.path: stage for stage in profile.stages} for profile in (one, other)]
    for path in dict.fromkeys([*by_path[0], *by_path[1]]):
        stages = [of_profile.get(path) for of_profile in by_path]
        cells = [cell for stage in stages for cell in _cells(stage)]
        shown = stages[0] or stages[1]
        assert shown is not None
        seconds = (None if stage is None else stage.seconds for stage in stages)
        table.add_row(_indented(shown), *cells, _ratio(*seconds))
    table.add_row(
        "whole",
        *(cell for profile in (one, other) for cell in (f"{profile.seconds:.2f}", "", "")),
        _ratio(one.seconds, other.seconds),
    )
    titles = [
        Text(f"{letter}: {name}: {_title(profile)}")
        for letter, name, profile in zip("AB", names, (one, other), strict=True)
    ]
    return Group(*titles, table)


def _title(profile: Profile) -> str:
    where = profile.device
    if where == "cpu":
        where += f", {profile.limits.threads} threads"
    return f"{profile.method} on {where}: {profile.seconds:.2f} s"


def _limits(profile: Profile) -> str:
    limits = profile.limits
    lines = [
        f"Limits, measured before the run: memory {_rate(limits.copy_bytes, 'B/s')}, matrix "
        f"products {_rate(limits.matrix_operations, 'op/s')} ({limits.dtype}).",
        "Peak memory: "
        + ", ".join(f"{where} {byte_words(size)}" for where, size in profile.memory.items()),
    ]
    if profile.uncounted:
        lines.append(f"Not counted: {', '.join(profile.uncounted)}")
    return "\n".join(lines)


def _indented(stage: Stage) -> Text:
    outer, _, name = stage.path.rpartition(BETWEEN)
    depth = outer.count(BETWEEN) + 1 if outer else 0
    threads = f" ({stage.threads} threads)" if stage.threads > 1 else ""
    return Text("  " * depth + name + threads)


def _work(stage: Stage) -> tuple[str, str]:
    """Return operations, or else bytes; and the rate per second."""
    amount, unit = (stage.operations, "op") if stage.operations else (stage.bytes, "B")
    if not amount or not stage.seconds:
        return "", ""
    return _rate(amount, unit), _rate(amount / stage.seconds, unit)


def _rate(amount: float, unit: str) -> str:
    for size, prefix in _PREFIXES:
        if amount >= size:
            return f"{amount / size:.3g} {prefix}{unit}"
    return f"{amount:.3g} {unit}"


def _cells(stage: Stage | None) -> tuple[str, str, str]:
    """Return seconds, share and fraction of the limit."""
    if stage is None:
        return "", "", ""
    of_limit = "" if stage.of_limit is None else f"{stage.of_limit:.0%}"
    return f"{stage.seconds:.2f}", f"{stage.share:.0%}", of_limit


def _ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:.2f}" if one and other else ""
