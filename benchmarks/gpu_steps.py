"""The steps of the check of a GPU: commands, limits, and what each must show.

They come in four parts, so that a machine that is lent for ten minutes at a time can do them all:
what is built, tested and timed op by op; with the module that this has built, the sanitizers and
the pipelines; the ops of matching; and the observer's passes and the frameworks of matching. For a
rehearsal the same steps have the CPU as their device and small sizes.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BESIDE = REPOSITORY.parent / "shared" / "data"
SAMPLE = "imagenet-sample-200.zip"
CIFAR = "cifar10.zip"

PARTS = {
    "first": ("metadata", "build", "ops-tests", "gpu-tests", "ops", "kmeans"),
    "second": (
        "metadata",
        "memcheck",
        "racecheck",
        "synccheck",
        "initcheck",
        "refine",
        "rded",
        "dream",
    ),
    "matching": ("metadata", "matching-ops"),
    "frameworks": ("metadata", "observer", "dream-dc", "dream-dsa", "dream-dm", "dream-mtt"),
}
# Tests of more than the ops that use a GPU where there is one.
ON_GPU = (
    "tests/data/test_device_jpeg.py",
    "tests/rded/test_on_gpu.py",
    "tests/rded/test_replayed_observer.py",
    "tests/dream/test_dream_on_gpu.py",
    "tests/refinement/test_refine_on_gpu.py",
    "tests/test_replay.py",
    "tests/test_doctor.py",
)
SANITIZERS = {
    "memcheck": "reads and writes beyond what is allocated",
    "racecheck": "races in shared memory",
    "synccheck": "barriers that not all threads reach",
    "initcheck": "reads of memory that nobody has written",
}
# A few tests of every family of kernels: a launch takes a hundred times as long under a sanitizer.
FAMILIES = (
    "augment",
    "block",
    "cells",
    "collage",
    "crop",
    "kmeans",
    "matching",
    "multi_formation",
    "score",
)
FEW = (
    "far_down or identity or canvas_and_cast or every_position or is_the_contract or loop_over"
    " or as_alone or given_centroids_of_each or more_layers_than_a_launch or least_squares_cell"
    " or batches_under_vmap_and_grad"
)
# The published sizes of DREAM+ on CIFAR-10, but for a tenth of the steps.
PUBLISHED_SIZE = {
    "--images-per-class": "5000",
    "--arch": "convnet3-instance",
    "--batch-real": "128",
    "--network-images": "2000",
    "--inner-loop": "10",
    "--rounds": "2",
}
SMALL_SIZE = {
    "--classes": "2",
    "--images-per-class": "24",
    "--arch": "convnet1-w8-instance",
    "--ipc": "1",
    "--batch-real": "8",
    "--network-images": "16",
    "--inner-loop": "1",
    "--rounds": "1",
}
# As published, but for the matching steps of a network and the epochs between them.
FRAMEWORK_SIZE = {"--images-per-class": "5000", "--iterations": "3", "--rounds": "2"}
SMALL_FRAMEWORK = {
    "--classes": "2",
    "--images-per-class": "24",
    "--arch": "convnet1-w8-instance",
    "--ipc": "1",
    "--batch-real": "8",
    "--inner-loop": "2",
    "--synthetic-epochs": "1",
    "--student-steps": "2",
    "--rounds": "1",
}
SMALL_RDED = ("--files", "80", "--per-class", "40", "--arch", "convnet1-w8")
PATIENCE = 300  # seconds for a step of a rehearsal: no figure comes from it


@dataclass(frozen=True)
class Step:
    """A command, how long it may take, and what it must leave.

    Attributes
    ----------
    name
        As ``--only`` takes it; its output goes to a log of that name.
    about
        What it does, for ``--list``.
    command
        The words of the command.
    limit
        Seconds.
    environment
        Variables beside those that are there.
    shows
        Patterns of which each must match a part of the output.
    record
        The name of the record that it writes.
    missing
        Why it is left out: what is not there.
    """

    name: str
    about: str
    command: list[str]
    limit: float
    environment: dict[str, str] = field(default_factory=dict)
    shows: tuple[str, ...] = ()
    record: str | None = None
    missing: str | None = None


def steps(out: Path, given: Path | None, *, rehearse: bool = False) -> list[Step]:
    """List the steps in order: those first that the others need or that say most.

    `out` is where records go, `given` the folder with the data, if one is named.
    """
    planned = [
        *_building(rehearse),
        *_testing(rehearse),
        *_benchmarks(out, rehearse),
        *_sanitizing(rehearse),
        *_pipelines(out, given, rehearse),
    ]
    if not rehearse:
        return planned
    return [replace(step, limit=PATIENCE) for step in planned]


def chosen(planned: Sequence[Step], only: Sequence[str]) -> list[Step]:
    """Choose steps by their names and those of the parts; all of them where none is named.

    Raises
    ------
    ValueError
        For a name that none has.
    """
    known = {step.name for step in planned}
    names = [name for word in only for name in PARTS.get(word, (word,))]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"there is no step {', '.join(unknown)}; there are {', '.join(PARTS)} and "
            f"{', '.join(step.name for step in planned)}"
        )
    return [step for step in planned if not names or step.name in names]


def _pytest() -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def _building(rehearse: bool) -> list[Step]:
    python = sys.executable
    # A build takes minutes and would be another than that of the tests: asked for its help only.
    build = [python, "setup.py", "build_ext", "--inplace", *(["--help"] if rehearse else [])]
    return [
        Step("metadata", "describe the package", [python, "setup.py", "-q", "egg_info"], 10),
        Step(
            "build",
            "compile what is not compiled yet",
            build,
            90,
            {"PYDREAM_CUDA": "off" if rehearse else "on"},
        ),
    ]


def _testing(rehearse: bool) -> list[Step]:
    # These have run on the CPU already, if they ran at all: here it is whether they can be found.
    how = ["-q", "--collect-only"] if rehearse else ["-v"]  # a step that is stopped has told, too
    if not rehearse and importlib.util.find_spec("xdist") is not None:
        how += ["-n", "4"]
    ops = [*_pytest(), *how, "tests/ops"]
    return [
        Step("ops-tests", "tests of the ops on the GPU", ops, 90, {"PYDREAM_TEST_DEVICE": "cuda"}),
        Step("gpu-tests", "other tests that use a GPU", [*_pytest(), *how, *ON_GPU], 100),
    ]


def _benchmarks(out: Path, rehearse: bool) -> list[Step]:
    to = ["--device", "cpu" if rehearse else "cuda", "--out", str(out)]
    module = [sys.executable, "-m"]
    return [
        Step(
            "ops",
            "benchmarks of the ops of RDED",
            [*module, "benchmarks.cuda_ops", *to],
            110,
            record="cuda-ops",
        ),
        Step(
            "kmeans",
            "benchmarks of k-means",
            [*module, "benchmarks.cuda_kmeans", *to],
            100,
            record="cuda-kmeans",
        ),
        Step(
            "matching-ops",
            "benchmarks of the ops of matching",
            [*module, "benchmarks.cuda_matching", *to],
            160,
            record="cuda-matching",
        ),
    ]


def _sanitizing(rehearse: bool) -> list[Step]:
    few = [*_pytest(), "-v", "--maxfail=3", "-k", FEW, "tests/ops"]
    environment = {
        "PYDREAM_TEST_DEVICE": "cpu" if rehearse else "cuda",
        # Each tensor is an allocation of its own: within PyTorch's blocks of 2 to 20 MB a sanitizer
        # sees nothing.
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    }
    sanitizer = shutil.which("compute-sanitizer")
    found = []
    for tool, about in SANITIZERS.items():
        watch = [
            *(sanitizer or "compute-sanitizer", "--tool", tool),
            *("--error-exitcode", "9", "--print-limit", "5"),
        ]
        found.append(
            Step(
                tool,
                f"compute-sanitizer: {about}",
                few if rehearse else [*watch, *few],
                45,
                environment,
                shows=tuple(rf"test_{family}\.py::\S+ PASSED" for family in FAMILIES),
                missing=None if rehearse or sanitizer else "compute-sanitizer is not installed",
            )
        )
    return found


def _pipelines(out: Path, given: Path | None, rehearse: bool) -> list[Step]:
    def pipeline(
        name: str, about: str, module: str, file: str, size: list[str], limit: float, record: str
    ) -> Step:
        folder = find_folder(file, given)
        command = [
            *(sys.executable, "-m", module, "--data", str(folder), "--out", str(out)),
            *("--device", "cpu" if rehearse else "cuda"),
            *size,
        ]
        missing = (
            None if folder else f"no {file}: set PYDREAM_DATA to its folder, or put it in data/"
        )
        return Step(name, about, command, limit, record=record, missing=missing)

    size = _words(SMALL_SIZE if rehearse else PUBLISHED_SIZE)
    of_frameworks = _words(SMALL_FRAMEWORK if rehearse else FRAMEWORK_SIZE)
    rded = list(SMALL_RDED) if rehearse else []
    to = ["--device", "cpu" if rehearse else "cuda", "--out", str(out)]
    return [
        Step(
            "observer",
            "passes of the observer",
            [sys.executable, "-m", "benchmarks.cuda_observer", *to],
            60,
            record="cuda-observer",
        ),
        Step(
            "refine",
            "the steps of a refinement",
            [sys.executable, "-m", "benchmarks.cuda_refine", *to],
            60,
            record="cuda-refine",
        ),
        pipeline("rded", "RDED whole", "benchmarks.pipeline_cuda", SAMPLE, rded, 150, "rded-cuda"),
        pipeline(
            "dream",
            "an iteration of DREAM+",
            "benchmarks.pipeline_dream",
            CIFAR,
            size,
            100,
            "dream",
        ),
        *(
            pipeline(
                f"dream-{framework}",
                f"iterations of {framework.upper()} beside the published loop",
                "benchmarks.pipeline_frameworks",
                CIFAR,
                ["--framework", framework, *of_frameworks],
                100,
                f"dream-{framework}",
            )
            for framework in ("dc", "dsa", "dm", "mtt")
        ),
    ]


def _words(options: dict[str, str]) -> list[str]:
    return [word for option in options.items() for word in option]


def find_folder(file: str, given: Path | None) -> Path | None:
    """Return the folder that has a file: the given one, `data` in the checkout, or beside it."""
    folders = [*([] if given is None else [given]), REPOSITORY / "data", BESIDE]
    return next((folder.resolve() for folder in folders if (folder / file).is_file()), None)


def make_data(folder: Path) -> None:
    """Write images of noise in place of the photographs and of CIFAR-10, for a rehearsal."""
    folder.mkdir(parents=True)
    names = {
        SAMPLE: [(f"sample/{number}.JPEG", 160) for number in range(4)],
        CIFAR: [
            (f"cifar10/{split}/{kind}/{number:04d}.jpg", 32)
            for split in ("train", "test")
            for kind in ("cat", "dog")
            for number in range(24)
        ],
    }
    for archive, members in names.items():
        with zipfile.ZipFile(folder / archive, "w") as opened:
            for name, side in members:
                opened.writestr(name, _noise(side))


def _noise(side: int) -> bytes:
    """Return a JPEG of random pixels."""
    from PIL import Image  # here, so that the list of steps needs nothing that is installed

    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(file, "JPEG")
    return file.getvalue()
