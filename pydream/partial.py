"""Finished work of a run, stored beside its output until the output is complete.

The folder ``<out>.partial`` has the settings of the run in ``identity.json``, and its finished work
in ``state/``. Every file is written under another name there and renamed.
"""

from __future__ import annotations

import json
import reprlib
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from pydream.durable import make_folder, sync
from pydream.entry_types import parse_json
from pydream.errors import PydreamError
from pydream.files import RESUME, disk_errors, locked, write_whole
from pydream.ranks import ALONE, Ranks

# Settings that older versions recorded and that no longer exist.
_RETIRED = {"upscale"}
_IDENTITY = "identity.json"


class PartialRun:
    """Files that let a killed run continue.

    Parameters
    ----------
    out
        Path of the finished output.
    identity
        Facts that decide the bytes of the output. A run is continued only if its identity is the
        same.
    resume
        Continue a run that was begun. Without one, a new run is begun.
    what
        Kind of the output in one word, for messages.
    check
        Function that raises PydreamError if `out` is not free.

    Raises
    ------
    PydreamError
        If `out` is not free, if a run was begun and `resume` is false, if it was begun with another
        identity, or if its folder has unknown content.

    Attributes
    ----------
    out, partial
        The path of the output, and that of the folder beside it.
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
        self.partial = partial_of(out)
        self._state = self.partial / "state"
        self._begun = self.partial / _IDENTITY
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._resume, self._what, self._check_out = resume, what, check
        self._check()

    @contextmanager
    def begin(self, ranks: Ranks = ALONE) -> Iterator[None]:
        """Make the folder, and keep other runs out of it during the block.

        Nothing is written before this.

        Parameters
        ----------
        ranks
            The processes that share the run. The first rank makes the folder and locks it before
            the others come. Shards keep nobody out.

        Raises
        ------
        PydreamError
            If another process writes to it, if it cannot be made, or if another process has
            meanwhile finished the output or begun a run that this one must not continue.
        """
        if not ranks.first:
            ranks.wait()
            with self._begin(alone=False):
                yield
            return
        with self._begin(alone=not ranks.is_shard):
            ranks.wait()
            yield

    @contextmanager
    def _begin(self, *, alone: bool) -> Iterator[None]:
        with disk_errors(self.partial, RESUME):
            made = not self.partial.exists()
            make_folder(self.partial)
        with locked(self.partial) if alone else nullcontext():
            try:
                self._check()
            except PydreamError:
                if made:
                    with suppress(OSError):  # another process has begun in it
                        self.partial.rmdir()
                raise
            if alone:
                with disk_errors(self.partial, RESUME):
                    for leftover in self.partial.rglob(".*.beside"):  # of a killed process
                        leftover.unlink()
            if alone or not self._begun.is_file():
                self.write_text(self._begun, json.dumps(self._identity, indent=1))
            with disk_errors(self.partial, RESUME):
                make_folder(self._state)
            yield

    def forget(self) -> None:
        """Remove all stored work."""
        _remove(self.partial)

    def _check(self) -> None:
        """Raise PydreamError unless this run can begin, or continue one that was begun."""
        self._check_out(self.out)
        if not self._begun.is_file():
            if self.partial.exists() and not _is_unbegun_folder(self.partial):
                raise PydreamError(
                    f"{self.partial} exists and is not a partial {self._what}: move it away"
                )
            return
        if not self._resume:
            raise PydreamError(
                f"{self.partial} holds a {self._what} that was begun and not finished: add "
                "--resume to continue it, or remove it to start again"
            )
        if differing := differences(_read_identity(self._begun), self._identity):
            raise PydreamError(
                f"{self.partial} was begun with other settings ({'; '.join(differing)}): "
                "repeat those, or choose another --out"
            )

    def write_text(self, file: Path, text: str) -> None:
        """Write a file inside the folder atomically."""
        self.write_bytes(file, text.encode())

    def write_bytes(self, file: Path, data: bytes) -> None:
        """Write a file inside the folder atomically."""
        write_whole(file, data, RESUME)

    def record(self, name: str) -> dict[str, Any] | None:
        """Return the record that `keep` stored under a name, or None.

        Raises
        ------
        PydreamError
            If its file is damaged.
        """
        data = self.kept_bytes(f"{name}.json")
        return None if data is None else json.loads(data)

    def keep(self, name: str, record: Mapping[str, Any]) -> None:
        """Store a record for a later `resume`."""
        self.keep_bytes(f"{name}.json", json.dumps(record).encode())

    def claim(self, name: str) -> bool:
        """Return whether this process, of all that share the run, is the one to do something.

        A later run by a single process does it all the same.
        """
        try:
            with disk_errors(self._state, RESUME):
                (self._state / f"{name}.claimed").open("x").close()
        except PydreamError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def keep_bytes(self, name: str, data: bytes) -> None:
        """Store a file for a later `resume`, atomically, with its checksum behind it."""
        self.write_bytes(self._state / name, data + _checksum(data))

    def kept_bytes(self, name: str) -> bytes | None:
        """Return the content that `keep_bytes` stored under a name, or None.

        Raises
        ------
        PydreamError
            If the file is damaged or cannot be read.
        """
        file = self._state / name
        if not file.is_file():
            return None
        with _reading(file):
            content = file.read_bytes()
        data = content[: -len(_checksum(b""))]
        if content != data + _checksum(data):
            raise PydreamError(
                f"{file} is damaged, or another version of pydream wrote it: remove it, and the "
                "run makes it again"
            )
        return data

    def kept_names(self, pattern: str) -> list[str]:
        """Return the names of the files that `keep_bytes` stored, by a pattern, in order."""
        names = (file.name for file in self._state.glob(pattern))
        return sorted(name for name in names if not name.startswith("."))  # left by a kill

    def forget_bytes(self, name: str) -> None:
        """Remove a file that `keep_bytes` stored, if it is there."""
        with disk_errors(self._state, RESUME):
            (self._state / name).unlink(missing_ok=True)


def begun_identity(out: Path) -> dict[str, Any] | None:
    """Return the identity of the unfinished run beside an output; None without one.

    Raises
    ------
    PydreamError
        If it cannot be read.
    """
    file = partial_of(out) / _IDENTITY
    if not file.is_file():
        return None
    return _read_identity(file)


def forget_finished(out: Path, identity: Mapping[str, Any]) -> None:
    """Remove the folder of a run that was killed between finishing its output and `forget`.

    Parameters
    ----------
    out
        The finished output.
    identity
        Identity of the run. The folder of a run with another identity stays.

    Raises
    ------
    PydreamError
        If another process is using the folder, or it cannot be removed.
    """
    partial = partial_of(out)
    begun = partial / _IDENTITY
    if not begun.is_file() and not _is_unbegun_folder(partial):
        return
    with locked(partial):
        ours = json.loads(json.dumps(identity))
        if not begun.is_file() or not differences(_read_identity(begun), ours):
            _remove(partial)


def _read_identity(file: Path) -> dict[str, Any]:
    """Read the identity of a run that was begun."""
    try:
        with _reading(file):
            identity = parse_json(file.read_text())
    except ValueError as error:
        raise _damaged_identity(file) from error
    if not isinstance(identity, dict):
        raise _damaged_identity(file)
    return identity


def _damaged_identity(file: Path) -> PydreamError:
    return PydreamError(
        f"{file} is damaged, so the run in its folder cannot be continued: remove the folder to "
        "start again"
    )


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn an error of the file system into one with advice for the user."""
    try:
        yield
    except OSError as error:
        raise PydreamError(f"{file} cannot be read: {error.strerror or error}; {RESUME}") from error


def _checksum(data: bytes) -> bytes:
    """Return the last line of a file of the state."""
    return b"\ncrc32 %08x\n" % zlib.crc32(data)


def partial_of(out: Path) -> Path:
    """Return the folder of the unfinished run beside an output."""
    return out.with_name(out.name + ".partial")


def _is_unbegun_folder(path: Path) -> bool:
    """Return whether a folder is that of a run which has not yet written its identity there."""
    return path.is_dir() and all(entry.match(f".{_IDENTITY}.*.beside") for entry in path.iterdir())


def _remove(partial: Path) -> None:
    """Remove the folder, its identity last, because only the identity explains the rest."""
    with disk_errors(partial, RESUME):
        for entry in partial.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _IDENTITY:
                entry.unlink()
        sync(partial)
        shutil.rmtree(partial)
        sync(partial.parent)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the settings that differ; one that an older version lacked counts as None."""
    return [
        _difference(key, then.get(key), now.get(key))
        for key in sorted({*then, *now} - _RETIRED)
        if then.get(key) != now.get(key)
    ]


def _difference(name: str, then: object, now: object) -> str:
    """Describe how a setting differs; of settings with many entries, the first that differs."""
    if isinstance(then, dict) and isinstance(now, dict):
        first, *others = differences(then, now) or ["its entries"]
        return f"{name}: {first}" + (f" and {len(others)} more" if others else "")
    return f"{name} {_shown(then)} then, {_shown(now)} now"


def _shown(value: object) -> str:
    """Return a value as text; of many entries, the first few."""
    return reprlib.repr(value) if isinstance(value, dict) else repr(value)
