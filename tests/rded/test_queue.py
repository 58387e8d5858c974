"""Batches queued on a device whose scores come later: the order of things, played on the CPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scoring_limits import limits

from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.models import load_observer
from pydream.rded import RdedConfig, distill, memory
from pydream.rded.patches import PatchMaker, preselect
from pydream.rded.scoring import ScoredImages, score
from pydream.timeline import Stopwatch

scoring = importlib.import_module("pydream.rded.scoring")
passes = importlib.import_module("pydream.rded.passes")


@pytest.fixture(params=[1, 2, 100])
def queued(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(memory.QUEUED, "cpu", request.param)
    batches: int = request.param
    return batches


def batches(
    folder: Path, observer_file: Path, tile: int = 16, crops: int = 4, **settings: int
) -> list[ScoredImages]:
    source, observer = open_source(folder), load_observer(observer_file)
    observer.tile = tile
    maker = PatchMaker(source, observer, side=32, factor=2, crops=crops)
    selection = preselect(source, 300, 0)
    return list(score(maker, selection, np.ones(44, dtype=bool), limits(**settings), Stopwatch()))


def test_batches_come_in_order_and_complete(
    folder: Path, random_observer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 16}
    monkeypatch.setitem(memory.QUEUED, "cpu", 0)
    wanted = batches(folder, random_observer, **settings)
    for depth in (1, 2, 100):
        monkeypatch.setitem(memory.QUEUED, "cpu", depth)
        got = batches(folder, random_observer, **settings)
        assert [batch.candidates for batch in got] == [batch.candidates for batch in wanted]
        for ours, theirs in zip(got, wanted, strict=True):
            assert torch.equal(ours.scores, theirs.scores)
            assert ours.images is not None
            assert theirs.images is not None
            assert all(map(torch.equal, ours.images, theirs.images))


def test_a_set_has_the_same_bytes(
    folder: Path, random_observer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = set()
    for depth in (0, 2):
        monkeypatch.setitem(memory.QUEUED, "cpu", depth)
        config = RdedConfig(
            source=str(folder),
            observer=str(random_observer),
            out=tmp_path / f"set{depth}",
            ipc=2,
            factor=2,
            batch_size=48,
            allow_weak_observer=True,
        )
        hashes.add(distill(config).manifest.images_sha256)
    assert len(hashes) == 1


def test_what_a_later_op_reports_is_named(
    folder: Path, random_observer: Path, queued: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels mark a row whose logits are no numbers, and the next op, in any thread, raises."""
    calls: list[int] = []

    def marked(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(logits))
        if not calls:
            scores[9] = torch.nan
        calls.append(len(logits))
        return scores

    shown = PatchMaker.shown

    def raising(self: PatchMaker, *arguments: Any) -> Any:
        if calls:
            raise ValueError("logits hold NaN (found on cuda:0 by an earlier call)")
        return shown(self, *arguments)

    monkeypatch.setattr(passes, "realism_scores", marked)
    monkeypatch.setattr(PatchMaker, "shown", raising)
    with pytest.raises(PydreamError, match=r"scores of ant/02\.jpg are not numbers"):
        batches(folder, random_observer, batch_size=16)


def test_nothing_is_left_for_the_next_op_to_raise(
    folder: Path, random_observer: Path, queued: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batches behind the first, queued or not, have reported their rows too."""
    reported = []

    def marked(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        reported.append(len(logits))
        return torch.full((len(logits),), torch.nan)

    def check_values(device: torch.device) -> None:
        assert device == torch.device("cpu")
        if reported:
            reported.clear()
            raise ValueError("logits hold NaN (found on cuda:0 by an earlier call)")

    monkeypatch.setattr(passes, "realism_scores", marked)
    monkeypatch.setattr(scoring, "check_values", check_values)
    with pytest.raises(PydreamError, match=r"scores of ant/00\.jpg are not numbers"):
        batches(folder, random_observer, batch_size=16)
    assert reported == []


@pytest.mark.parametrize("megabytes", [1, 4, 256])
def test_images_are_kept_only_within_the_budget(
    folder: Path, random_observer: Path, megabytes: int
) -> None:
    # 64 images fill whole passes, so all 44 make one batch whatever the budget.
    found = batches(folder, random_observer, tile=64, crops=5, megabytes=megabytes)
    wanted = batches(folder, random_observer, tile=64, crops=5)
    assert len(found) == 1
    scores = torch.cat([batch.scores for batch in found])
    assert torch.equal(scores, torch.cat([batch.scores for batch in wanted]))
    limit = megabytes * 2**20 // 8  # a quarter for two batches
    for batch in found:
        if batch.images is not None:
            # The budget may be passed by the last image.
            assert sum(image.nbytes for image in batch.images[:-1]) < limit
    assert (found[0].images is None) == (megabytes == 1)
