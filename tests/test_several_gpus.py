from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from pydream.cli import main, several_gpus
from pydream.errors import OtherRankError, PydreamError


def test_a_rank_is_started_on_each(digits_set: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On CPUs, which differ from GPUs in nothing that starts ranks."""
    several_gpus.start_ranks(2, ["inspect", str(digits_set), "--device", "cpu", "--json"])
    output, errors = capfd.readouterr()
    assert json.loads(output)["integrity"]["intact"] is True  # once, by all ranks together
    assert "torch" not in errors
    with pytest.raises(OtherRankError):
        several_gpus.start_ranks(2, ["inspect", str(digits_set), "--nonsense"])
    assert "inspect has no option --nonsense" in capfd.readouterr().err


@pytest.mark.parametrize("words", [("--device", "cuda:all"), ("--device=cuda:all",)])
def test_arguments_of_the_ranks(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(several_gpus, "start_ranks", lambda *given: started.append(given))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(sys, "argv", ["pydream", "rded", *words, "x"])
    main()
    one_each = [word.replace("cuda:all", "cuda") for word in words]
    assert started == [(4, ["rded", *one_each, "x"])]
    assert not several_gpus.started_on_all_gpus(["rded", "--device", "cuda", "cuda:all"])


def test_a_rank_that_is_killed_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every command that ranks share has --resume."""
    killed = ProcessFailure(local_rank=1, pid=0, exitcode=-9, error_file="none")

    def launch(*given: object) -> NoReturn:
        raise ChildFailedError("python", {1: killed})

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *given: launch)
    told = "rank 1 was killed by signal 9; finished work is kept; .*run the same command again"
    with pytest.raises(PydreamError, match=told):
        several_gpus.start_ranks(2, ["relabel", "set"])


def test_where_there_is_nothing_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PydreamError, match="cuda:all: no GPU is available here"):
        several_gpus.started_on_all_gpus(["rded", "--device", "cuda:all"])
    with pytest.raises(PydreamError, match=r"cuda:all is for rded, .* and inspect: give --device"):
        several_gpus.started_on_all_gpus(["export", "--device", "cuda:all"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(PydreamError, match="cuda:all starts the ranks itself"):
        several_gpus.started_on_all_gpus(["rded", "--device", "cuda:all"])
