"""Accuracy by iteration in DC, DSA, DM and MTT, with random and with representative real images.

    python -m benchmarks.frameworks_accuracy --data DIR --work FOLDER

Four classes of CIFAR-10, 500 images each, by `pydream dream-compare` with its small numbers; once
more with representatives that weigh as much as their clusters, where real images are matched. With
the same FOLDER it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS, GrowingRecord
from pydream.dream import CompareConfig, Comparison, compare

FRAMEWORKS = ("dc", "dsa", "dm", "mtt")
LEFT_OUT = ("source", "out", "experts", "device")  # of a record: where things lie


def facts(config: CompareConfig, result: Comparison) -> dict[str, Any]:
    """Return curves, and where each method reaches the end of random sampling."""
    end = result.mean("random")[-1]
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in LEFT_OUT
    }
    return {
        "setting": settings,
        "iterations": result.iterations,
        "top1": result.top1,
        "mean": {method: result.mean(method) for method in result.top1},
        "reaches_the_end_of_random": {
            method: result.first_reaching(method, end) for method in result.top1
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.zip")
    parser.add_argument("--work", type=Path, required=True, help="folder for the distilled sets")
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    record = GrowingRecord("frameworks", arguments.out)
    for framework in arguments.frameworks:
        plain = CompareConfig(
            str(arguments.data / "cifar10.zip"),
            framework=framework,
            out=arguments.work / framework,
            arch="convnet3-w32-instance",
            batch_real=64,
            device="cpu",
        )
        compare_and_record(framework, plain, record)
        if framework != "mtt":
            weighted = dataclasses.replace(plain, weights="clusters")
            compare_and_record(f"{framework}, weights of clusters", weighted, record)
    print(record.path)


def compare_and_record(name: str, config: CompareConfig, record: GrowingRecord) -> None:
    result = compare(config)
    record.add(name, facts(config, result))
    for method in result.top1:
        print(name, method, *(f"{top1:.1%}" for top1 in result.mean(method)))


if __name__ == "__main__":
    main()
