"""Seconds of an RDED run that do not grow with the images that are scored.

    python -m benchmarks.fixed_costs --work FOLDER

1000 classes of 300 small images, hard links to a few, are distilled to ten images a class from the
command line, with an observer of hardly any work. What comes before the first image is scored and
after the last one counts as fixed: the start of Python, imports, listing, sizes, hashes, the
preflight, the end of the set with its report, and the end of the process. Every run is a process of
its own, after one that is not counted, so directories are in memory. FOLDER keeps the images for
the next run (300,000 names in its file system).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks.records import RESULTS, write_record
from benchmarks.timing import timing
from pydream.models import build_model, save_weights

PER_CLASS, IPC, CROPS = 300, 10, 1
SIDE, ARCH = 32, "convnet1-w1-none"
DIFFERENT = 60  # files, half of them JPEG and half PNG
TARGET = 8.0  # seconds


def make_images(work: Path, classes: int) -> Path:
    """Make the tree of class folders, unless a run before has finished it."""
    root, once, made = work / f"train-{classes}", work / "once", work / f"{classes}.made"
    if made.exists():
        return root
    once.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    files = [once / f"{number}.{'jpg' if number % 2 else 'png'}" for number in range(DIFFERENT)]
    for file in files:
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((48, 40), Image.Resampling.BICUBIC).save(file)
    for label in range(classes):
        folder = root / f"n{label:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(PER_CLASS):
            file = files[(label + number) % DIFFERENT]
            link = folder / f"n{label:08d}_{number}{file.suffix}"
            if not link.exists():
                os.link(file, link)
    made.touch()
    return root


def make_observer(work: Path, classes: int) -> Path:
    """Make an observer of so little work that it counts as free, unless a run before has."""
    file = work / f"observer-{classes}.safetensors"
    if file.exists():
        return file
    torch.manual_seed(0)
    model = build_model(ARCH, num_classes=classes, side=SIDE)
    save_weights(model, file, {"arch": ARCH, "side": str(SIDE)})
    return file


def run(source: Path, observer: Path) -> dict[str, float]:
    """Distil once; return the seconds of each fixed part, and of the part between."""
    with tempfile.TemporaryDirectory() as place:
        file, out = Path(place) / "times.json", Path(place) / "set"
        command = [sys.executable, "-m", "benchmarks.timed_rded", str(file), "rded", str(source)]
        command += ["--observer", str(observer), "--out", str(out), "--ipc", str(IPC)]
        command += ["--crops", str(CROPS), "--precision", "float32", "--allow-weak-observer"]
        begun = time.time()
        subprocess.run(command, check=True, capture_output=True)
        ended = time.time()
        times = json.loads(file.read_text())
        stages = json.loads((out / "run.json").read_text())["seconds"]
    before = times["first image"] - times["imported"] - stages["open"] - stages["preflight"]
    return {
        "start and imports": times["imported"] - begun,
        "open": stages["open"],
        "preflight": stages["preflight"],
        "other, before scoring": before,
        "report": stages["report"],
        "other, after scoring": times["end"] - times["last image"] - stages["report"],
        "end of the process": ended - times["end"],
        "scoring": times["last image"] - times["first image"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the images")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    source = make_images(arguments.work, arguments.classes)
    observer = make_observer(arguments.work, arguments.classes)
    runs = [run(source, observer) for _ in range(arguments.rounds + 1)][1:]
    fixed = [sum(parts.values()) - parts["scoring"] for parts in runs]
    medians = {part: median(parts[part] for parts in runs) for part in runs[0]}
    results = {
        "setting": {"classes": arguments.classes, "images": PER_CLASS, "ipc": IPC, "side": SIDE},
        "fixed_seconds": asdict(timing(fixed)),
        "target": TARGET,
        "parts": medians,
        "runs": runs,
    }
    for part, seconds in medians.items():
        print(f"{part:22s} {seconds:6.2f} s")
    print(f"fixed: {median(fixed):.2f} s (at most {TARGET:g})")
    print(write_record("fixed-costs", results, arguments.out))


if __name__ == "__main__":
    main()
