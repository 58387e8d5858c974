"""What the benchmarks of whole pipelines share: rivals in processes of their own, in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.timing import report, timing
from pydream.allocator import peak_host_bytes
from pydream.models.loading import resolve_precision
from pydream.processors import sleep_sooner

Runs = dict[str, list[dict[str, Any]]]
LOADERS = "2 loader workers"


def wait_for(device: torch.device) -> None:
    """Wait for all work of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rivals_here(names: Iterable[str], where_bfloat16: str) -> list[str]:
    """Choose the rivals that are run on this machine.

    Those with loader workers only beyond two cores: on two these take their time from the network,
    a student of 300 epochs 291 s instead of 168. And one, which sets bfloat16 and float32 beside
    each other, only where the processor multiplies bfloat16 itself.
    """
    cores = os.cpu_count() or 1
    native = resolve_precision("auto", torch.device("cpu")) == "bfloat16"
    return [
        name
        for name in names
        if (LOADERS not in name or cores > 2) and (name != where_bfloat16 or native)
    ]


def run_in_turns(
    module: str,
    rivals: Iterable[str],
    arguments: Sequence[str],
    rounds: int,
    once: Collection[str] = (),
    after: Callable[[Runs], None] | None = None,
) -> Runs:
    """Run every rival some times, each time in a fresh process, one after the other.

    A rival that fails is not run again, and has no runs. An error of the first, which is ours, ends
    the program.

    Parameters
    ----------
    module
        Its ``main`` runs one rival for ``--run NAME``, and says what it took by `print_run`.
    rivals
        Names.
    arguments
        Of the command line of all of them.
    rounds
        Times each runs.
    once
        Those of them that run in the first round alone.
    after
        Is given the runs after each of them, so that a program that is stopped has those before.

    Returns
    -------
    dict
        By rival, what each run printed.
    """
    sleep_sooner()  # as the command line does
    runs: Runs = {name: [] for name in rivals}
    ours, failed = next(iter(runs)), set()
    for number in range(rounds):
        for name, of_rival in runs.items():
            if name in failed or (number > 0 and name in once):
                continue
            command = [sys.executable, "-m", module, *arguments, "--run", name]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if run.returncode:
                if name == ours:
                    raise SystemExit(f"{name} failed")
                print(f"{name} failed", flush=True)
                failed.add(name)
                of_rival.clear()
                continue
            found = json.loads(run.stdout.splitlines()[-1])
            of_rival.append(found)
            print(f"round {number + 1}: {name:34s} {found['seconds']:8.2f} s", flush=True)
            if after is not None:
                after(runs)
    return runs


def print_run(found: Mapping[str, Any]) -> None:
    """Say what a rival took, ``seconds`` among it, for `run_in_turns`; with its peak memory."""
    print(json.dumps({**found, "peak_mib": peak_host_bytes() / 2**20}))


def summary(
    runs: Runs, *, ours: str, limit: str | None = None, label: str, unit: str = "run"
) -> dict[str, Any]:
    """Make of runs a record as `benchmarks.timing.report` does, with the peaks of memory.

    Parameters
    ----------
    runs
        Of `run_in_turns`.
    ours, limit, unit
        As of `report`.
    label
        What was run, in words.
    """
    finished = {name: of for name, of in runs.items() if of}
    timings = {name: timing([run["seconds"] for run in of]) for name, of in finished.items()}
    return {
        "label": label,
        **report(timings, ours=ours, limit=limit if limit in finished else None, unit=unit),
        "peak_mib": {name: max(run["peak_mib"] for run in of) for name, of in finished.items()},
        "runs": runs,
        "remarks": {name: "did not finish" for name in runs if name not in finished},
    }
