"""The tables of students' accuracies, from the records of `benchmarks.pipeline_sets`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.records import decisive

RECORD = "sets"  # and what follows it after a hyphen
HEADS = {"online": "observer’s labels", "hard": "hard labels", "stored": "stored labels"}


class Setting(NamedTuple):
    """What all rows of a table have in common."""

    ipc: int
    student: str
    epochs: int


class Accuracy(NamedTuple):
    """Accuracies of the students of one set under one kind of labels."""

    setting: Setting
    name: str
    labels: str
    top1: Sequence[float]
    mean: float
    std: float | None


def is_of_sets(record: Mapping[str, Any]) -> bool:
    """Whether a record is one of sets compared by their students."""
    name: str = record["name"]
    return name == RECORD or name.startswith(f"{RECORD}-")


def accuracies(record: Mapping[str, Any]) -> Iterator[Accuracy]:
    """Give out the accuracies of a record, by the name of the way or of the baseline."""
    for way, result in record["results"].items():
        for row in result["students"]:
            yield Accuracy(
                Setting(result["settings"]["ipc"], row["student"], result["epochs"]),
                way if row["images"] == "distilled" else f"{row['images']} images",
                row["labels"],
                row["top1"],
                row["mean"],
                row["std"],
            )


def accuracy_tables(records: Sequence[Mapping[str, Any]]) -> str:
    """Lay out a table for each record and setting: a row for each set, a column for each labels.

    Of the records of one name, by several machines, that of the most students is shown.
    """
    parts = []
    for record in _largest(filter(is_of_sets, records)):
        found = list(accuracies(record))
        for setting in dict.fromkeys(one.setting for one in found):
            own = [one for one in found if one.setting == setting]
            parts.append(f"\n{_title(setting)} ({_machine(record)}):\n\n{_table(own)}")
    return "".join(parts) + "\n" if parts else "\nNothing has been measured yet.\n\n"


def _largest(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose the record of the most students among those of each name, in the order of names."""
    of_names: dict[str, Mapping[str, Any]] = {}
    for record in records:
        known = of_names.get(record["name"])
        if known is None or _students(record) > _students(known):
            of_names[record["name"]] = record
    return [of_names[name] for name in sorted(of_names)]


def _students(record: Mapping[str, Any]) -> int:
    return sum(len(one.top1) for one in accuracies(record))


def _machine(record: Mapping[str, Any]) -> str:
    about = decisive(record["machine"])
    return str(about["gpu"] if "gpu" in about else about["processor"])


def _title(setting: Setting) -> str:
    images = "One image" if setting.ipc == 1 else f"{setting.ipc} images"
    return f"{images} a class, `{setting.student}` trained for {setting.epochs} epochs"


def _table(rows: Sequence[Accuracy]) -> str:
    kinds = [kind for kind in HEADS if any(row.labels == kind for row in rows)]
    cells = {(row.name, row.labels): _words(row) for row in rows}
    lines = [
        f"| set | {' | '.join(HEADS[kind] for kind in kinds)} |\n",
        f"|{'---|' * (1 + len(kinds))}\n",
    ]
    for name in dict.fromkeys(row.name for row in rows):
        lines.append(f"| {name} | {' | '.join(cells.get((name, kind), '') for kind in kinds)} |\n")
    return "".join(lines)


def _words(row: Accuracy) -> str:
    """Write mean and standard deviation in percent, and how many students they are of."""
    if row.std is None:
        return f"{100 * row.mean:.1f} % (one seed)"
    return f"{100 * row.mean:.1f} ± {100 * row.std:.1f} % ({len(row.top1)} seeds)"
