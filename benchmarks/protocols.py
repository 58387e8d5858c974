"""One distilled set under each published recipe.

    python -m benchmarks.protocols --data DIR --work FOLDER

Ten images a class of CIFAR-10 by RDED, each of four shrunken patches, so that recipes which shuffle
patches or enlarge cells do so. Students see a share of the published epochs. With the same FOLDER
it goes on where it stopped, and the record grows with every recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console

from benchmarks.pipeline_evaluate import observer_file
from benchmarks.pipeline_sets import make_set
from benchmarks.protocol_tables import RECORD
from benchmarks.records import RESULTS, GrowingRecord
from pydream.evaluate import EvaluateConfig, evaluate_set, result_table
from pydream.evaluate.results import EvaluationResult
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import RECIPES

CHECKS = 5  # measurements of a student, so that the last fifth has one
SET = {"factor": 2}
# What this set or this machine does not have, and what is done in its place.
OTHERWISE: dict[str, tuple[dict[str, Any], str]] = {
    "edc": ({"least_observers": 1}, "one observer"),
    "mtt": ({"learning_rate": 0.01}, "no learned rate: 0.01"),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.zip")
    parser.add_argument("--work", type=Path, required=True, help="folder of set and students")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--share", type=float, default=0.1, help="of the published epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--student", default="convnet3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def evaluate(arguments: argparse.Namespace, made: Path, name: str) -> EvaluationResult:
    """Train the students of a recipe, or find them."""
    changes, _ = OTHERWISE.get(name, ({}, ""))
    published = resolve(
        RECIPES[name],
        student=arguments.student,
        num_images=10 * arguments.ipc,
        num_classes=10,
        side=32,
        factor=SET["factor"],
        overrides=changes,
    )
    epochs = max(CHECKS, round(arguments.share * published.epochs))
    config = EvaluateConfig(
        set=made,
        observer=observer_file(arguments.data),
        recipe=name,  # type: ignore[arg-type]
        labels=("published",),
        students=(arguments.student,),
        seeds=tuple(arguments.seeds),
        epochs=epochs,
        eval_every=-(-epochs // CHECKS),
        device=arguments.device,
        resume=True,
        **changes,
    )
    result: EvaluationResult = evaluate_set(config)
    return result


def facts(arguments: argparse.Namespace, name: str, result: EvaluationResult) -> dict[str, Any]:
    """Return what the record says of a recipe."""
    (row,) = result.rows
    measured = {
        "last": [run.last.top1 for run in row.runs],
        "best": [run.best.top1 for run in row.runs],
        "reported": [run.reported(row.recipe).top1 for run in row.runs],
    }
    return {
        "set": f"RDED on CIFAR-10, factor {SET['factor']}, {arguments.ipc} images a class",
        "student": row.student,
        "test_images": result.facts["test"]["images"],
        "share": arguments.share,
        "labels": row.labels,
        "epochs": row.recipe.epochs,
        "steps": row.runs[0].steps,
        "seeds": [run.seed for run in row.runs],
        **{
            kind: {
                "top1": values,
                "mean": fmean(values),
                "std": stdev(values) if len(values) > 1 else None,
            }
            for kind, values in measured.items()
        },
        "reported_as": row.reported,
        "otherwise": OTHERWISE.get(name, ({}, ""))[1],
        "recipe": dataclasses.asdict(row.recipe),
    }


def main() -> None:
    arguments = parse()
    made = make_set(arguments, SET)
    record = GrowingRecord(RECORD, arguments.out)
    for name in arguments.recipes:
        result = evaluate(arguments, made, name)
        record.add(name, facts(arguments, name, result))
        Console().print(result_table(result))
    print(record.path)


if __name__ == "__main__":
    main()
