"""Trials of mutated files: each a folder of its own, one file of which is damaged."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from campaigns.mutations import Blocks, mutate, mutate_json
from campaigns.trials import Outcome, attempt

Look = Callable[[Path, str], str | None]
"""Function of the folder and of the name of the damaged file; it reads what is there, and returns
what is wrong."""


class Damage(NamedTuple):
    """One file of a trial, after its mutation."""

    name: str
    how: str
    data: bytes


@dataclass(frozen=True)
class FileTrials:
    """Trials by number; those of a seed are always the same.

    Attributes
    ----------
    folder
        Where folders for the trials are made.
    files
        All files, by path in the folder.
    targets
        Those that are mutated, each with the function that divides it into parts.
    look
        Function that reads them.
    seed
        Seed of all mutations.
    whole
        Function that also reads them where none is damaged, and knows what they hold.
    may_write
        Files that a trial may leave, change or remove in its folder, by the start of their paths.
    """

    folder: Path
    files: Mapping[str, bytes]
    targets: Mapping[str, Blocks | None]
    look: Look
    seed: int
    whole: Look | None = None
    may_write: tuple[str, ...] = ("cache/", "out/")

    def damage(self, number: int) -> Damage:
        """Mutate a file; every fortieth stays whole."""
        rng = np.random.default_rng((self.seed, number))
        names = [*self.targets]
        name = names[number % len(names)]
        if number % 40 == 0:
            return Damage(name, "whole", self.files[name])
        other = self.files[names[rng.integers(len(names))]]
        if name.endswith(".json") and rng.integers(5) and b"\ncrc32" not in self.files[name]:
            how, data = mutate_json(self.files[name].decode(), rng)
        else:
            how, data = mutate(self.files[name], rng, other, self.targets[name])
        return Damage(name, how, data)

    def describe(self, number: int) -> str:
        """Name a trial."""
        damage = self.damage(number)
        return f"trial {number}, {damage.name} {damage.how}"

    def __call__(self, numbers: Sequence[int]) -> Iterator[Outcome]:
        """Make the trials of some numbers in this process."""
        for number in numbers:
            root = Path(tempfile.mkdtemp(dir=self.folder))
            os.environ["XDG_CACHE_HOME"] = str(root / "cache")
            damage = self.damage(number)
            files = {**self.files, damage.name: damage.data}
            for name, data in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
            outcome = self._read(root, damage)
            changed = self._changed(root, files)
            yield Outcome("fault", changed) if changed and outcome.kind != "fault" else outcome
            shutil.rmtree(root, ignore_errors=True)

    def _read(self, root: Path, damage: Damage) -> Outcome:
        """Read the files; what is whole must not be refused, and is as it was made."""
        outcome = attempt(lambda: self.look(root, damage.name), str(root))
        if damage.how == "whole" and outcome.kind == "answered" and self.whole is not None:
            outcome = attempt(partial(self.whole, root, damage.name), str(root))
        if damage.how == "whole" and outcome.kind == "refused":
            return Outcome("fault", f"nothing is damaged, and it is refused: {outcome.words}")
        return outcome

    def _changed(self, root: Path, files: Mapping[str, bytes]) -> str | None:
        found = {
            name
            for file in root.rglob("*")
            if file.is_file()
            and not (name := file.relative_to(root).as_posix()).startswith(self.may_write)
        }
        kept = {name: data for name, data in files.items() if not name.startswith(self.may_write)}
        if found != {*kept}:
            return f"files were left or removed: {found ^ {*kept}}"
        same = all((root / name).read_bytes() == data for name, data in kept.items())
        return None if same else "files were changed"
