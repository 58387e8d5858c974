"""Write the tables of README.md and the guides, and the charts, from the newest records.

    python -m benchmarks.report [--check]

With ``--check`` nothing is written, and the exit code is 1 if a table or a chart is stale.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accuracy import accuracy_tables
from benchmarks.campaign_tables import busy_table, campaigns_table
from benchmarks.cases import ALL_SHOWN, BOUNDS, HEADLINES, OF_MANY_OPS, OPS, TARGETS
from benchmarks.expected_times import simulated_table
from benchmarks.figures import draw_ratios, draw_roofline
from benchmarks.protocol_tables import protocols_table, recipes_table
from benchmarks.records import RESULTS, MixedRecordsError, decisive, newest_records

REPOSITORY = Path(__file__).resolve().parents[1]
README, PAGE, OF_SETS = "README.md", "docs/benchmarks.md", "docs/rded.md"
OF_RANKS, OF_PROTOCOLS = "docs/scale.md", "docs/protocols.md"
OF_CAMPAIGNS = "docs/reliability.md"
RATIOS, ROOFLINE = "docs/benchmark-ratios.svg", "docs/benchmark-roofline.svg"


class Row(NamedTuple):
    """A case that is shown: its record, its label, and what was measured."""

    record: Mapping[str, Any]
    label: str
    case: Mapping[str, Any]
    in_readme: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if anything is stale"
    )
    check = parser.parse_args().check
    try:
        stale = [name for name, current in update(REPOSITORY, write=not check) if not current]
    except MixedRecordsError as error:
        raise SystemExit(str(error)) from error
    if check and stale:
        raise SystemExit(f"{', '.join(stale)}: stale; run `make bench-report`")
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}")


def update(repository: Path, *, write: bool) -> Iterator[tuple[str, bool]]:
    """Compare tables and charts with the records; yield each file, and whether it was current."""
    records = list(newest_records(repository / "benchmarks" / RESULTS.name))
    shown = _headlines(records)
    for name, tables in (
        (README, {"summary": _summary(shown)}),
        (PAGE, {"times": _tables(shown), "slower": _slower(records)}),
        (OF_SETS, {"sets": accuracy_tables(records)}),
        (OF_RANKS, {"ranks": simulated_table(records)}),
        (OF_PROTOCOLS, {"recipes": recipes_table(), "protocols": protocols_table(records)}),
        (OF_CAMPAIGNS, {"campaigns": campaigns_table(records), "busy": busy_table(records)}),
    ):
        page = repository / name
        text = page.read_text(encoding="utf-8")
        wanted = text
        for table, content in tables.items():
            begin, end = markers(table)
            before, rest = wanted.split(begin)
            wanted = f"{before}{begin}\n{content}{end}{rest.split(end)[1]}"
        yield name, text == wanted
        if write and text != wanted:
            page.write_text(wanted, encoding="utf-8")
    measured = [record for record in records if "limits" in record]
    for name, draw, points in (
        (RATIOS, draw_ratios, [_of_ratios(row) for row in shown]),
        (ROOFLINE, draw_roofline, _points(measured)),
    ):
        # Figures differ between versions of Matplotlib, so what they were drawn of is compared.
        digest = hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()
        file = repository / name
        current = file.is_file() and digest in file.read_text(encoding="utf-8")
        yield name, current
        if write and not current:
            draw(points, file, digest)


def markers(table: str) -> tuple[str, str]:
    """Return the comments between which a table is written."""
    return f"<!-- benchmarks, {table}: begin -->", f"<!-- benchmarks, {table}: end -->"


def _headlines(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Choose the rows that are shown, in order."""
    rows: list[Row] = []
    for record in records:
        if record["name"] in ALL_SHOWN:
            of_many = record["name"] in OF_MANY_OPS
            for name, case in _cases(record).items():
                label = name if of_many else f"`{_op(record, name)}`, {name}"
                rows.append(Row(record, label, case))
    for headline in HEADLINES:
        for record in records:
            own = record["name"] == headline.record
            chosen = _cases(record).get(headline.case) if own else None
            if chosen is not None:
                label = headline.label or chosen["label"]
                rows.append(Row(record, label, chosen, headline.in_readme))
    return rows


def _cases(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Pick the comparisons from among settings and single times."""
    return {
        name: case
        for name, case in record["results"].items()
        if isinstance(case, Mapping) and "times_as_fast" in case
    }


def _summary(shown: Sequence[Row]) -> str:
    """Lay out the README's table: the machine with the most of its rows, and the fastest peers."""
    of_machines = _by_machine(row for row in shown if row.in_readme > 0)
    if not of_machines:
        return "\nNothing has been measured yet.\n\n"
    most = max(of_machines.values(), key=len)
    rows = sorted(most, key=lambda row: row.in_readme)
    lines = []
    for row in rows:
        peer, times = min(_peers(row.case).items(), key=lambda item: item[1])
        lines.append(f"| {row.label} | {_time(row.case)} | {peer}: **{times:.1f}×** as long |\n")
    head = "| | pydream | fastest alternative |\n|---|---|---|\n"
    return f"\n{head}{''.join(lines)}\n*{_machine(rows[0].record)}; {_about(rows)}*\n\n"


def _tables(shown: Sequence[Row]) -> str:
    """Lay out a section for each machine, with a table for each op and its peers."""
    parts = []
    for machine, rows in _by_machine(shown).items():
        parts.append(f"\n### {machine}\n\n{_about(rows)}\n")
        for _, family in itertools.groupby(rows, key=_family):
            parts.append(f"\n{_table(list(family))}")
    return "".join(parts) + "\n"


def _by_machine(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_machine(row.record), []).append(row)
    return groups


def _family(row: Row) -> tuple[str, str]:
    """Return what rows of one table share: the record, and of a record of many ops the op."""
    name = row.record["name"] if row.record["name"] in BOUNDS else ""
    return name, _op(row.record, row.label) if name in OF_MANY_OPS else ""


def _table(rows: Sequence[Row]) -> str:
    """Lay out cases that have peers in common: a column for the bound, and one for each peer."""
    measured = [peer for row in rows for peer in _peers(row.case)]
    remarked = [peer for row in rows for peer in row.case.get("remarks", {})]
    peers = list(dict.fromkeys(measured + remarked))
    bound = BOUNDS.get(rows[0].record["name"])
    heads = ["", "pydream", *([f"speed ({bound} = 100 %)"] if bound else []), *peers]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        limit = row.case.get("fraction_of_limit")
        told = ["" if limit is None else f"{100 * limit:.0f} %"] if bound else []
        told += [_beside(row.case, peer) for peer in peers]
        lines.append([row.label, _time(row.case), *told])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _time(case: Mapping[str, Any]) -> str:
    """Word the time of ours, with its unit."""
    unit = case.get("unit", "item")
    seconds = next(iter(case["microseconds_per_item"].values())) / 1e6
    return _words(seconds) + ("" if unit in ("call", "run") else f" / {unit}")


def _beside(case: Mapping[str, Any], peer: str) -> str:
    """Word the time of a peer, or say why there is none."""
    times = _peers(case).get(peer)
    if times is None:
        return str(case.get("remarks", {}).get(peer, ""))
    return f"{_words(case['microseconds_per_item'][peer] / 1e6)}, **{times:.1f}×**"


def _about(rows: Sequence[Row]) -> str:
    """Say how and when rows of one machine were measured."""
    dates = sorted(row.record["date"][:10] for row in rows)
    period = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{_settings(rows[0])}; {period}."


def _settings(row: Row) -> str:
    """Say what holds for all cases of a machine; on a GPU each names its own type of numbers."""
    about = row.record["machine"]
    torch = f"torch {about['versions']['torch']}"
    if "gpu" in about:
        return f"{torch}, CUDA {about['build']['torch_cuda']}"
    return f"float32, {row.case.get('threads', 2)} threads, {torch}"


def _machine(record: Mapping[str, Any]) -> str:
    about = decisive(record["machine"])
    if "gpu" in about:
        return str(about["gpu"])
    kind = ", ".join(f"{name} {about[name]}" for name in ("family", "model") if about[name])
    return (
        f"{about['processor']}{f' ({kind})' if kind else ''}, {about['cores']} cores, "
        f"{about['instruction_set']}{' with bfloat16' if about['native_bfloat16'] else ''}"
    )


def _peers(case: Mapping[str, Any]) -> dict[str, float]:
    """Return how many times as long each peer takes; variants of ours are not peers."""
    return {
        name: times
        for name, times in case["times_as_fast"].items()
        if not name.startswith("pydream")
    }


def _op(record: Mapping[str, Any], case: str) -> str:
    """Name the op of a case."""
    if record["name"] in OF_MANY_OPS:
        return case.partition(",")[0]
    return str(OPS.get(record["name"], record["name"]))


def _slower(records: Sequence[Mapping[str, Any]]) -> str:
    """List the cases that are slower than a peer, or miss a target."""
    lines = []
    several = len({_machine(record) for record in records}) > 1
    for record in records:
        if record["name"] not in {*ALL_SHOWN, *(headline.record for headline in HEADLINES)}:
            continue
        for name, case in _cases(record).items():
            where = name if record["name"] in OF_MANY_OPS else f"{_op(record, name)}, {name}"
            where += f" ({_machine(record)})" if several else ""
            slower = [
                f"{times:.2f} times as fast as {peer}"
                for peer, times in _peers(case).items()
                if times < 1
            ]
            missed = [
                f"{found:.2f} {than}; target {least:g}"
                for than, found, least in _against_targets(record["name"], name, case)
                if found < least
            ]
            lines += [f"| {where} | {line} |\n" for line in slower + missed]
    head = "\n| case | result |\n|---|---|\n"
    return head + "".join(lines) + "\n" if lines else "\nNothing.\n\n"


def _against_targets(
    record: str, name: str, case: Mapping[str, Any]
) -> Iterator[tuple[str, float, float]]:
    """Yield what is compared, the result, and the target."""
    for target in TARGETS:
        if target.record != record or not name.startswith(target.case):
            continue
        if target.than == "limit" and "fraction_of_limit" in case:
            yield "of its bound", case["fraction_of_limit"], target.least
        else:
            rivals = {
                peer: times for peer, times in _peers(case).items() if peer.startswith(target.than)
            }
            for peer, times in rivals.items():
                yield f"times as fast as {peer}", times, target.least


def _words(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _of_ratios(row: Row) -> dict[str, Any]:
    label = row.label.replace("`", "")
    return {"machine": _machine(row.record), "label": label, "times": _peers(row.case)}


def _points(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return bytes, operations, seconds and limits of every op, for the roofline."""
    return [
        {
            "machine": _machine(record),
            "op": _op(record, name),
            "limits": case.get("limits", record["limits"]),
            "seconds": next(iter(case["microseconds_per_item"].values())) * case["items"] / 1e6,
            **case["work"],
        }
        for record in records
        for name, case in _cases(record).items()
        if case.get("work", {}).get("operations") and case.get("threads", 2) == 2
    ]


if __name__ == "__main__":
    main()
