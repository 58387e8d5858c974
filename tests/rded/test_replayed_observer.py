"""An observer whose passes are captured as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from played_graphs import PlayedGraph

from pydream.models import Observer, load_observer
from pydream.rded import RdedConfig, distill
from pydream.replay import Replayed


class Captured(Replayed[Any]):
    """A step that is captured on any device."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._captures = True


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Captures on a CPU, played by calls: the shape of each result. One of 8 rows does not fit."""
    found: list[torch.Size] = []

    def played(step: Callable[[], torch.Tensor], device: torch.device, warm_up: int) -> Any:
        result = step()
        if len(result) == 8:
            raise torch.OutOfMemoryError("no room for the graph")
        found.append(result.shape)
        graph = PlayedGraph(step)
        graph.result = torch.full_like(result, torch.nan)
        return graph, graph.result

    monkeypatch.setattr("pydream.replay.capture", played)
    monkeypatch.setattr("pydream.models.observer.Replayed", Captured)
    return found


def seen_by(observer: Observer, side: int) -> torch.Tensor:
    images = torch.randn(21, 3, side, side, generator=torch.Generator().manual_seed(side))
    logits = observer.logits(images)
    again, features = observer.logits_and_features(images.flip(0))
    assert torch.equal(again.flip(0), logits)
    return torch.cat([logits, features.flip(0)], dim=1)


def test_each_shape_is_captured_once_and_computes_the_same(
    random_observer: Path, captures: list[torch.Size]
) -> None:
    plain = load_observer(random_observer).with_tile(5)
    replayed = plain.replayed().with_class_order([2, 0, 1])
    kept = seen_by(replayed, 32)
    assert torch.equal(kept, seen_by(plain.with_class_order([2, 0, 1]), 32))
    assert [shape[0] for shape in captures] == [5, 5]  # with features and without
    assert captures[0] != captures[1]
    seen_by(replayed, 32)
    assert len(captures) == 2
    larger = replayed.resizing_from(40)  # for the same input of the network
    assert torch.equal(
        seen_by(larger, 40), seen_by(plain.with_class_order([2, 0, 1]).resizing_from(40), 40)
    )
    assert len(captures) == 2
    assert torch.equal(kept, seen_by(replayed, 32))  # not overwritten by later replays


def test_a_graph_without_room_is_done_without(
    random_observer: Path, captures: list[torch.Size]
) -> None:
    plain = load_observer(random_observer).with_tile(8)
    with pytest.warns(UserWarning, match="run without a CUDA graph: no room for the graph"):
        assert torch.equal(seen_by(plain.replayed(), 32), seen_by(plain, 32))
    assert not captures


def test_smaller_tiles_are_captured_anew(random_observer: Path, captures: list[torch.Size]) -> None:
    observer = load_observer(random_observer).with_tile(12).replayed()
    seen_by(observer, 32)
    with pytest.warns(RuntimeWarning, match="going on with 6 images"):
        observer.halve_tile(torch.OutOfMemoryError())
    seen_by(observer, 32)
    assert [shape[0] for shape in captures] == [12, 12, 6, 6]


def test_a_run_of_rded_replays_its_observer_and_chooses_the_same(
    folder: Path, random_observer: Path, tmp_path: Path, captures: list[torch.Size]
) -> None:
    def made(name: str) -> str | None:
        config = RdedConfig(
            source=str(folder),
            observer=str(random_observer),
            out=tmp_path / name,
            ipc=2,
            factor=2,
            device="cpu",
            allow_weak_observer=True,
        )
        return distill(config).manifest.images_sha256

    replayed = made("replayed")
    assert len(captures) == 1
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("pydream.models.observer.Replayed", Replayed)  # captures nothing here
        assert made("called") == replayed
    assert len(captures) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replays_on_a_gpu_return_the_same_bits(random_observer: Path, precision: str) -> None:
    plain = load_observer(random_observer, device="cuda", precision=precision).with_tile(5)
    assert torch.equal(seen_by(plain.replayed(), 32), seen_by(plain, 32))
