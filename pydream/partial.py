"""Finished work of a run, kept on disk beside its output until that is whole.

Beside ``<out>`` lies ``<out>.partial``: in ``identity.json`` the settings that the run was begun
with, in ``state/`` what it has kept. Every file is written elsewhere in there and renamed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydream.errors import PydreamError
from pydream.files import RESUME, disk_errors, locked, write_whole

# Settings that older versions recorded and that no longer exist.
_RETIRED = {"upscale"}
_IDENTITY = "identity.json"


class PartialRun:
    """Files that let a killed run continue where it stopped.

    Parameters
    ----------
    out
        Path of the finished output.
    identity
        What decides the bytes of the output. A run is gone on with only if its identity is the
        same.
    resume
        Whether to go on with a run that was begun. Without one, a new run is begun.
    what
        Kind of the output in one word, for messages.
    check
        Raises PydreamError if something lies at `out`.

    Raises
    ------
    PydreamError
        If something lies at `out`, if a run was begun and `resume` is false, if it was begun with
        another identity, or if something else lies in its folder.

    Attributes
    ----------
    out, partial
        The place of the output, and the folder beside it.
    """

    def __init__(
        self,
        out: Path,
        identity: Mapping[str, Any],
        *,
        resume: bool,
        what: str,
        check: Callable[[Path], None],
    ) -> None:
        self.out = out
        self.partial = _partial_of(out)
        self._state = self.partial / "state"
        self._begun = self.partial / _IDENTITY
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._resume, self._what, self._check_out = resume, what, check
        self._check()

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it while the block runs.

        Before this nothing is written.

        Raises
        ------
        PydreamError
            If another process writes to it, if it cannot be made, or if another process has
            meanwhile finished the output or begun a run that this one may not go on with.
        """
        with disk_errors(self.partial, RESUME):
            made = not self.partial.exists()
            self.partial.mkdir(parents=True, exist_ok=True)
        with locked(self.partial):
            try:
                self._check()
            except PydreamError:
                if made:
                    with suppress(OSError):  # another process has begun in it
                        self.partial.rmdir()
                raise
            with disk_errors(self.partial, RESUME):
                for leftover in self.partial.rglob(".*.beside"):  # of a process that was killed
                    leftover.unlink()
            self.write_text(self._begun, json.dumps(self._identity, indent=1))
            with disk_errors(self.partial, RESUME):
                self._state.mkdir(exist_ok=True)
            yield

    def forget(self) -> None:
        """Remove all that is kept."""
        _remove(self.partial)

    def _check(self) -> None:
        """Raise PydreamError unless this run can begin, or go on with one that was begun."""
        self._check_out(self.out)
        if not self._begun.is_file():
            if self.partial.exists() and not _is_empty_folder(self.partial):
                raise PydreamError(
                    f"{self.partial} exists and is not a partial {self._what}: move it away"
                )
            return
        if not self._resume:
            raise PydreamError(
                f"{self.partial} holds a {self._what} that was begun and not finished: add "
                "--resume to go on with it, or remove it to start again"
            )
        if differing := differences(json.loads(self._begun.read_text()), self._identity):
            raise PydreamError(
                f"{self.partial} was begun with other settings ({'; '.join(differing)}): "
                "repeat those, or choose another --out"
            )

    def write_text(self, file: Path, text: str) -> None:
        """Write a file inside the folder, whole or not at all."""
        self.write_bytes(file, text.encode())

    def write_bytes(self, file: Path, data: bytes) -> None:
        """Write a file inside the folder, whole or not at all."""
        write_whole(file, data, RESUME)

    def record(self, name: str) -> dict[str, Any] | None:
        """Return what `keep` stored under a name, or None."""
        file = self._state / f"{name}.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def keep(self, name: str, record: Mapping[str, Any]) -> None:
        """Store a record for a later `resume`."""
        self.write_text(self._state / f"{name}.json", json.dumps(record))

    def keep_bytes(self, name: str, data: bytes) -> None:
        """Store a file for a later `resume`, whole or not at all."""
        self.write_bytes(self._state / name, data)

    def kept_bytes(self, name: str) -> bytes | None:
        """Return what `keep_bytes` stored under a name, or None."""
        file = self._state / name
        try:
            return file.read_bytes() if file.is_file() else None
        except OSError as error:
            raise PydreamError(
                f"{file} cannot be read: {error.strerror or error}; {RESUME}"
            ) from error


def forget_finished(out: Path, identity: Mapping[str, Any]) -> None:
    """Remove what a run has kept that was killed between finishing its output and `forget`.

    Parameters
    ----------
    out
        The finished output.
    identity
        Identity of the run. What a run with another identity keeps is left alone.

    Raises
    ------
    PydreamError
        If another process is at work on it, or it cannot be removed.
    """
    partial = _partial_of(out)
    begun = partial / _IDENTITY
    if not begun.is_file() and not _is_empty_folder(partial):
        return
    with locked(partial):
        ours = json.loads(json.dumps(identity))
        if not begun.is_file() or not differences(json.loads(begun.read_text()), ours):
            _remove(partial)


def _partial_of(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _remove(partial: Path) -> None:
    """Remove the folder, its identity last: without one, nobody would know what the rest is."""
    with disk_errors(partial, RESUME):
        for entry in partial.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _IDENTITY:
                entry.unlink()
        shutil.rmtree(partial)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which settings differ; one that an older version did not have counts as None."""
    return [
        f"{key} {then.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted({*then, *now} - _RETIRED)
        if then.get(key) != now.get(key)
    ]
