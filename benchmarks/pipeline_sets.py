"""Sets made in different ways, compared by the students that they train.

    python -m benchmarks.pipeline_sets --data DIR --work FOLDER
    python -m benchmarks.pipeline_sets --data DIR --work FOLDER --students convnet4 --seeds 0 \\
        --baselines --way "eight steps" factor=2 crops=0 cells=matched refine=8

A way is a name and settings of `pydream rded` and `pydream evaluate`. Without one, the ways of the
table in the guide are compared. Sets and students stay in the work folder, and a later run with the
same folder reuses them, so a stopped comparison continues. The record grows with every student.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args, get_type_hints

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import RECORD
from benchmarks.pipeline_evaluate import observer_file
from benchmarks.records import RESULTS, GrowingRecord
from pydream.evaluate import EvaluateConfig, evaluate_set
from pydream.evaluate.config import Baseline, LabelKind
from pydream.evaluate.results import EvaluationRow
from pydream.rded import RdedConfig, distill

WAYS: Mapping[str, Mapping[str, Any]] = {
    "RDED as published, factor 1": {"factor": 1},
    "whole images, shrunken cells, seen by cells": {"factor": 2, "crops": 0, "views": "dsa"},
    "whole images, matched cells": {"factor": 2, "crops": 0, "cells": "matched"},
    "the same, refined in 100 steps": {
        "factor": 2,
        "crops": 0,
        "cells": "matched",
        "refine": 100,
    },
}
OF_SET = {field.name for field in dataclasses.fields(RdedConfig)}
OF_STUDENTS = {field.name for field in dataclasses.fields(EvaluateConfig)}
HINTS = {**get_type_hints(EvaluateConfig), **get_type_hints(RdedConfig)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.zip")
    parser.add_argument("--work", type=Path, required=True, help="folder of sets and students")
    parser.add_argument("--way", nargs="+", action="append", metavar=("NAME", "SETTING=VALUE"))
    parser.add_argument("--record", default=RECORD, help=f"name of the record: {RECORD}-WORD")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--labels", nargs="+", default=["online", "hard"], choices=get_args(LabelKind)
    )
    parser.add_argument("--students", nargs="+", default=["convnet3"])
    parser.add_argument(
        "--baselines",
        nargs="*",
        default=["random", "herding", "k-centre"],
        choices=get_args(Baseline),
        help="evaluated with the last way",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def value_of(setting: str, text: str) -> Any:
    """Read the value of a setting: a number, if the setting can be one, or a word."""
    kinds = HINTS[setting]
    for kind in (int, float):
        if kind in (kinds, *get_args(kinds)):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def ways_of(arguments: argparse.Namespace) -> Mapping[str, Mapping[str, Any]]:
    if arguments.way is None:
        return WAYS
    ways = {}
    for name, *settings in arguments.way:
        pairs = dict(setting.split("=", 1) for setting in settings)
        unknown = sorted(pairs.keys() - OF_SET - OF_STUDENTS)
        if unknown:
            raise SystemExit(f"{name}: rded and evaluate have no setting {', '.join(unknown)}")
        ways[name] = {setting: value_of(setting, value) for setting, value in pairs.items()}
    return ways


def make_set(arguments: argparse.Namespace, settings: Mapping[str, Any]) -> Path:
    """Distil a set, or find the one that an earlier run has made."""
    own = {name: value for name, value in settings.items() if name in OF_SET}
    words = [f"{name}={value}" for name, value in sorted({**own, "ipc": arguments.ipc}.items())]
    out = arguments.work / " ".join(words).replace("/", "_")
    config = RdedConfig(
        source=str(arguments.data / "cifar10.zip"),
        observer=observer_file(arguments.data),
        **{"ipc": arguments.ipc, "precision": "float32", **own},
        device=arguments.device,
        out=out,
        resume=True,
    )
    path: Path = distill(config).path
    return path


def evaluate(
    arguments: argparse.Namespace, made: Path, settings: Mapping[str, Any], labels: str
) -> tuple[EvaluationRow, ...]:
    """Train the students of a set under one kind of labels, or find them."""
    own = {name: value for name, value in settings.items() if name in OF_STUDENTS - OF_SET}
    config = EvaluateConfig(
        set=made,
        observer=observer_file(arguments.data),
        **{
            "labels": (labels,),
            "students": tuple(arguments.students),
            "seeds": tuple(arguments.seeds),
            "epochs": arguments.epochs,
            "eval_every": arguments.epochs,
            **own,
        },
        device=arguments.device,
        resume=True,
    )
    rows: tuple[EvaluationRow, ...] = evaluate_set(config).rows
    return rows


def accuracies(row: EvaluationRow) -> dict[str, Any]:
    """Return a row's last accuracies, their mean and their standard deviation, for the record."""
    last = [run.last.top1 for run in row.runs]
    return {
        "student": row.student,
        "labels": row.labels,
        "images": row.images,
        "image_count": row.image_count,
        "recipe": dataclasses.asdict(row.recipe),
        "seeds": [run.seed for run in row.runs],
        "top1": last,
        "mean": fmean(last),
        "std": stdev(last) if len(last) > 1 else None,
        "train_seconds": [run.train_seconds for run in row.runs],
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay out the results: a row for each way, student and baseline."""
    shown = Table(title="Top-1 of students on real test images, in percent")
    for column in ("way", "student", "labels", "mean", "std", "seeds"):
        shown.add_column(column)
    for way, result in results.items():
        for row in result["students"]:
            name = way if row["images"] == "distilled" else row["images"]
            std = "" if row["std"] is None else f"{row['std']:.2%}"
            seeds = " ".join(f"{value:.2%}" for value in row["top1"])
            shown.add_row(name, row["student"], row["labels"], f"{row['mean']:.2%}", std, seeds)
    return shown


def main() -> None:
    arguments = parse()
    ways = ways_of(arguments)
    device = torch.device(arguments.device)
    record = GrowingRecord(
        arguments.record, arguments.out, device if device.type == "cuda" else None
    )
    for number, (name, settings) in enumerate(ways.items(), 1):
        made = make_set(arguments, settings)
        last = number == len(ways)
        baselines = {"baselines": tuple(arguments.baselines)} if last else {}
        students: list[dict[str, Any]] = []
        for labels in arguments.labels:
            rows = evaluate(arguments, made, {**baselines, **settings}, labels)
            students += map(accuracies, rows)
            record.add(
                name,
                {
                    "settings": {**settings, "ipc": arguments.ipc},
                    "seconds of the set": json.loads((made / "run.json").read_text())["seconds"],
                    "epochs": arguments.epochs,
                    "students": students,
                },
            )
            Console().print(table(record.results))
    print(record.path)


if __name__ == "__main__":
    main()
