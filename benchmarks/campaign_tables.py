"""The table of campaigns, from the records of `make campaigns`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

_PREFIX = "campaign-"


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
    return "\n".join([*head, *rows]) + "\n" if rows else "No campaign has been recorded yet.\n"
