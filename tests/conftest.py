from __future__ import annotations

from collections.abc import Iterator

import pytest

from pydream import _C


@pytest.fixture(params=_C.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test under each instruction set that this processor has."""
    before = _C.active_isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)
