"""The files that a loss of power leaves of a folder.

Contents that were not brought to the disk are lost. Of the names that were given or taken since
their folder was brought there, each folder has all or none, and a rename has been made or not, in
both folders alike.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.faults import keep_names


@dataclass
class Disk:
    """What has been brought to the disk of a folder.

    Attributes
    ----------
    folder
        The folder.
    kept
        Folder of further names for the contents, and of the notes of processes.
    names
        Of each folder by its number, the numbers of what it held when it was brought to the disk.
    contents
        Of each file by its number, its size and time when it was brought to the disk.
    """

    folder: Path
    kept: Path
    names: dict[int, dict[str, int]] = field(default_factory=dict)
    contents: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def begin(cls, folder: Path) -> Disk:
        """Begin with everything on the disk."""
        kept = folder.with_name(f"disk-of-{folder.name}")
        shutil.rmtree(kept, ignore_errors=True)  # of a trial that has failed
        kept.mkdir()
        disk = cls(folder, kept)
        disk.notes.touch()
        for path in (folder, *folder.rglob("*")):
            found = path.stat()
            if path.is_dir():
                disk.names[found.st_ino] = keep_names(path, kept)
            else:
                disk.contents[found.st_ino] = [found.st_size, found.st_mtime_ns]
        return disk

    @property
    def notes(self) -> Path:
        """File that processes write their notes to."""
        return self.kept / "notes"

    def lose_power(self, draws: random.Random, how: str) -> None:
        """Put what the disk has in the place of the folder.

        Parameters
        ----------
        draws
            Random numbers.
        how
            ``"nothing"`` that was not brought to the disk is there, all ``"names"`` are, or those
            of ``"some"`` folders.
        """
        self._read_notes()
        live = {
            path.stat().st_ino: keep_names(path, self.kept)
            for path in (self.folder, *self.folder.rglob("*"))
            if path.is_dir()
        }
        root = self.folder.stat().st_ino
        left = {**self.names, **live}  # of folders that were never brought to the disk, the names
        early = {
            number
            for number in sorted(left)
            if how == "nothing" or (how == "some" and draws.random() < 0.5) or number not in live
        }
        for number in early:
            left[number] = self.names.get(number, {})
        _agree(left, live, self.names, early)
        made = self.folder.with_name(self.folder.name + ".left")
        self._make(made, root, left, {*live, *self.names}, draws)
        shutil.rmtree(self.folder)
        made.rename(self.folder)

    def _read_notes(self) -> None:
        for line in self.notes.read_text().splitlines():
            what, number, content = json.loads(line)
            if what == "file":
                self.contents[number] = content
            elif what == "removed":
                self._set_aside(number)
            else:
                arrived = {*content.values()}
                self.names[number] = content
                for other, names in self.names.items():  # a rename is made in both folders
                    if other != number:
                        moved = [name for name, entry in names.items() if entry in arrived]
                        for name in moved:
                            del names[name]
        self.notes.write_text("")

    def _set_aside(self, number: int) -> None:
        """Give a folder that was removed a number that no other folder gets."""
        aside = min([0, *self.names]) - 1
        self.names[aside] = self.names.pop(number, {})
        for names in self.names.values():
            for name, entry in names.items():
                if entry == number:
                    names[name] = aside

    def _make(
        self,
        place: Path,
        number: int,
        left: dict[int, dict[str, int]],
        folders: set[int],
        draws: random.Random,
    ) -> None:
        place.mkdir()
        for name, entry in left.get(number, {}).items():
            if entry in folders:
                self._make(place / name, entry, left, folders, draws)
                continue
            content = self.kept / str(entry)
            if not content.exists():  # removed before it was brought to the disk
                continue
            found = content.stat()
            if self.contents.get(entry) == [found.st_size, found.st_mtime_ns]:
                os.link(content, place / name)
            else:
                some = draws.choice([0, found.st_size // 2])
                (place / name).write_bytes(content.read_bytes()[:some])


def _agree(
    left: dict[int, dict[str, int]],
    live: dict[int, dict[str, int]],
    names: dict[int, dict[str, int]],
    early: set[int],
) -> None:
    """Let what was renamed from one folder to another be in one of them, and not in both."""
    late = {entry for number in live if number not in early for entry in live[number].values()}
    for number in left:
        if number in early:
            left[number] = {
                name: entry for name, entry in left[number].items() if entry not in late
            }
    placed = {entry for entries in left.values() for entry in entries.values()}
    anywhere = {entry for entries in live.values() for entry in entries.values()}
    for number in live:
        if number in early:
            continue
        added = {
            name: entry
            for name, entry in names.get(number, {}).items()
            if entry in anywhere and entry not in placed and name not in left[number]
        }
        left[number] = {**left[number], **added}
