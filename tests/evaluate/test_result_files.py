"""The files of a result: their number, when runs are killed or run at once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pydream import files
from pydream.errors import PydreamError
from pydream.evaluate import result_files
from pydream.evaluate.result_files import write_results

FILES = ["results-0001.html", "results-0001.json", "results-0001.png"]


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results without rows, whose figure and page are drawn at once."""
    monkeypatch.setattr(result_files, "accuracy_figure", lambda rows: b"figure")
    monkeypatch.setattr(result_files, "label_curve", lambda rows: [])
    monkeypatch.setattr(result_files, "results_page", lambda *given: "page")
    monkeypatch.setattr(result_files, "content", lambda facts, rows: dict(facts))


def write(folder: Path) -> Path:
    return write_results(folder, {"a": 1}, ()).path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_at(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Write results in a process that dies at its n-th write; return whether it came to that."""
    calls, write_whole = itertools.count(), files.write_whole

    def dying(*given: Any) -> None:
        if next(calls) == number:
            os._exit(1)
        write_whole(*given)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(result_files, "write_whole", dying)
        try:
            write(folder)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.parametrize("number", range(4))
def test_the_next_run_takes_the_number_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    assert killed_at(number, tmp_path, monkeypatch) == (number < 3)
    if number == 3:  # more than it writes
        assert names(tmp_path) == FILES
        return
    assert (tmp_path / "results-0001.json").stat().st_size == 0
    assert write(tmp_path).name == "results-0001.json"
    assert names(tmp_path) == FILES
    assert write(tmp_path).name == "results-0002.json"


def during_a_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something before the first file of a result is written."""
    calls, write_whole = itertools.count(), files.write_whole

    def acting(*given: Any) -> None:
        if next(calls) == 0:
            act()
        write_whole(*given)

    monkeypatch.setattr(result_files, "write_whole", acting)


def test_two_at_once_have_two_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(path=None)

    def act() -> None:
        other.path = write(tmp_path)

    during_a_write(monkeypatch, act)
    assert write(tmp_path).name == "results-0001.json"
    assert other.path.name == "results-0002.json"


def test_an_empty_file_stays_where_locks_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise OSError("no locks")

    (tmp_path / "results-0001.json").touch()
    monkeypatch.setattr("fcntl.flock", refuse)
    assert [write(tmp_path).name for _ in range(2)] == ["results-0002.json", "results-0003.json"]


def test_an_error_leaves_no_number_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PydreamError("no room")

    with monkeypatch.context() as patch:
        during_a_write(patch, refuse)
        with pytest.raises(PydreamError, match="no room"):
            write(tmp_path)
    assert names(tmp_path) == []
    assert write(tmp_path).name == "results-0001.json"
