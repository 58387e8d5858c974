"""The table of simulated runs, from the record of `benchmarks.simulate_ranks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RECORD = "simulated-ranks"


def simulated_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the newest simulation: a row for each kind of rank and set, and the assumptions."""
    found = [record for record in records if record["name"] == RECORD]
    if not found:
        return "\nNothing has been simulated yet.\n\n"
    results = max(found, key=lambda record: str(record["date"]))["results"]
    lines = []
    for rank in results["ranks"]:
        for name, runs in rank["runs"].items():
            times = [_duration(run["seconds"]) + _limit(run) for run in runs.values()]
            label = f"{name}, {next(iter(runs.values()))['images']:,} images scored"
            rate = f"{rank['images_per_second']:,.0f}"
            lines.append([rank["label"], rate, label, *times])
    counts = [_count(int(count)) for count in next(iter(results["ranks"][0]["runs"].values()))]
    heads = ["a rank", "images per second", "set", *counts]
    table = [heads, ["---"] * len(heads), *lines]
    costs = results["fixed_costs"]
    assumed = [
        f"- {name}: {assumption['value']:,.0f} ({assumption['source']})\n"
        for name, assumption in results["assumptions"].items()
    ]
    files = [*(rank["record"] for rank in results["ranks"]), *costs["records"]]
    return (
        "\n"
        + "".join(f"| {' | '.join(line)} |\n" for line in table)
        + f"\nMeasured: a rank starts in {costs['start']:.1f} s; a million images take "
        f"{costs['open_per_image'] * 1e6:.1f} s to open and "
        f"{costs['preselect_per_image'] * 1e6:.1f} s to pre-select, and hashing takes "
        f"{costs['hash_per_candidate'] * 1e6:.1f} s for a million that are pre-selected; a file "
        f"has {costs['bytes_of_image'] / 1e3:.0f} kB on average. "
        f"Records: {', '.join(f'`{file}`' for file in dict.fromkeys(files))}.\n\n"
        "Assumed:\n\n" + "".join(assumed) + "\n"
    )


def _count(ranks: int) -> str:
    return f"{ranks} rank" + ("s" if ranks > 1 else "")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _limit(run: Mapping[str, Any]) -> str:
    return " (disk)" if run["limited_by"] == "disk" else ""
