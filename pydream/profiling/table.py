"""Profiles as tables: one, or two side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pydream.errors import PydreamError
from pydream.formatting import byte_words
from pydream.profiling.recorder import BETWEEN

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def profile_table(facts: Mapping[str, Any]) -> RenderableType:
    """Lay one profile out for a terminal.

    Parameters
    ----------
    facts
        Facts that `pydream.profiling.profile` recorded.
    """
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("stage", overflow="fold")
    for name in ("seconds", "share", "work", "a second", "of limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in facts["stages"]:
        work, rate = _work(row)
        of_limit = "" if row["of_limit"] is None else f"{row['of_limit']:.0%}"
        table.add_row(
            _indented(row), f"{row['seconds']:.2f}", f"{row['share']:.0%}", work, rate, of_limit
        )
    return Group(Text(_title(facts)), table, Text(_limits(facts), style="dim"))


def comparison_table(
    one: Mapping[str, Any], other: Mapping[str, Any], *, names: tuple[str, str]
) -> RenderableType:
    """Lay two profiles of the same method side by side.

    Parameters
    ----------
    one, other
        Two results of `pydream.profiling.profile`.
    names
        Names of the two in the table.

    Raises
    ------
    PydreamError
        If they are of different methods.
    """
    if one["method"] != other["method"]:
        raise PydreamError(
            f"{names[0]} is of {one['method']}, {names[1]} of {other['method']}: only profiles of "
            "the same method can be compared"
        )
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", overflow="fold")
    for label in ("A, s", "share", "of limit", "B, s", "share", "of limit", "A / B"):
        table.add_column(label, justify="right", no_wrap=True)
    by_path = [{row["path"]: row for row in facts["stages"]} for facts in (one, other)]
    for path in dict.fromkeys([*by_path[0], *by_path[1]]):
        rows = [stages.get(path) for stages in by_path]
        cells = [cell for row in rows for cell in _cells(row)]
        shown = rows[0] or rows[1]
        assert shown is not None
        table.add_row(_indented(shown), *cells, _ratio(*(row and row["seconds"] for row in rows)))
    table.add_row(
        "whole",
        *(cell for facts in (one, other) for cell in (f"{facts['seconds']:.2f}", "", "")),
        _ratio(one["seconds"], other["seconds"]),
    )
    titles = [
        Text(f"{letter}: {name}: {_title(facts)}")
        for letter, name, facts in zip("AB", names, (one, other), strict=True)
    ]
    return Group(*titles, table)


def _title(facts: Mapping[str, Any]) -> str:
    threads = facts["limits"]["threads"]
    where = facts["device"] if facts["device"] != "cpu" else f"cpu, {threads} threads"
    return f"{facts['method']} on {where}: {facts['seconds']:.2f} s"


def _limits(facts: Mapping[str, Any]) -> str:
    limits = facts["limits"]
    lines = [
        f"Limits, measured before the run: memory {_rate(limits['copy_bytes'], 'B/s')}, matrix "
        f"products {_rate(limits['matrix_operations'], 'op/s')} ({limits['dtype']}).",
        "Peak memory: "
        + ", ".join(f"{where} {byte_words(size)}" for where, size in facts["memory"].items()),
    ]
    if facts["uncounted"]:
        lines.append(f"Not counted: {', '.join(facts['uncounted'])}")
    return "\n".join(lines)


def _indented(row: Mapping[str, Any]) -> Text:
    outer, _, name = row["path"].rpartition(BETWEEN)
    depth = outer.count(BETWEEN) + 1 if outer else 0
    threads = f" ({row['threads']} threads)" if row["threads"] > 1 else ""
    return Text("  " * depth + name + threads)


def _work(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return operations, or else bytes; and how many in a second."""
    amount, unit = (row["operations"], "op") if row["operations"] else (row["bytes"], "B")
    if not amount or not row["seconds"]:
        return "", ""
    return _rate(amount, unit), _rate(amount / row["seconds"], unit)


def _rate(amount: float, unit: str) -> str:
    for size, prefix in _PREFIXES:
        if amount >= size:
            return f"{amount / size:.3g} {prefix}{unit}"
    return f"{amount:.3g} {unit}"


def _cells(row: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if row is None:
        return "", "", ""
    of_limit = "" if row["of_limit"] is None else f"{row['of_limit']:.0%}"
    return f"{row['seconds']:.2f}", f"{row['share']:.0%}", of_limit


def _ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:.2f}" if one and other else ""
