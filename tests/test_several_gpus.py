from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from pydream.cli import main, several_gpus
from pydream.errors import OtherRankError, PydreamError

DREAM = (
    *("dream", "digits", "--ipc", "1", "--arch", "convnet2-w8-instance", "--iterations", "1"),
    *("--inner-loop", "1", "--network-epochs", "0", "--network-images", "8", "--batch-real", "8"),
)


def test_a_rank_is_started_on_each(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On CPUs, which differ from GPUs in nothing that starts ranks."""
    several_gpus.start_ranks(2, [*DREAM, "--device", "cpu", "--out", str(tmp_path / "set")])
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["images_per_class"] == 1
    output, errors = capfd.readouterr()
    assert output.count("set: ") == 1
    assert "torch" not in errors
    with pytest.raises(OtherRankError):
        several_gpus.start_ranks(2, [*DREAM, "--device", "cpu", "--out", str(tmp_path / "set")])
    assert capfd.readouterr().err.count("already holds a distilled set: choose another --out") == 1


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
