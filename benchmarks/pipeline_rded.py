"""RDED end to end beside the published code and beside its own observer.

    python -m benchmarks.pipeline_rded --data DIR

Each rival runs in a fresh process, in turns, on the same files with the same number of threads.
Recorded: seconds and their ratios, seconds per stage, peak memory. The observer alone is the
limit: our own prepared observer, as precise, on the same number of patches, held in memory.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro

from benchmarks.pipeline import LOADERS, print_run, rivals_here, run_in_turns, summary
from benchmarks.records import write_record
from pydream.models import build_model, save_weights

CLASSES = 10
OURS, IN_FLOAT32, LIMIT = "pydream", "pydream, float32", "observer alone"
LIMIT_IN_FLOAT32 = "observer alone, float32"
MOST = 1.05  # times the observer alone, in float32, that the whole run on CIFAR-10 should take


@dataclass(frozen=True)
class Case:
    """One image set, observer and setting."""

    label: str
    folder: Path
    observer: Path
    arch: str
    side: int
    ipc: int
    factor: int
    preselect: int = 300

    def classes(self) -> list[list[Path]]:
        return [sorted(folder.iterdir()) for folder in sorted(self.folder.iterdir())]


@dataclass(frozen=True)
class Arguments:
    data: Path
    """Folder with cifar10.zip, imagenet-sample-200.zip and observers/."""
    rounds: int = 3
    """Times we and our limit run; the published code, three times as long, runs once."""
    only: Literal["cifar10", "imagenet"] | None = None
    """Measure one of the two cases."""
    place: Path | None = None
    """Used by the program itself: where files were unpacked."""
    run: str | None = None
    """Used by the program itself: which rival to run in this process."""


def cases(data: Path, place: Path) -> dict[str, Case]:
    """Describe the cases, whose files lie below `place`."""
    return {
        "cifar10": Case(
            "RDED on CIFAR-10, IPC 10, ConvNet-3, whole",
            place / "cifar10" / "train",
            data / "observers" / "cifar10_convnet3_batchnorm.safetensors",
            "convnet3",
            side=32,
            ipc=10,
            factor=1,
        ),
        "imagenet": Case(
            "RDED on 200 ImageNet photographs, IPC 4, ResNet-18, whole",
            place / "imagenet",
            place / "resnet18.safetensors",
            "resnet18",
            side=224,
            ipc=4,
            factor=2,
        ),
    }


def unpack_cifar(data: Path, case: Case) -> None:
    with zipfile.ZipFile(data / "cifar10.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("cifar10/train/")]
        archive.extractall(case.folder.parents[1], names)


def unpack_imagenet(data: Path, case: Case) -> None:
    """Put the 200 photographs, one of each class, in ten folders: time does not mind labels."""
    with zipfile.ZipFile(data / "imagenet-sample-200.zip") as archive:
        for number, name in enumerate(sorted(archive.namelist())):
            file = case.folder / f"{number % CLASSES:02d}" / Path(name).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(name))
    torch.manual_seed(0)
    model = build_model(case.arch, num_classes=CLASSES, side=case.side)
    save_weights(model, case.observer, {"arch": case.arch, "side": str(case.side)})


UNPACK: dict[str, Callable[[Path, Case], None]] = {
    "cifar10": unpack_cifar,
    "imagenet": unpack_imagenet,
}


def run_ours(case: Case, precision: Literal["auto", "float32"]) -> dict[str, Any]:
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
                device="cpu",
            )
        )
        seconds = time.perf_counter() - begun
    observer = result.manifest.observer
    assert observer is not None
    return {"seconds": seconds, "stages": result.seconds, "precision": observer["precision"]}


def run_observer(case: Case, precision: Literal["auto", "float32"]) -> dict[str, Any]:
    """Time the observer as our pipeline prepares it, on as many patches, in its batches."""
    from pydream.allocator import keep_freed_memory
    from pydream.data import open_source
    from pydream.models import load_observer
    from pydream.rded import RdedConfig
    from pydream.rded.memory import MemoryShares
    from pydream.rded.patches import PatchMaker, preselect
    from pydream.rded.scoring import ScoringLimits, batch_images

    observer = load_observer(case.observer, arch=case.arch, device="cpu", precision=precision)
    config = RdedConfig(source=str(case.folder), observer=str(case.observer), device="cpu")
    source = open_source(case.folder)
    maker = PatchMaker(
        source,
        observer,
        side=case.side,
        factor=case.factor,
        crops=config.method.crops,
        canvas=config.canvas,
        seed=config.seed,
    )
    selection = preselect(source, case.preselect, 0)
    memory = MemoryShares.of(config.memory_budget, observer.device)
    limits = ScoringLimits(config.batch_size, "host", config.workers, memory)
    step = batch_images(maker, limits)
    batches = []
    for start in range(0, len(selection.indices), step):
        indices = selection.indices[start : start + step].tolist()
        batches.append(maker.shown(indices, [source.image(index) for index in indices]))
    with keep_freed_memory():  # as in a run
        observer.logits(batches[0])
        begun = time.perf_counter()
        for batch in batches:
            observer.logits(batch)
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "patches": sum(len(batch) for batch in batches)}


def run_published(case: Case, workers: int) -> dict[str, Any]:
    from benchmarks.published.rded import distill
    from pydream.models import read_weights

    weights, _ = read_weights(case.observer)
    model = build_model(case.arch, num_classes=CLASSES, side=case.side)
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


RIVALS: dict[str, Callable[[Case], dict[str, Any]]] = {
    OURS: lambda case: run_ours(case, "auto"),
    IN_FLOAT32: lambda case: run_ours(case, "float32"),
    LIMIT: lambda case: run_observer(case, "auto"),
    LIMIT_IN_FLOAT32: lambda case: run_observer(case, "float32"),
    "published code": lambda case: run_published(case, 0),
    f"published code, {LOADERS}": lambda case: run_published(case, 2),
}


def measure(name: str, arguments: Arguments) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        case = cases(arguments.data, Path(place))[name]
        UNPACK[name](arguments.data, case)
        given = ["--data", str(arguments.data), "--only", name, "--place", place]
        once = [rival for rival in RIVALS if rival.startswith("published")]
        rivals = rivals_here(RIVALS, IN_FLOAT32)
        runs = run_in_turns("benchmarks.pipeline_rded", rivals, given, arguments.rounds, once)
    setting = {"side": case.side, "ipc": case.ipc, "factor": case.factor}
    label = case.label
    if runs.get(IN_FLOAT32):
        seconds = median(run["seconds"] for run in runs[IN_FLOAT32])
        label += f", observer in bfloat16 (in float32 {seconds:.3g} s)"
    alone = [run["seconds"] for run in runs.pop(LIMIT_IN_FLOAT32)]
    whole = [run["seconds"] for run in runs.get(IN_FLOAT32) or runs[OURS]]
    found = summary(runs, ours=OURS, limit=LIMIT, label=label)
    in_float32 = {
        "observer_seconds": alone,
        "times_of_observer": median(whole) / median(alone),
        **({"most": MOST} if name == "cifar10" else {}),
    }
    return {"setting": {**setting, "preselect": case.preselect}, "float32": in_float32, **found}


def main() -> None:
    arguments = tyro.cli(Arguments)
    if arguments.run is not None:
        assert arguments.only is not None
        assert arguments.place is not None
        case = cases(arguments.data, arguments.place)[arguments.only]
        print_run(RIVALS[arguments.run](case))
        return
    names = [arguments.only] if arguments.only else list(UNPACK)
    results = {name: measure(name, arguments) for name in names}
    for result in results.values():
        print(f"\n{result['label']}")
        for rival, seconds in result["seconds"].items():
            times = result["times_as_fast"].get(rival)
            print(
                f"  {rival:34s} {seconds['median']:8.2f} s  {result['peak_mib'][rival]:6.0f} MiB"
                + (f"   pydream is {times:.2f} times as fast" if times else "")
            )
        if "fraction_of_limit" in result:
            print(f"  of the limit, the observer alone: {result['fraction_of_limit']:.2f}")
        times = result["float32"]["times_of_observer"]
        print(f"  in float32 {times:.3f} times as long as the observer alone")
    print(write_record("rded", results))


if __name__ == "__main__":
    main()
