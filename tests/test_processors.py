from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pydream.dream import DreamConfig
from pydream.evaluate import EvaluateConfig
from pydream.models import ObserverConfig
from pydream.processors import sleep_sooner, usable_processors
from pydream.rded import RdedConfig


def test_processors_that_are_not_allowed_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5, 7}, raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 11, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_processors() == 3


def test_every_command_has_its_number_of_workers_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tells nothing of the processors that one process may use."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    configs: list[Any] = [
        RdedConfig("images", "observer"),
        DreamConfig("images"),
        EvaluateConfig(Path("set"), observer="observer"),
        ObserverConfig("images"),
    ]
    assert [config.workers for config in configs] == [10] * len(configs)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 9, raising=False)  # Python 3.13
    assert usable_processors() == 9


def test_there_is_always_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's counts are None where the system tells nothing."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for name in ("process_cpu_count", "cpu_count"):
        monkeypatch.setattr(os, name, lambda: None, raising=False)
    assert usable_processors() == 1


@pytest.mark.parametrize(("ranks", "own"), [("2", 4), ("3", 3), ("16", 1), ("0", 9), ("x", 9)])
def test_ranks_on_a_machine_share_its_processors(
    monkeypatch: pytest.MonkeyPatch, ranks: str, own: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert usable_processors() == own


def test_waiting_threads_sleep_sooner_unless_the_user_has_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "active"})
    sleep_sooner()
    assert os.environ == {"OMP_WAIT_POLICY": "active"}
    monkeypatch.setattr(os, "environ", {"GOMP_SPINCOUNT": "7"})
    sleep_sooner()
    assert os.environ == {"GOMP_SPINCOUNT": "7"}
    monkeypatch.setattr(os, "environ", {})
    sleep_sooner()
    assert os.environ == {"GOMP_SPINCOUNT": "3000"}


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_openmp_has_the_choice_of_the_command_line() -> None:
    """OpenMP itself tells its settings when it is loaded, which must be after the choice."""
    variables = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    run = subprocess.run(
        [sys.executable, "-m", "pydream", "doctor"],
        env={**variables, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = '3000'" in run.stderr
