"""RDED end to end on a GPU, from JPEG files: images a second, and where the time goes.

    python -m benchmarks.pipeline_cuda --data DIR [--files 20000] [--out FOLDER]

The photographs of imagenet-sample-200.zip are repeated, as links, until there are as many files as
wanted, in classes of 300; the observer is a ResNet-18 of random weights at 224 pixels. Reported for
every way to run: images a second, seconds per stage, how busy the GPU was while patches were scored
(what nvidia-smi sees, ten times a second), and what the same rate means for ImageNet-1K.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparison import run_cases
from benchmarks.records import RESULTS, GrowingRecord
from pydream.data.device_jpeg import no_decoder
from pydream.models import build_model, save_weights
from pydream.rded import RdedConfig, distill

PER_CLASS = 300
# 1000 classes, 300 pre-selected images of each: the published setting, 7 minutes on an RTX-4090.
IMAGENET_IMAGES = 300_000
PUBLISHED_SECONDS = 7 * 60
SAMPLE = "imagenet-sample-200.zip"
_EVERY = 0.1  # seconds between looks at the GPU


def repeat_photographs(archive: Path, place: Path, files: int, per_class: int = PER_CLASS) -> Path:
    """Make a tree of class folders of links to the photographs; every file has its own name."""
    photographs = place / "photographs"
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if not name.endswith("/"))
        opened.extractall(photographs, names)
    root = place / "classes"
    for number in range(files):
        original = photographs / names[number % len(names)]
        link = root / f"{number // per_class:04d}" / f"{number:06d}{original.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, link)
    return root


def random_observer(classes: int, place: Path, arch: str = "resnet18", side: int = 224) -> Path:
    torch.manual_seed(0)
    file = place / f"{arch}-{classes}.safetensors"
    model = build_model(arch, num_classes=classes, side=side)
    save_weights(model, file, {"arch": arch, "side": str(side)})
    return file


@contextlib.contextmanager
def watched_gpu() -> Iterator[list[tuple[float, float]]]:
    """Note the time and the GPU's utilisation, 0 to 1, while the block runs."""
    seen: list[tuple[float, float]] = []
    command = shutil.which("nvidia-smi")
    if command is None:
        yield seen
        return
    process = subprocess.Popen(
        [command, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0",
         f"--loop-ms={int(_EVERY * 1000)}"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None

    def read() -> None:
        for line in process.stdout or []:
            with contextlib.suppress(ValueError):
                seen.append((time.perf_counter(), float(line) / 100))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        process.terminate()
        reader.join()


def run(source: Path, observer: Path, device: str, **settings: Any) -> dict[str, Any]:
    """Distil once; what came of it."""
    files = sum(1 for _ in source.glob("*/*"))
    with tempfile.TemporaryDirectory() as out, watched_gpu() as seen:
        config = RdedConfig(
            source=str(source),
            observer=str(observer),
            out=Path(out) / "set",
            ipc=10,
            factor=2,
            preselect=PER_CLASS,
            allow_weak_observer=True,
            device=device,
            **settings,
        )
        if torch.device(device).type == "cuda":
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(device)
        begun = time.perf_counter()
        result = distill(config)
        whole = time.perf_counter() - begun
    made = result.manifest
    assert made.config is not None
    assert made.observer is not None
    stages = result.seconds
    # From the first patch to the last: what comes before and after does not grow with the images.
    first = begun + stages["open"] + stages["preflight"]
    last = begun + whole - stages["report"]
    busy = [share for when, share in seen if first <= when <= last]
    scoring = last - first
    fixed = whole - scoring
    return {
        "settings": {"decode": made.config["decode"], **settings},
        "precision": made.observer["precision"],
        "images": files,
        "seconds": whole,
        "scoring_seconds": scoring,
        "images_per_second": files / whole,
        "images_per_second_scoring": files / scoring,
        "stages": stages,
        # On the streams of the device: the observer's own share of the time.
        "observer_share_of_scoring": stages["observer"] / scoring,
        "gpu_utilisation": statistics.mean(busy) if busy else None,
        "projected_imagenet_seconds": fixed + IMAGENET_IMAGES * scoring / files,
        "published_imagenet_seconds_on_rtx_4090": PUBLISHED_SECONDS,
        "peak_gpu_mib": torch.cuda.max_memory_allocated(device) / 2**20
        if torch.device(device).type == "cuda"
        else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {SAMPLE}")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--per-class", type=int, default=PER_CLASS, help="files of a class")
    parser.add_argument("--arch", default="resnet18", help="of the observer")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--memory-budget", type=int, default=4096)
    parser.add_argument("--out", type=Path, help="of records; on the CPU there is none without it")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    ways: list[dict[str, Any]] = [{"decode": "host"}]
    if no_decoder(device) is None:
        ways.append({"decode": "device"})
    if device.type == "cuda":
        ways += [{"decode": "host", "compile": True}]
    gpu = device if device.type == "cuda" else None
    out = arguments.out or (None if gpu is None else RESULTS)
    record = GrowingRecord("rded-cuda", out, gpu)
    with tempfile.TemporaryDirectory() as place:
        source = repeat_photographs(
            arguments.data / SAMPLE, Path(place), arguments.files, arguments.per_class
        )
        observer = random_observer(len(list(source.iterdir())), Path(place), arguments.arch)
        failed = run_cases(
            {
                " ".join(f"{key}={value}" for key, value in way.items()): partial(
                    run, source, observer, str(device), memory_budget=arguments.memory_budget, **way
                )
                for way in ways
            },
            record,
        )
    print(record.path)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
