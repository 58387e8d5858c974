from __future__ import annotations

import pytest

from pydream.demo import DemoConfig, run_demo


@pytest.mark.slow
def test_the_demo_shows_what_it_promises(tmp_path):
    result = run_demo(DemoConfig(out=tmp_path))
    assert result.observer_top1 > 0.93
    assert result.distilled_top1 > 0.8  # of ten classes
    assert result.contact_sheet.is_file()
    assert result.report.is_file()
    assert result.distilled_images == 100


def test_a_run_gets_a_folder_of_its_own(tmp_path):
    from pydream.demo import _new_folder

    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1" / "mine").write_text("")
    assert _new_folder(tmp_path) == tmp_path / "run-2"
    assert _new_folder(tmp_path) == tmp_path / "run-3"
