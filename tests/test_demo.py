from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pydream.models
from pydream.data import open_source
from pydream.demo import DemoConfig, run_demo
from pydream.errors import PydreamError
from pydream.models import ObserverConfig


def test_the_demo_shows_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A third of the epochs, which suffice for what is asserted here.
    monkeypatch.setattr("pydream.demo._OBSERVER_EPOCHS", 6)
    monkeypatch.setattr("pydream.demo._STUDENT_EPOCHS", 40)
    result = run_demo(DemoConfig(out=tmp_path))
    assert result.observer_top1 > 0.93
    assert result.distilled_top1 > 0.8  # of ten classes
    assert result.contact_sheet.is_file()
    assert result.report.is_file()
    assert result.distilled_images == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be 0 to 2\*\*63 - 1, got -1"),
        ({"seed": 2**63}, "seed must be 0 to"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        DemoConfig(**changes)


def test_more_images_than_a_class_has_are_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BegunError(Exception):
        pass

    def begin(config: ObserverConfig) -> None:
        raise BegunError

    monkeypatch.setattr(pydream.models, "train_observer", begin)
    fewest = int(np.bincount(open_source("digits").labels).min())
    with pytest.raises(PydreamError, match=f"at most {fewest}, .* got {fewest + 1}"):
        run_demo(DemoConfig(out=tmp_path, ipc=fewest + 1))
    assert not [*tmp_path.iterdir()]
    with pytest.raises(BegunError):
        run_demo(DemoConfig(out=tmp_path, ipc=fewest))


def test_a_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    from pydream.demo import _new_folder

    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1" / "mine").write_text("")
    assert _new_folder(tmp_path) == tmp_path / "run-2"
    assert _new_folder(tmp_path) == tmp_path / "run-3"
