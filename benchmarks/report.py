"""The README's table and the figures, from the newest records.

    python -m benchmarks.report [--check]

With ``--check`` nothing is written; it fails where the table or a figure is not that of the
records.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.cases import ALL_SHOWN, HEADLINES, OF_MANY_OPS, OPS, TARGETS
from benchmarks.figures import draw_ratios, draw_roofline
from benchmarks.records import RESULTS, MixedRecordsError, decisive, newest_records

REPOSITORY = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
RATIOS, ROOFLINE = "docs/benchmark-ratios.svg", "docs/benchmark-roofline.svg"
MOST_PEERS = 4  # in a row of the table

# A record, the label of one of its cases, and that case.
Row: TypeAlias = tuple[Mapping[str, Any], str, Mapping[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where stale")
    check = parser.parse_args().check
    try:
        stale = [name for name, current in update(REPOSITORY, write=not check) if not current]
    except MixedRecordsError as error:
        raise SystemExit(str(error)) from error
    if check and stale:
        raise SystemExit(f"{', '.join(stale)}: not that of the records; run `make bench-report`")
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}")


def update(repository: Path, *, write: bool) -> Iterator[tuple[str, bool]]:
    """Compare tables and figures with the records; give out each name, and if it was current."""
    records = list(newest_records(repository / "benchmarks" / RESULTS.name))
    shown = _headlines(records)
    for name, content in (
        ("README.md", _tables(shown)),
        ("benchmarks/README.md", _behind(records)),
    ):
        page = repository / name
        text = page.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        wanted = f"{before}{BEGIN}\n{content}{END}{rest.split(END)[1]}"
        yield name, text == wanted
        if write and text != wanted:
            page.write_text(wanted, encoding="utf-8")
    measured = [record for record in records if "limits" in record]
    for name, draw, content in (
        (RATIOS, draw_ratios, [_of_ratios(*row) for row in shown]),
        (ROOFLINE, draw_roofline, _points(measured)),
    ):
        # Figures differ between versions of Matplotlib, so what they were drawn of is compared.
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        file = repository / name
        current = file.is_file() and digest in file.read_text(encoding="utf-8")
        yield name, current
        if write and not current:
            draw(content, file, digest)


def _headlines(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Choose what is shown, in order."""
    rows: list[Row] = []
    for record in records:
        if record["name"] in ALL_SHOWN:
            of_many = record["name"] in OF_MANY_OPS
            for name, case in _cases(record).items():
                label = name if of_many else f"`{_op(record, name)}`, {name}"
                rows.append((record, label, case))
    for each in HEADLINES:
        for record in records:
            case = _cases(record).get(each.case) if record["name"] == each.record else None
            if case is not None:
                rows.append((record, each.label or case["label"], case))
    return rows


def _cases(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Pick the comparisons; beside them lie settings and single times."""
    return {
        name: case
        for name, case in record["results"].items()
        if isinstance(case, Mapping) and "times_as_fast" in case
    }


def _tables(shown: Sequence[Row]) -> str:
    """Lay out a table for each machine."""
    parts = []
    for machine in dict.fromkeys(_machine(record) for record, _, _ in shown):
        own = [row for row in shown if _machine(row[0]) == machine]
        dates = sorted(record["date"][:10] for record, _, _ in own)
        period = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        parts.append(
            f"\n{machine}; {_settings(own[0])}; {period}.\n\n"
            "| | pydream | of the limit | others, and how many times as long they take |\n"
            "|---|---|---|---|\n" + "".join(_row(label, case) for _, label, case in own)
        )
    return "".join(parts) + "\n"


def _settings(row: Row) -> str:
    """Say what holds for all cases of a machine; on a GPU each names its own type of numbers."""
    record, _, case = row
    about = record["machine"]
    torch = f"torch {about['versions']['torch']}"
    if "gpu" in about:
        return f"{torch}, CUDA {about['build']['torch_cuda']}"
    return f"float32, {case.get('threads', 2)} threads, {torch}"


def _machine(record: Mapping[str, Any]) -> str:
    about = decisive(record["machine"])
    if "gpu" in about:
        return str(about["gpu"])
    kind = ", ".join(f"{name} {about[name]}" for name in ("family", "model") if about[name])
    return (
        f"{about['processor']}{f' ({kind})' if kind else ''}, {about['cores']} cores, "
        f"{about['instruction_set']}{' with bfloat16' if about['native_bfloat16'] else ''}"
    )


def _row(label: str, case: Mapping[str, Any]) -> str:
    unit = case.get("unit", "item")
    seconds = {name: each / 1e6 for name, each in case["microseconds_per_item"].items()}
    ours = _words(next(iter(seconds.values()))) + ("" if unit in ("call", "run") else f" / {unit}")
    limit = f"{case['fraction_of_limit']:.0%}" if "fraction_of_limit" in case else ""
    peers = sorted(_peers(case).items(), key=lambda each: each[1])[:MOST_PEERS]
    told = [f"{name} {_words(seconds[name])}, **{times:.1f}**" for name, times in peers]
    told += [f"{name}: {remark}" for name, remark in case.get("remarks", {}).items()]
    others = ", ".join(told)
    return f"| {label} | {ours} | {limit} | {others} |\n"


def _peers(case: Mapping[str, Any]) -> dict[str, float]:
    """Return how many times as long everybody else takes; other ways of ours are no peers."""
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


def _behind(records: Sequence[Mapping[str, Any]]) -> str:
    """List the cases that are slower than another, or below a target."""
    lines = []
    several = len({_machine(record) for record in records}) > 1
    for record in records:
        if record["name"] not in {*ALL_SHOWN, *(each.record for each in HEADLINES)}:
            continue
        for name, case in _cases(record).items():
            where = name if record["name"] in OF_MANY_OPS else f"{_op(record, name)}, {name}"
            where += f" ({_machine(record)})" if several else ""
            slower = [
                f"{peer}: {times:.2f} times as fast"
                for peer, times in _peers(case).items()
                if times < 1
            ]
            missed = [
                f"{than} {found:.2f}, wanted {least:g}"
                for than, found, least in _against_targets(record["name"], name, case)
                if found < least
            ]
            lines += [f"| {where} | {each} |\n" for each in slower + missed]
    head = "\n| case | what it is behind |\n|---|---|\n"
    return head + "".join(lines) + "\n" if lines else "\nNothing.\n\n"


def _against_targets(
    record: str, name: str, case: Mapping[str, Any]
) -> Iterator[tuple[str, float, float]]:
    """Give out what is compared, what was found, and what is wanted at least."""
    for target in TARGETS:
        if target.record != record or not name.startswith(target.case):
            continue
        if target.than == "limit" and "fraction_of_limit" in case:
            yield "of the limit", case["fraction_of_limit"], target.least
        else:
            rivals = {
                peer: times for peer, times in _peers(case).items() if peer.startswith(target.than)
            }
            for peer, times in rivals.items():
                yield f"times as fast as {peer}:", times, target.least


def _words(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _of_ratios(record: Mapping[str, Any], label: str, case: Mapping[str, Any]) -> dict[str, Any]:
    return {"machine": _machine(record), "label": label.replace("`", ""), "times": _peers(case)}


def _points(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what every op attains, for the roofline: bytes, operations, seconds, limits."""
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
