"""What stored labels may lose: accuracy against bytes, for each way to make them smaller.

    python -m benchmarks.label_budgets --data DIR --work FOLDER --epochs 100
    python -m benchmarks.label_budgets --data DIR --work FOLDER --epochs 10 --forms "4 bits"

RDED distils CIFAR-10 to ten images a class. Labels are stored in each form, and within each budget,
and students train on them. Sets, labels and students stay in the work folder, and a later run with
the same folder reuses them, so a stopped comparison continues. The record grows with every form.

The expected losses of `pydream relabel --budget` (`pydream/evaluate/label_budget.py`) are the
differences of these means from that of "float16". Accuracies do not depend on how busy the machine
is, and no time is recorded.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.pipeline_evaluate import ARCH, observer_file
from benchmarks.records import RESULTS, GrowingRecord
from pydream.evaluate import EvaluateConfig, EvaluationRow, RelabelConfig, evaluate_set, relabel
from pydream.rded import RdedConfig, distill

RECORD = "label-budgets"
FORMS: Mapping[str, Mapping[str, Any]] = {
    "float16": {},
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4},
    "top 5": {"top_k": 5},
    "top 3": {"top_k": 3},
    "top 1": {"top_k": 1},
    "every 2nd epoch": {"every": 2},
    "every 5th epoch": {"every": 5},
    "every 10th epoch": {"every": 10},
    "every 30th epoch": {"every": 30},
    "every 100th epoch": {"every": 100},
    "half hard": {"hard_epochs": 1 / 2},
    "half hard, every 10th epoch": {"hard_epochs": 1 / 2, "every": 10},
    "half hard, every 30th epoch": {"hard_epochs": 1 / 2, "every": 30},
}
"""Settings of `pydream relabel`; hard epochs are a share of all."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.zip")
    parser.add_argument("--work", type=Path, required=True, help="folder of sets and students")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--budgets", nargs="*", default=["30KB", "100KB", "300KB", "1MB"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def make_set(arguments: argparse.Namespace) -> Path:
    config = RdedConfig(
        source=str(arguments.data / "cifar10.zip"),
        observer=observer_file(arguments.data),
        ipc=10,
        factor=1,
        precision="float32",
        device=arguments.device,
        out=arguments.work / "set",
        resume=True,
    )
    path: Path = distill(config).path
    return path


def evaluate(arguments: argparse.Namespace, made: Path, *labels: str) -> list[EvaluationRow]:
    """Train the students of a set, or find them."""
    result = evaluate_set(
        EvaluateConfig(
            set=made,
            observer=observer_file(arguments.data),
            labels=labels,
            students=(ARCH,),
            seeds=tuple(arguments.seeds),
            epochs=arguments.epochs,
            eval_every=arguments.epochs,
            device=arguments.device,
            resume=True,
        )
    )
    return list(result.rows)


def store(arguments: argparse.Namespace, made: Path, **settings: Any) -> Any:
    return relabel(
        RelabelConfig(
            set=made,
            observer=observer_file(arguments.data),
            student=ARCH,
            seeds=tuple(arguments.seeds),
            epochs=arguments.epochs,
            device=arguments.device,
            **settings,
        )
    )


def in_form(arguments: argparse.Namespace, made: Path, name: str) -> list[EvaluationRow]:
    """Train on labels in one form, which lie in a copy of the set."""
    copy = arguments.work / name.replace(" ", "-")
    if not copy.exists():
        shutil.copytree(made, copy, ignore=shutil.ignore_patterns("labels", "results"))
    settings = dict(FORMS[name])
    if "hard_epochs" in settings:
        settings["hard_epochs"] = round(settings["hard_epochs"] * arguments.epochs)
    store(arguments, copy, **settings)
    return evaluate(arguments, copy, "stored")


def facts(row: EvaluationRow) -> dict[str, Any]:
    """Return the bytes of a row's labels and its students' last accuracies, for the record."""
    last = [run.last.top1 for run in row.runs]
    return {
        "label_bytes": row.label_bytes,
        "label_form": row.label_form,
        "epochs": row.recipe.epochs,
        "seeds": [run.seed for run in row.runs],
        "top1": last,
        "mean": fmean(last),
        "std": stdev(last) if len(last) > 1 else None,
    }


def main() -> None:
    arguments = parse()
    made = make_set(arguments)
    record = GrowingRecord(RECORD, arguments.out)
    for name in arguments.forms:
        (row,) = in_form(arguments, made, name)
        record.add(name, facts(row))
        print(f"{name:28s} {row.label_bytes:>12,} bytes  top-1 {row.last_mean:.2%}", flush=True)
    for budget in arguments.budgets:
        store(arguments, made, budget=budget)
    labels = [f"stored@{budget}" for budget in arguments.budgets]
    for row in evaluate(arguments, made, *labels, "online", "hard"):
        record.add(row.labels, facts(row))
        print(f"{row.labels:28s} {row.label_bytes:>12,} bytes  top-1 {row.last_mean:.2%}")
    print(record.path)


if __name__ == "__main__":
    main()
