from __future__ import annotations

from pathlib import Path

import pytest
from rded_runs import settings, write_pictures, write_random_observer

from pydream.rded import distill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def observer(tmp_path: Path) -> Path:
    return write_random_observer(tmp_path / "random.safetensors")


@pytest.fixture
def unrefined(folder: Path, observer: Path, tmp_path: Path) -> Path:
    """A set of RDED with matched cells."""
    return distill(settings(folder, observer, tmp_path / "unrefined", cells="matched")).path
