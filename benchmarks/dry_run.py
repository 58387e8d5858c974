"""What a dry run of RDED predicts, beside what the run then takes: seconds, memory and bytes.

    python -m benchmarks.dry_run --data DIR [--only CASE] [--rounds 3] [--files 600]

Dry run and run take turns, each in a process of its own, on two processors. Four cases: CIFAR-10 at
IPC 10 with its trained observer; the 200 photographs of imagenet-sample-200.zip under a ResNet-18;
a folder as ImageNet's, of 100 classes of 60 photographs; and, only if it is named, one of the shape
of ImageNet-1K, 1000 classes of 300 with a small observer and one crop, whose peak memory is set
beside the memory budget plus 1.2 GiB. The photographs of the last two are links to those of the
sample, and `--files` makes less of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.pipeline import print_run, run_in_turns
from benchmarks.pipeline_cuda import SAMPLE, random_observer, repeat_photographs
from benchmarks.pipeline_rded import UNPACK, cases
from benchmarks.records import RESULTS, write_record
from pydream.rded import RdedConfig, distill, predict
from pydream.rded.memory import default_budget
from pydream.rded.prediction import SPREAD

PREDICTED, RUN = "dry run", "run"
SHAPE = "imagenet-shape"
PROCESSORS = 2
ABOVE_BUDGET = 1.2  # GiB that a run may need beside its memory budget
CaseName = Literal["cifar10", "photographs", "imagenet-like", "imagenet-shape"]


@dataclass(frozen=True)
class Folder:
    """A folder of links to the photographs, with an observer of random weights."""

    files: int
    per_class: int
    arch: str
    crops: int = 5


FOLDERS = {
    "imagenet-like": Folder(6_000, 60, "resnet18"),
    SHAPE: Folder(300_000, 300, "convnet1-w4", crops=1),
}
OTHERS = {"cifar10": "cifar10", "photographs": "imagenet"}  # as `pipeline_rded` names them


@dataclass(frozen=True)
class Arguments:
    data: Path
    """Folder with cifar10.zip, imagenet-sample-200.zip and observers/."""
    only: CaseName | None = None
    """Measure one case; by default all but the shape of ImageNet-1K."""
    rounds: int = 3
    """Times that dry run and run take turns; the folder as ImageNet's once, because it is long."""
    files: int | None = None
    """Number of links in the folders of links, for a rehearsal."""
    out: Path = RESULTS
    """Folder of the records."""
    place: Path | None = None
    """Used by the program itself: where files were unpacked."""
    run: str | None = None
    """Used by the program itself: what to run in this process."""


def prepare(name: str, arguments: Arguments, place: Path) -> None:
    """Make the images and the observer of a case."""
    if name in OTHERS:
        case = cases(arguments.data, place)[OTHERS[name]]
        UNPACK[OTHERS[name]](arguments.data, case)
        return
    folder = FOLDERS[name]
    files = arguments.files or folder.files
    repeat_photographs(arguments.data / SAMPLE, place, files, folder.per_class)
    random_observer(-(-files // folder.per_class), place, folder.arch)


def settings(name: str, data: Path, place: Path, out: Path) -> RdedConfig:
    """Return the settings of a case whose files are made."""
    if name in OTHERS:
        case = cases(data, place)[OTHERS[name]]
        source, observer, arch = case.folder, case.observer, case.arch
        ipc, factor, crops = case.ipc, case.factor, 5
    else:
        arch, ipc, factor = FOLDERS[name].arch, 10, 2
        crops = FOLDERS[name].crops
        source, observer = place / "classes", next(place.glob("*.safetensors"))
    return RdedConfig(
        source=str(source),
        observer=str(observer),
        arch=arch,
        out=out,
        ipc=ipc,
        factor=factor,
        crops=crops,
        allow_weak_observer=True,
        device="cpu",
    )


def run_prediction(config: RdedConfig) -> dict[str, Any]:
    begun = time.perf_counter()
    found = predict(config)
    prediction = {name: value for name, value in asdict(found).items() if name != "path"}
    return {"seconds": time.perf_counter() - begun, "prediction": prediction}


def run_whole(config: RdedConfig) -> dict[str, Any]:
    made = distill(config)
    files = [file for file in made.path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return {"seconds": made.seconds["whole"], "stages": made.seconds, "bytes": size}


BOTH: dict[str, Callable[[RdedConfig], dict[str, Any]]] = {
    PREDICTED: run_prediction,
    RUN: run_whole,
}


def measure(name: CaseName, arguments: Arguments) -> dict[str, Any]:
    """Let dry run and run of a case take turns, and divide what was predicted by what was."""
    with tempfile.TemporaryDirectory() as place:
        prepare(name, arguments, Path(place))
        given = ["--data", str(arguments.data), "--only", name, "--place", place]
        rounds = 1 if name in FOLDERS else arguments.rounds
        runs = run_in_turns("benchmarks.dry_run", BOTH, given, rounds)
    compared = []
    for before, after in zip(runs[PREDICTED], runs[RUN], strict=True):
        found = before["prediction"]
        compared.append(
            {
                "seconds": found["seconds"]["whole"] / after["seconds"],
                "memory": found["memory"]["host"] / 2**20 / after["peak_mib"],
                "bytes": found["bytes"] / after["bytes"],
            }
        )
    result = {"predicted_to_measured": compared, "range": SPREAD, "runs": runs}
    if name == SHAPE:
        budget = default_budget(torch.device("cpu"))
        result["peak_mib"] = max(run["peak_mib"] for run in runs[RUN])
        result["budget_mib"] = budget
        result["most_mib"] = budget + 1024 * ABOVE_BUDGET
    return result


def main() -> None:
    arguments = tyro.cli(Arguments)
    if arguments.run is not None:
        assert arguments.only is not None
        assert arguments.place is not None
        with tempfile.TemporaryDirectory() as out:
            config = settings(arguments.only, arguments.data, arguments.place, Path(out) / "set")
            print_run(BOTH[arguments.run](config))
        return
    if hasattr(os, "sched_setaffinity"):  # of the processes that this one starts
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSORS])
    names: list[CaseName] = ["cifar10", "photographs", "imagenet-like"]
    results: dict[str, Any] = {}
    for name in [arguments.only] if arguments.only else names:
        results[name] = measure(name, arguments)
        for compared in results[name]["predicted_to_measured"]:
            ratios = ", ".join(f"{what} {ratio:.3f}" for what, ratio in compared.items())
            print(f"{name}, predicted to measured: {ratios}")
        if name == SHAPE:
            peak, most = results[name]["peak_mib"], results[name]["most_mib"]
            print(f"peak of the run: {peak:.0f} MiB, at most {most:.0f}")
    record = SHAPE if arguments.only == SHAPE else "dry-run"
    print(write_record(record, results, arguments.out))


if __name__ == "__main__":
    main()
