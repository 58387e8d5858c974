"""What a run has finished, kept on disk beside its output until that is whole.

Beside ``<out>`` lies ``<out>.partial``: in ``identity.json`` the settings that the run was begun
with, in ``state/`` what it has kept. Every file is written elsewhere in there and renamed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydream.errors import PydreamError
from pydream.files import RESUME, disk_errors, locked, write_whole

# Settings that older versions recorded and that no longer exist.
_RETIRED = {"upscale"}


class PartialRun:
    """What a run keeps so that it can go on where it was killed.

    Parameters
    ----------
    out
        Where the finished output shall lie.
    identity
        What decides the bytes of the output. A run is gone on with only if its identity is the
        same.
    resume
        Whether to go on with a run that was begun. Without one, a new run is begun.
    what
        What is made, in a word, for messages.
    check
        Raises PydreamError if something lies at `out`.

    Raises
    ------
    PydreamError
        If a run was begun and `resume` is false, or it was begun with another identity.

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
        check(out)
        self.out, self._check = out, check
        self.partial = out.with_name(out.name + ".partial")
        self._state = self.partial / "state"
        self._what = what
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._begun = self.partial / "identity.json"
        if self.partial.exists() and (not resume or not self._begun.is_file()):
            self._refuse(self._begun.is_file())
        if self._begun.is_file():
            self._check_same(json.loads(self._begun.read_text()))

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it while the block runs.

        Before this nothing is written.

        Raises
        ------
        PydreamError
            If another process writes to it, or it cannot be made.
        """
        with disk_errors(self.partial, RESUME):
            self.partial.mkdir(parents=True, exist_ok=True)
        with locked(self.partial):
            self._check(self.out)  # another process may have finished it in the meantime
            with disk_errors(self.partial, RESUME):
                for leftover in self.partial.rglob(".*.beside"):  # of a process that was killed
                    leftover.unlink()
                self._state.mkdir(parents=True, exist_ok=True)
            self.write_text(self._begun, json.dumps(self._identity, indent=1))
            yield

    def forget(self) -> None:
        """Remove all that is kept."""
        with disk_errors(self.partial, RESUME):
            shutil.rmtree(self.partial)

    def _refuse(self, ours: bool) -> None:
        if not ours:
            raise PydreamError(
                f"{self.partial} exists and is not a partial {self._what}: move it away"
            )
        raise PydreamError(
            f"{self.partial} holds a {self._what} that was begun and not finished: add --resume to "
            "go on with it, or remove it to start again"
        )

    def _check_same(self, begun: dict[str, Any]) -> None:
        if differing := differences(begun, self._identity):
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
        return file.read_bytes() if file.is_file() else None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which settings differ; one that an older version did not have counts as None."""
    return [
        f"{key} {then.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted({*then, *now} - _RETIRED)
        if then.get(key) != now.get(key)
    ]
