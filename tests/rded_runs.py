"""Small runs of RDED on the pictures of tests/rded/conftest.py."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydream.rded import RdedConfig


def settings(folder: Path, weights: Path, out: Path, **changes: Any) -> RdedConfig:
    given: dict[str, Any] = {
        "source": str(folder),
        "observer": str(weights),
        "out": out,
        "ipc": 2,
        "factor": 2,
        "allow_weak_observer": True,
        **changes,
    }
    return RdedConfig(**given)


def hashes(path: Path) -> dict[str, str]:
    """The bytes of a set, by file: all but run.json, which tells the seconds."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.json"
    }
