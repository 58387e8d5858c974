from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pydream import _C

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real images, kept beside the repository or where PYDREAM_DATA says."""
    root = Path(os.environ.get("PYDREAM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no data at {root}: set PYDREAM_DATA to a folder with the real images")
    return root


@pytest.fixture(params=_C.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once under every instruction set that this processor has."""
    before = _C.active_isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)
