from __future__ import annotations

import pytest

from pydream.profiling import limits


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure a device in a hundredth of the time: every profile begins with that."""
    monkeypatch.setattr(limits, "_COPIED", dict.fromkeys(("cpu", "cuda"), 1 << 24))
    monkeypatch.setattr(limits, "_SIDE", dict.fromkeys(("cpu", "cuda"), 512))
