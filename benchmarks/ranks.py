"""Ranks beside threads: RDED on CIFAR-10 by two ranks of one thread, and by one process of two.

    python -m benchmarks.ranks --data DIR

Both commands run in turns, from the start of the launcher to the end of its last process. Both make
the same set, byte for byte, or the program fails. Recorded: seconds of the whole, and what a rank
costs before it scores its first patch, by parts: from the start of the command to the end of its
imports, to open images and observer, and the preflight, which the first rank measures for all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.records import RESULTS, write_record
from benchmarks.timing import report, timing
from pydream.allocator import peak_host_bytes
from pydream.launchers import place_of_rank
from pydream.rded import RdedConfig, distill
from pydream.timeline import recording

ONE, RANKS = "one process, two threads", "two ranks, one thread each"
COUNT = 2
# More images of a class than usual, so that scoring outweighs what comes before it.
PRESELECT = 1000
TARGET = 0.9  # of the speed of one process
BEGUN = "PYDREAM_BENCHMARK_BEGUN"  # the time at which a command was started, in the environment
_SCORING = ("wait for decoding", "crop", "observer")


class _Starts:
    """Notes when stages of a run first begin and last end, in seconds of the clock."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, device: torch.device | None, nbytes: int) -> Iterator[None]:
        if "preflight" in self.ended or name not in _SCORING:  # the preflight scores, too
            self.begun.setdefault(name, time.time())
        yield
        self.ended[name] = time.time()


def run(data: Path, out: Path, preselect: int) -> None:
    """Distil as one rank, or as the only process; write what it took beside the set."""
    begun, imported = float(os.environ[BEGUN]), time.time()
    place = place_of_rank()
    starts = _Starts()
    with recording(starts):
        distill(
            RdedConfig(
                source=str(data / "cifar10.zip"),
                observer=str(data / "observers" / "cifar10_convnet3_batchnorm.safetensors"),
                arch="convnet3",
                out=out,
                preselect=preselect,
                precision="float32",
                workers=torch.get_num_threads(),
                device="cpu",
            )
        )
    first = min(starts.begun[name] for name in _SCORING if name in starts.begun)
    found = {
        "imports": imported - begun,
        "open": starts.ended["open"] - starts.begun["open"],
        "preflight": starts.ended["preflight"] - starts.begun["preflight"],
        "first_patch": first - begun,
        "after_first_patch": time.time() - first,
        "peak_mib": peak_host_bytes() / 2**20,
    }
    rank = 0 if place is None else place.rank
    out.with_name(f"rank-{rank}.json").write_text(json.dumps(found))


def time_command(name: str, data: Path, preselect: int) -> dict[str, Any]:
    """Run a rival in processes of its own; seconds of the whole and of each rank, and the set."""
    count = COUNT if name == RANKS else 1
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "set"
        command = [
            *(sys.executable, "-m", *(launcher if count > 1 else []), "benchmarks.ranks"),
            *("--data", str(data), "--preselect", str(preselect), "--set", str(out)),
        ]
        begun = time.time()
        environment = {**os.environ, BEGUN: str(begun), "OMP_NUM_THREADS": str(COUNT // count)}
        subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
        seconds = time.time() - begun
        files = [out.with_name(f"rank-{number}.json") for number in range(count)]
        return {
            "seconds": seconds,
            "ranks": [json.loads(file.read_text()) for file in files],
            "images_sha256": json.loads((out / "manifest.json").read_text())["images_sha256"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.zip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preselect", type=int, default=PRESELECT, help="images of a class")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--set", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.set is not None:
        run(arguments.data, arguments.set, arguments.preselect)
        return
    runs: dict[str, list[dict[str, Any]]] = {ONE: [], RANKS: []}
    for number in range(arguments.rounds):
        for name in (ONE, RANKS) if number % 2 == 0 else (RANKS, ONE):
            runs[name].append(time_command(name, arguments.data, arguments.preselect))
            print(f"round {number + 1}: {name:28s} {runs[name][-1]['seconds']:7.2f} s", flush=True)
    if len({run["images_sha256"] for of in runs.values() for run in of}) > 1:
        raise SystemExit("ranks and a single process made different sets")
    timings = {name: timing([run["seconds"] for run in of]) for name, of in runs.items()}
    fixed = {
        name: {
            part: median(rank[part] for run in of for rank in run["ranks"])
            for part in of[0]["ranks"][0]
        }
        for name, of in runs.items()
    }
    speed = timings[ONE].median / timings[RANKS].median
    result = {
        "label": f"RDED on CIFAR-10, {arguments.preselect} images of a class, whole",
        **report(timings, ours=RANKS, unit="run"),
        "speed_of_ranks": speed,
        "target": TARGET,
        "of_a_rank": fixed,
        "runs": runs,
    }
    print(f"ranks are {speed:.2f} times as fast as one process; target {TARGET}")
    for name, parts in fixed.items():
        print(f"{name}: " + ", ".join(f"{part} {value:.2f}" for part, value in parts.items()))
    print(write_record("ranks", {"cifar10": result}, arguments.out))


if __name__ == "__main__":
    main()
