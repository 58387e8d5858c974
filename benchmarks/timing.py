"""What every benchmark shares: rivals timed in turns, the machine described, the record written."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pydream import _C

# Before each call: OpenMP's threads spin for some milliseconds after a rival's work, and would
# take the processors from whoever comes next.
_SETTLE = 0.02

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


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the middle of all rounds, and between what half of them lie."""

    median: float
    lower_quartile: float
    upper_quartile: float
    rounds: int


def compare(
    rivals: Mapping[str, Callable[[], object]], *, rounds: int, threads: int
) -> dict[str, Timing]:
    """Time the rivals in turns, so that what else the machine does meets all of them.

    Every round calls each rival twice and times the second call, and begins with another
    rival; one round before is not counted. Check that the outputs are equal before this.

    Parameters
    ----------
    rivals
        Name and call; the call does the whole work.
    rounds
        Counted rounds.
    threads
        PyTorch's threads, and so pydream's; libraries with pools of their own are the caller's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    names = list(rivals)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for number in range(-1, rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                time.sleep(_SETTLE)
                rivals[name]()  # not timed: caches and threads cold from the pause
                begun = time.perf_counter()
                rivals[name]()
                if number >= 0:
                    seconds[name].append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return {name: timing(of_rival) for name, of_rival in seconds.items()}


def timing(seconds: list[float]) -> Timing:
    """Sum up the seconds of all rounds."""
    if len(seconds) < 2:
        return Timing(seconds[0], seconds[0], seconds[0], len(seconds))
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, lower, upper, len(seconds))


def report(
    timings: Mapping[str, Timing], *, ours: str, limit: str | None = None, items: int = 1
) -> dict[str, Any]:
    """Make a record of timings: microseconds an item, ratios to ours, our fraction of the limit.

    Parameters
    ----------
    timings
        From :func:`compare`.
    ours
        Whose ratios to the others are wanted.
    limit
        The entry that does nothing but the least possible, as a copy of the same bytes.
    items
        How many items (crops, rows) one call handles.
    """
    mine = timings[ours].median
    record: dict[str, Any] = {
        "items": items,
        "seconds": {name: asdict(timing) for name, timing in timings.items()},
        "microseconds_per_item": {
            name: round(timing.median / items * 1e6, 3) for name, timing in timings.items()
        },
        "times_as_fast": {
            name: round(timing.median / mine, 2)
            for name, timing in timings.items()
            if name not in (ours, limit)
        },
    }
    if limit is not None:
        record["fraction_of_limit"] = round(timings[limit].median / mine, 3)
    return record


def table(title: str, record: Mapping[str, Any]) -> str:
    """Lay a record of :func:`report` out for reading."""
    lines = [title]
    for name, each in record["microseconds_per_item"].items():
        timing = record["seconds"][name]
        spread = (timing["upper_quartile"] - timing["lower_quartile"]) / timing["median"]
        ratio = record["times_as_fast"].get(name)
        times = f"   pydream is {ratio:.1f} times as fast" if ratio else ""
        lines.append(f"  {name:44s} {each:9.2f} us   spread {spread:4.0%}{times}")
    return "\n".join(lines)


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
    over: Path | None = None,
) -> Path:
    """Write results/<machine>/<date>-<name>.json; a number follows where that is taken.

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
