"""RDED end to end beside the published code and beside its own observer.

    python -m benchmarks.pipeline_rded --data DIR

Each rival runs in a fresh process, in turns, on the same files with the same number of threads.
Recorded: seconds and their ratios, seconds per stage, peak memory. The observer alone is the
limit: our own prepared observer on the same number of patches, held in memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.timing import write_record


@dataclass(frozen=True)
class Case:
    """One image set, observer and setting."""

    name: str
    folder: Path
    observer: Path
    arch: str
    side: int
    ipc: int
    factor: int
    preselect: int

    def classes(self) -> list[list[Path]]:
        return [sorted(each.iterdir()) for each in sorted(self.folder.iterdir())]


@dataclass(frozen=True)
class Arguments:
    data: Path
    """Folder with cifar10.zip, imagenet-sample-200.zip and observers/."""
    rounds: int = 3
    """Times every rival runs."""
    only: Literal["cifar10", "imagenet"] | None = None
    """Measure one of the two cases."""
    run: str | None = None
    """Used by the program itself: which rival to run in this process."""


def unpack_cifar(data: Path, place: Path) -> Case:
    with zipfile.ZipFile(data / "cifar10.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("cifar10/train/")]
        archive.extractall(place, names)
    return Case(
        "cifar10",
        place / "cifar10" / "train",
        data / "observers" / "cifar10_convnet3_batchnorm.safetensors",
        "convnet3",
        side=32,
        ipc=10,
        factor=1,
        preselect=300,
    )


def unpack_imagenet(data: Path, place: Path) -> Case:
    """Put the 200 photographs, one of each class, in ten folders: time does not mind labels."""
    from pydream.models import build_model, save_weights

    folder = place / "imagenet"
    with zipfile.ZipFile(data / "imagenet-sample-200.zip") as archive:
        for number, name in enumerate(sorted(archive.namelist())):
            file = folder / f"{number % 10:02d}" / Path(name).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(name))
    torch.manual_seed(0)
    observer = place / "resnet18.safetensors"
    model = build_model("resnet18", num_classes=10, side=224)
    save_weights(model, observer, {"arch": "resnet18", "side": "224"})
    return Case("imagenet", folder, observer, "resnet18", side=224, ipc=4, factor=2, preselect=300)


def run_ours(case: Case, precision: str) -> dict[str, Any]:
    from pydream.rded import RdedConfig, distill

    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        result = distill(
            RdedConfig(
                source=str(case.folder),
                observer=str(case.observer),
                arch=case.arch,
                out=Path(out) / "set",
                ipc=case.ipc,
                factor=case.factor,
                preselect=case.preselect,
                precision=precision,
                allow_weak_observer=True,
                upscale=True,  # one photograph is 75 x 56; the published code enlarges it too
            )
        )
        seconds = time.perf_counter() - begun
    observer = result.manifest["observer"]
    return {"seconds": seconds, "stages": result.seconds, "precision": observer["precision"]}


def run_observer(case: Case) -> dict[str, Any]:
    """Time the observer as our pipeline prepares it, on as many patches, in its batches."""
    from pydream.data import open_source
    from pydream.models import load_observer
    from pydream.rded import RdedConfig
    from pydream.rded.scoring import batch_images
    from pydream.rded.stages import PatchMaker, preselect

    observer = load_observer(case.observer, arch=case.arch, precision="float32")
    config = RdedConfig(source=str(case.folder), observer=str(case.observer))
    source = open_source(case.folder)
    maker = PatchMaker(source, config, observer, case.side, case.factor)
    selection = preselect(source, case.preselect, 0)
    step = batch_images(config, observer)
    batches = []
    for start in range(0, len(selection.indices), step):
        indices = selection.indices[start : start + step].tolist()
        batches.append(maker.shown(indices, [source.image(index) for index in indices]))
    observer.logits(batches[0])
    begun = time.perf_counter()
    for batch in batches:
        observer.logits(batch)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "patches": sum(len(batch) for batch in batches)}


def run_published(case: Case, workers: int) -> dict[str, Any]:
    from benchmarks.published.rded import distill
    from pydream.models import build_model, read_weights

    weights, _ = read_weights(case.observer)
    model = build_model(case.arch, num_classes=10, side=case.side)
    model.load_state_dict(weights)
    result = distill(
        case.classes(),
        model,
        ipc=case.ipc,
        factor=case.factor,
        side=case.side,
        preselect=case.preselect,
        workers=workers,
    )
    return {
        "seconds": result.seconds,
        "observer_seconds": result.observer_seconds,
        "patches": result.patches,
    }


RIVALS = {
    "pydream": lambda case: run_ours(case, "auto"),
    "pydream float32": lambda case: run_ours(case, "float32"),
    "observer alone, float32": run_observer,
    "published": lambda case: run_published(case, 0),
    "published, 2 loader workers": lambda case: run_published(case, 2),
}


def run_in_process(case: Case, rival: str, data: Path) -> dict[str, Any]:
    """Run one rival in a process of its own; adds its peak memory."""
    spec = {"case": {key: str(value) for key, value in vars(case).items()}, "rival": rival}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.pipeline_rded", "--data", str(data), "--run",
         json.dumps(spec)],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{rival} failed")
    return {**json.loads(output.splitlines()[-1]), "peak_mib": usage.ru_maxrss / 1024}


def run_spec(text: str) -> None:
    spec = json.loads(text)
    fields = spec["case"]
    for key in ("folder", "observer"):
        fields[key] = Path(fields[key])
    for key in ("side", "ipc", "factor", "preselect"):
        fields[key] = int(fields[key])
    print(json.dumps(RIVALS[spec["rival"]](Case(**fields))))


def ratio(
    over: list[dict[str, Any]], under: list[dict[str, Any]], of: str = "seconds"
) -> dict[str, Any]:
    """Compare runs round by round: the machine's own speed drifts from one round to the next."""
    rounds = [a["seconds"] / b[of] for a, b in zip(over, under, strict=True)]
    return {"median": statistics.median(rounds), "rounds": rounds}


def measure(case: Case, data: Path, rounds: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {rival: [] for rival in RIVALS}
    for number in range(rounds):
        for rival in RIVALS:
            runs[rival].append(run_in_process(case, rival, data))
            seconds = runs[rival][-1]["seconds"]
            print(f"{case.name} round {number + 1}: {rival}: {seconds:.2f} s", flush=True)
    median = {
        rival: statistics.median(run["seconds"] for run in of_rival)
        for rival, of_rival in runs.items()
    }
    published = min("published", "published, 2 loader workers", key=lambda rival: median[rival])
    observer = "observer alone, float32"
    return {
        "setting": {
            key: value for key, value in vars(case).items() if key not in ("folder", "observer")
        },
        "median_seconds": median,
        "published_over_pydream": ratio(runs[published], runs["pydream"]),
        "pydream_float32_over_own_observer": statistics.median(
            run["seconds"] / run["stages"]["observer"] for run in runs["pydream float32"]
        ),
        "pydream_float32_over_observer": ratio(runs["pydream float32"], runs[observer]),
        "pydream_float32_over_published_observer": ratio(
            runs["pydream float32"], runs["published"], of="observer_seconds"
        ),
        "peak_mib": {rival: max(run["peak_mib"] for run in of) for rival, of in runs.items()},
        "runs": runs,
    }


def main() -> None:
    arguments = tyro.cli(Arguments)
    if arguments.run is not None:
        run_spec(arguments.run)
        return
    results = {}
    for name, unpack in (("cifar10", unpack_cifar), ("imagenet", unpack_imagenet)):
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as place:
            results[name] = measure(
                unpack(arguments.data, Path(place)), arguments.data, arguments.rounds
            )
    for name, result in results.items():
        print(f"\n{name}")
        for rival, seconds in result["median_seconds"].items():
            print(f"  {rival:32s} {seconds:8.2f} s  {result['peak_mib'][rival]:7.0f} MiB peak")
        print(
            f"  published / pydream              {result['published_over_pydream']['median']:.2f}"
        )
        ours, theirs = (
            result[f"pydream_float32_over_{whose}"]["median"]
            for whose in ("observer", "published_observer")
        )
        within = result["pydream_float32_over_own_observer"]
        print(f"  float32 / observer in that run   {within:.3f}")
        print(f"  float32 / observer alone         {ours:.3f}")
        print(f"  float32 / published observer     {theirs:.3f}")
    print(write_record("rded", results))


if __name__ == "__main__":
    main()
