"""The records of benchmarks: what they were measured on, written and found again."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pydream import _C
from pydream.profiling import Limits

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "pydream-distill",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "kornia",
    "scikit-learn",
    "faiss-cpu",
    "fast-pytorch-kmeans",
)


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Describe what a figure was measured on."""
    return {
        **({} if device is None else {"gpu": torch.cuda.get_device_name(device)}),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "build": {
            "compiler": _C.compiler,
            "instruction_set": _C.active_isa(),
            "cuda_architectures": _C.cuda_architectures,
            "torch_cuda": torch.version.cuda,
        },
    }


def write_record(
    name: str,
    results: Mapping[str, Any],
    folder: Path = RESULTS,
    device: torch.device | None = None,
    *,
    limits: Limits | None = None,
    over: Path | None = None,
) -> Path:
    """Write results/<machine>/<date>-<name>.json; a number follows where that is taken.

    `limits` are those of the device, measured in the same run.
    With `over` a record that this run wrote before is replaced by one that holds more.
    """
    now = datetime.now(timezone.utc)
    described = machine(device)
    chip = described.get("gpu", f"{described['processor']} {described['cores']} cores")
    place = folder / re.sub(r"[^a-z0-9]+", "-", chip.lower()).strip("-")
    place.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "date": now.isoformat(timespec="seconds"),
        "machine": described,
        **({} if limits is None else {"limits": asdict(limits)}),
        "results": dict(results),
    }
    if over is not None:
        fuller = over.with_suffix(".new")
        fuller.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return fuller.replace(over)
    stem, number = f"{now:%Y-%m-%d}-{name}", 1
    while True:
        path = place / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(record, file, indent=2)
                file.write("\n")
            return path
        except FileExistsError:
            number += 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip().replace("(R)", "").replace("(TM)", "")
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def newest_records(folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """Give out the newest record of each name of each machine, in order."""
    for place in sorted(each for each in folder.iterdir() if each.is_dir()):
        newest: dict[str, dict[str, Any]] = {}
        for file in sorted(place.glob("*.json")):
            record = json.loads(file.read_text(encoding="utf-8"))
            record["file"] = file.relative_to(folder.parent).as_posix()
            known = newest.get(record["name"])
            if known is None or record["date"] >= known["date"]:
                newest[record["name"]] = record
        yield from (newest[name] for name in sorted(newest))
