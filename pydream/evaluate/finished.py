"""Students that are trained already: kept one by one, so that a killed evaluation loses none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydream.evaluate.results import StudentRun
from pydream.evaluate.train import Checkpoint
from pydream.files import RESUME, disk_errors, write_whole


class FinishedStudents:
    """A folder with a file for every trained student, named by all that it follows from.

    Parameters
    ----------
    folder
        Made with the first student.
    resume
        Whether students that are there are taken.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self._folder, self._resume = folder, resume

    def find(self, identity: Mapping[str, Any]) -> StudentRun | None:
        """Return the student of this identity, if it is there and wanted."""
        file = self._file(identity)
        if not (self._resume and file.is_file()):
            return None
        run = json.loads(file.read_text())["run"]
        curve = tuple(Checkpoint(**each) for each in run.pop("curve"))
        return StudentRun(curve=curve, **run)

    def keep(self, identity: Mapping[str, Any], run: StudentRun) -> None:
        """Store a student's measurements."""
        content = {"identity": identity, "run": dataclasses.asdict(run)}
        with disk_errors(self._folder, RESUME):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._file(identity), (json.dumps(content, indent=1) + "\n").encode(), RESUME)

    def _file(self, identity: Mapping[str, Any]) -> Path:
        text = json.dumps(identity, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
