"""Every command beside other programs that want its processors.

docs/reliability.md says what is promised here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from campaigns.conftest import Campaign
from PIL import Image
from rded_runs import CLASSES, settings

from pydream.cli.commands import COMMANDS
from pydream.errors import UnfinishedError
from pydream.models import build_model, save_weights
from pydream.processors import usable_processors
from pydream.rded import distill

PROCESSORS = 2  # of the command, and others that want the same ones
OTHERS = 2
SLOWER = 3.0  # times its time alone, at most, as promised
REPEATS = 3  # runs alone and as many beside others, whose medians are compared
BUSY = "while True: pass"


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured of each command: some seconds of work, with what `inputs` writes.

    A command that has too little to do shows how long its start takes.
    """
    pictures, made = str(folder / "pictures"), str(folder / "set")
    observer = ["--observer", str(folder / "observer.safetensors")]
    matched = ["--arch", "convnet3-w64-instance", "--side", "32", "--inner-loop", "5"]
    weak = ["--allow-weak-observer", "--factor", "2"]
    return {
        "rded": [pictures, *observer, *weak, "--ipc", "4"],
        "dream": [pictures, *matched, "--ipc", "4", "--iterations", "1"],
        "dream-compare": [
            *("digits", "--images-per-class", "100", "--ipc", "1", "--seeds", "1"),
            *("--inner-loop", "2", "--iterations", "2", "--eval-epochs", "5"),
        ],
        "experts": [pictures, "--side", "32", "--count", "2", "--epochs", "4"],
        "observer": [pictures, "--side", "32", "--arch", "resnet18-modified", "--epochs", "1"],
        "evaluate": [made, *observer, "--students", "convnet3", "--epochs", "20"],
        "refine": [made, *observer, "--steps", "10"],
        "relabel": [made, *observer, "--epochs", "20"],
        "merge": [str(folder / "part-0"), str(folder / "part-1")],
        "export": [made, "--to", "tensors", *observer],
        "inspect": [made, *observer, "--source", pictures],
        "profile": ["rded", pictures, *observer, *weak, "--ipc", "2"],
        "doctor": [],
        "demo": ["--ipc", "1"],
    }


def arguments(command: str, folder: Path, run: Path) -> list[str]:
    """Return the arguments of a run of a command, whose results belong in the folder `run`."""
    given = commands(folder)[command]
    out = {
        "merge": [str(run / "merged")],
        "observer": ["--out", str(run / "weights.safetensors")],
        "doctor": [],
        "inspect": [],
        "relabel": [],
        "profile": ["--save", str(run / "profile.json")],
    }.get(command, ["--out", str(run / "out")])
    return [command, *out, *given]


def write_inputs(folder: Path, per_class: int = 40, pixels: int = 128) -> None:
    """Write pictures, an observer of them with random weights, a set, and two parts of one."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", per_class // 4)):
        for name in CLASSES:
            place = folder / "pictures" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                colours = rng.integers(0, 256, (8, 8, 3), np.uint8)
                picture = Image.fromarray(colours).resize((pixels, pixels))
                picture.save(place / f"{number:03d}.jpg")
    torch.manual_seed(0)
    observer = folder / "observer.safetensors"
    model = build_model("resnet18", num_classes=len(CLASSES), side=64)
    save_weights(model, observer, {"arch": "resnet18", "side": "64"})
    for name, shard in (("set", None), ("part-0", "0/2"), ("part-1", "1/2")):
        given = settings(folder / "pictures", observer, folder / name, crops=1, shard=shard)
        with contextlib.suppress(UnfinishedError):  # each part leaves classes to the other
            distill(given)


def seconds(command: str, folder: Path, run: Path) -> float:
    """Run a command in a new folder, from inputs as `write_inputs` left them, and time it."""
    run.mkdir()
    shutil.rmtree(folder / "set" / "labels", ignore_errors=True)  # by a run before this one
    # Threads wait as they do for a user, and not as the tests have set.
    own = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    begun = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "pydream", *arguments(command, folder, run)],
        capture_output=True,
        text=True,
        cwd=run,
        env={**own, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    took = time.perf_counter() - begun
    assert ended.returncode == 0, ended.stderr[-2000:]
    return round(took, 2)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep other processes busy on the processors of this one, during the block."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.fixture
def few_processors() -> Iterator[None]:
    """Restrict this process, and those that it starts, to as many processors as are promised."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:PROCESSORS])
    yield
    os.sched_setaffinity(0, before)


def test_every_command_is_measured(tmp_path: Path) -> None:
    assert list(commands(tmp_path)) == list(COMMANDS)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes take all processors")
def test_commands_beside_others(tmp_path: Path, campaign: Campaign, few_processors: None) -> None:
    inputs = tmp_path / "inputs"
    if campaign.long:
        write_inputs(inputs)
    too_slow = {}
    for command in COMMANDS if campaign.long else ("doctor",):  # which needs no inputs
        campaign.begin()
        alone, beside = [], []
        for number in range(campaign.trials(1, REPEATS)):
            alone.append(seconds(command, inputs, tmp_path / f"{command}-{number}-alone"))
            with busy_processes(OTHERS):
                beside.append(seconds(command, inputs, tmp_path / f"{command}-{number}-beside"))
        slower = round(statistics.median(beside) / statistics.median(alone), 2)
        facts = {"slower": slower, "seconds_alone": alone, "seconds_beside": beside}
        if slower > SLOWER:
            too_slow[command] = facts
            continue
        part = f"`{command}` beside two busy processes on two cores"
        campaign.passed("busy", part, REPEATS, **facts)
    # What a single run of each has taken says nothing.
    assert not campaign.long or usable_processors() == PROCESSORS
    assert not campaign.long or not too_slow
