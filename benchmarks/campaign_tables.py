"""The tables of campaigns, from the records of `make campaigns`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import median
from typing import Any

_PREFIX = "campaign-"
_NONE = "No campaign has been recorded yet.\n"


def campaigns_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the parts of every recorded campaign with their trials and time, as Markdown."""
    rows = [
        f"| {record['name'].removeprefix(_PREFIX)} | {part} | {of_part['trials']:,} "
        f"| {timedelta(seconds=round(of_part['seconds']))} | {record['date'][:10]} |"
        for record in records
        if record["name"].startswith(_PREFIX)
        for part, of_part in record["results"].items()
    ]
    head = ["| Campaign | What was tried | Trials | Took | On |", "| --- | --- | --: | --: | --- |"]
    return "\n".join([*head, *rows]) + "\n" if rows else _NONE


def busy_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the seconds of every command alone and beside busy processes, as Markdown."""
    rows = [
        f"| {part.partition(' beside ')[0]} | {median(times['seconds_alone']):.1f} "
        f"| {median(times['seconds_beside']):.1f} | {times['slower']:.2f} |"
        for record in records
        if record["name"] == f"{_PREFIX}busy"
        for part, times in record["results"].items()
    ]
    head = ["| Command | Alone, s | Beside, s | Times |", "| --- | --: | --: | --: |"]
    return "\n".join([*head, *rows]) + "\n" if rows else _NONE
