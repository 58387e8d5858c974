"""The commands that the campaign of kills interrupts: small work, its inputs, and its results."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rded_runs import write_pictures, write_random_observer
from small_digits import write_digits

SET = "set"
OUT = "out"
RESULT = f"{SET}/results/results-0001.json"
_TIMES = {"seconds", "train_seconds", "test_seconds", "crc32"}  # the last one sums up the others
_FREE = {"workers", "resume"}  # settings that may differ
_ARCH = "convnet2-w8-instance"
_SECONDS = re.compile(rb"\d+</td></tr>")  # the last column of a page of results


@dataclass(frozen=True)
class Inputs:
    """What all jobs read.

    Attributes
    ----------
    pictures
        Folder of class folders.
    observer
        Weights of an observer of the pictures.
    digits_observer
        Weights of one of scikit-learn's digits.
    digits
        A set of digits.
    parts
        Folder of what two shards made of a set of the pictures.
    """

    pictures: Path
    observer: Path
    digits_observer: Path
    digits: Path
    parts: Path

    @classmethod
    def write(cls, folder: Path) -> Inputs:
        """Write all of them but the parts, which `job("rded")` makes."""
        inputs = cls(
            write_pictures(folder / "pictures"),
            write_random_observer(folder / "observer.safetensors"),
            write_random_observer(folder / "digits.safetensors", 10, arch=_ARCH, side=8),
            write_digits(folder / SET),
            folder / "parts",
        )
        inputs.parts.mkdir()
        return inputs


@dataclass(frozen=True)
class Job:
    """A command in a folder of its own.

    Attributes
    ----------
    name
        The command.
    words
        Function of the folder and of random numbers for what may differ; returns all words.
    resumed
        Words that continue it, beside its own.
    ranks
        The numbers of ranks that it can be shared by.
    same_ranks
        Whether as many ranks must continue it.
    needs_set
        Whether it works on a set in its folder.
    result
        What it makes as its last step, for a command that would make another one beside it, or
        refuse to.
    """

    name: str
    words: Callable[[Inputs, Path, random.Random], list[str]]
    resumed: tuple[str, ...] = ("--resume",)
    ranks: tuple[int, ...] = (1, 2, 3)
    same_ranks: bool = False
    needs_set: bool = False
    result: str | None = None

    def prepare(self, inputs: Inputs, folder: Path) -> None:
        """Make the folder, with what belongs to the user in it."""
        (folder / "holiday").mkdir(parents=True)
        (folder / "notes.txt").write_text("mine")
        (folder / "holiday" / "out.png").write_bytes(b"mine, too")
        if self.needs_set:
            shutil.copytree(inputs.digits, folder / SET)


def shared_words(inputs: Inputs) -> list[str]:
    """Return the words of RDED on the pictures, without its place."""
    return [
        "rded", str(inputs.pictures), "--observer", str(inputs.observer), "--ipc", "1",
        "--factor", "2", "--allow-weak-observer", "--device", "cpu", "--precision", "float32",
    ]  # fmt: skip


def _rded(inputs: Inputs, folder: Path, draws: random.Random) -> list[str]:
    return [
        *shared_words(inputs), "--out", str(folder / OUT),
        "--workers", str(draws.choice([1, 2, 3])),
        "--memory-budget", str(draws.choice([1, 64, 512])),
        "--batch-size", str(draws.choice([16, 100, 1024])),
    ]  # fmt: skip


def _dream(inputs: Inputs, folder: Path, draws: random.Random) -> list[str]:
    return [
        "dream", "digits:classes=2:5", "--out", str(folder / OUT), "--ipc", "1", "--factor", "2",
        "--arch", "convnet2-w8-instance", "--iterations", "2", "--inner-loop", "1",
        "--batch-real", "8", "--network-images", "16", "--network-epochs", "0",
        "--checkpoint-every", "1", "--device", "cpu", "--workers", str(draws.choice([1, 2])),
    ]  # fmt: skip


def _observer(inputs: Inputs, folder: Path, draws: random.Random) -> list[str]:
    return [
        "observer", "digits", "--arch", _ARCH, "--out", str(folder / OUT / "o.safetensors"),
        "--epochs", "1", "--batch-size", "512", "--no-horizontal-flip", "--device", "cpu",
        "--precision", "float32", "--workers", str(draws.choice([1, 2])),
    ]  # fmt: skip


def _relabel(inputs: Inputs, folder: Path, draws: random.Random) -> list[str]:
    return [
        "relabel", str(folder / SET), "--observer", str(inputs.digits_observer),
        "--epochs", "3", "--device", "cpu", "--precision", "float32",
    ]  # fmt: skip


def _evaluate(inputs: Inputs, folder: Path, draws: random.Random) -> list[str]:
    return [
        "evaluate", str(folder / SET), "--labels", "hard", "--students", _ARCH, "--epochs", "1",
        "--seeds", "0", "1", "--device", "cpu", "--precision", "float32",
        "--workers", str(draws.choice([1, 2])),
    ]  # fmt: skip


def _export(to: str) -> Callable[[Inputs, Path, random.Random], list[str]]:
    return lambda inputs, folder, draws: [
        "export", str(inputs.digits), "--to", to, "--out", str(folder / OUT)
    ]  # fmt: skip


def _merge(inputs: Inputs, folder: Path, draws: random.Random) -> list[str]:
    return ["merge", str(folder / OUT), str(inputs.parts / "0"), str(inputs.parts / "1")]


JOBS = {
    "rded": Job("rded", _rded),
    "dream": Job("dream", _dream),
    "observer": Job("observer", _observer, ranks=(1, 2), same_ranks=True),
    "relabel": Job("relabel", _relabel, (), needs_set=True),
    "evaluate": Job("evaluate", _evaluate, needs_set=True, result=RESULT),
    "export to tensors": Job("export", _export("tensors"), (), ranks=(1,), result=OUT),
    "export to parquet": Job("export", _export("parquet"), (), ranks=(1,), result=OUT),
    "export to webdataset": Job("export", _export("webdataset"), (), ranks=(1,), result=OUT),
    "merge": Job("merge", _merge, (), ranks=(1,)),
}


def content(folder: Path) -> dict[str, str]:
    """Return a hash of every file below a folder, apart from times in it, and all folders."""
    return {
        path.relative_to(folder).as_posix(): "folder" if path.is_dir() else _hash(path, folder)
        for path in sorted(folder.rglob("*"))
    }


def _hash(file: Path, folder: Path) -> str:
    data = file.read_bytes()
    if file.suffix == ".json":
        text = json.dumps(_without_times(json.loads(data)))
        data = text.replace(str(folder), "").encode()
    elif file.suffix == ".html" and file.name.startswith("results-"):
        data = _SECONDS.sub(b"", data.replace(str(folder).encode(), b""))
    return hashlib.sha256(data).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {name: entry for name, entry in value.items() if name not in _TIMES}
        if "recipes" in kept and "resume" in kept:  # the settings of an evaluation
            kept = {name: entry for name, entry in kept.items() if name not in _FREE}
        return {name: _without_times(entry) for name, entry in kept.items()}
    return [*map(_without_times, value)] if isinstance(value, list) else value


def state(folder: Path) -> dict[Path, tuple[str, int]]:
    """Return the content and the time of every file below a folder."""
    return {
        file: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
