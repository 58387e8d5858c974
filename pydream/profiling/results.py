"""The record of a profiled run, and its JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydream.entry_types import parse_json
from pydream.errors import PydreamError, error_words
from pydream.profiling.limits import Limits
from pydream.versions import check_format

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Stage:
    """Costs of one stage of a run.

    Attributes
    ----------
    path
        Names of the surrounding stages and its own, from the outermost on, joined by ``" / "``.
    seconds
        Seconds of the clock, or of a GPU's stream, summed over all threads.
    share
        Fraction of the seconds of the whole run.
    calls
        Number of calls.
    threads
        Number of threads that ran it.
    bytes
        Bytes that it and the stages within it had to read and write at least; 0 if no stage reports
        them.
    operations
        Operations of convolutions and matrix products, in it and the stages within it; a
        multiplication and an addition count as two.
    of_limit
        Least time for the bytes or the operations on the device, divided by the seconds; None
        without either.
    """

    path: str
    seconds: float
    share: float
    calls: int
    threads: int
    bytes: int
    operations: int
    of_limit: float | None


@dataclass(frozen=True)
class Profile:
    """The profile of a run, as written to its file.

    Attributes
    ----------
    path
        The JSON file.
    format
        Version of the file's format.
    package
        ``name`` and ``version`` of the package that wrote the file.
    date
        Time of the end of the run, in UTC and ISO 8601.
    method
        ``"rded"``, ``"dream"`` or ``"evaluate"``.
    device
        The device, by torch's name.
    seconds
        Seconds of the whole run.
    limits
        Peak rates of the device, measured before the run.
    memory
        Peak bytes since the process began: ``host``, and on a GPU ``device``.
    stages
        The stages; each follows the stages around it.
    uncounted
        Names of products whose operations could not be counted.
    config
        Settings of the run, ready for JSON.
    machine
        The diagnosis of the installation (`pydream.doctor.Diagnosis.as_json`).
    """

    path: Path
    format: int
    package: Mapping[str, str]
    date: str
    method: str
    device: str
    seconds: float
    limits: Limits
    memory: Mapping[str, int]
    stages: list[Stage]
    uncounted: list[str]
    config: Mapping[str, Any]
    machine: Mapping[str, Any]

    @property
    def trace(self) -> Path:
        """The Chrome trace beside the JSON file, for ui.perfetto.dev."""
        return trace_beside(self.path)

    def as_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        content = asdict(self)
        del content["path"]
        return content

    def as_text(self) -> str:
        """Return the text of the file."""
        return json.dumps(self.as_json(), indent=2) + "\n"


def trace_beside(path: Path) -> Path:
    """Return the path of the trace that belongs to a profile."""
    return path.parent / f"{path.stem}.trace.json.gz"


def read_profile(path: Path) -> Profile:
    """Read a file of `pydream.profiling.profile`; equals the result of that function.

    Raises
    ------
    PydreamError
        If the file is not a profile, or its format is newer.
    """
    try:
        content = dict(parse_json(path.read_bytes()))
        check_format(path, int(content["format"]), FORMAT_VERSION)
        names = {field.name for field in fields(Profile)} - {"path", "limits", "stages"}
        return Profile(
            path=path,
            limits=Limits(**content["limits"]),
            stages=[Stage(**stage) for stage in content["stages"]],
            **{name: content[name] for name in names},
        )
    except OSError as error:
        raise PydreamError(f"{path} cannot be read: {error.strerror}") from error
    except (ArithmeticError, ValueError, KeyError, TypeError) as error:
        raise PydreamError(
            f"{path} is not what `pydream profile` writes ({error_words(error)})"
        ) from error
