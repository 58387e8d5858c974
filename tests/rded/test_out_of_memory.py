"""A device with too little memory, played by an allocator that refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scoring_limits import limits
from torch import nn

from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.models import load_observer
from pydream.rded import RdedConfig, distill
from pydream.rded.patches import PatchMaker, preselect
from pydream.rded.scoring import score
from pydream.timeline import Stopwatch


class Greedy(nn.Module):
    """Runs out of memory with more than so many rows."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()
        self.model, self.rows = model, rows

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.rows:
            raise torch.OutOfMemoryError("out of memory")
        logits: torch.Tensor = self.model(images)
        return logits


@pytest.mark.filterwarnings("ignore:cpu is out of memory")
@pytest.mark.parametrize("rows", [1, 5, 16, 63])
def test_the_observer_goes_on_with_smaller_tiles(random_observer: Path, rows: int) -> None:
    observer, small = load_observer(random_observer), load_observer(random_observer)
    observer._model = Greedy(observer._model, rows)
    small.tile = 1 << (rows.bit_length() - 1)
    images = torch.randn(70, 3, 32, 32)
    with pytest.warns(RuntimeWarning, match=f"out of memory: going on with {small.tile} images"):
        logits = observer.logits(images)
    assert torch.equal(logits, small.logits(images))
    assert observer.tile == small.tile


@pytest.mark.filterwarnings("ignore:cpu is out of memory")
def test_no_memory_for_one_image(random_observer: Path) -> None:
    observer = load_observer(random_observer)
    observer._model = Greedy(observer._model, 0)
    with (
        pytest.warns(RuntimeWarning, match="out of memory"),
        pytest.raises(PydreamError, match="too little memory for convnet2-w16"),
    ):
        observer.logits(torch.randn(3, 3, 32, 32))


@pytest.mark.filterwarnings("ignore:cpu is out of memory")
@pytest.mark.parametrize("patches", [3 * 8, 3 * 40])
def test_batches_are_halved_where_patches_do_not_fit(
    folder: Path, random_observer: Path, monkeypatch: pytest.MonkeyPatch, patches: int
) -> None:
    source = open_source(folder)
    selection = preselect(source, 300, 0)

    def scores(tile: int) -> torch.Tensor:
        observer = load_observer(random_observer)
        observer.tile = tile
        maker = PatchMaker(source, observer, side=32, factor=2, crops=3)
        found = list(score(maker, selection, np.ones(44, dtype=bool), limits(), Stopwatch()))
        assert [candidate for batch in found for candidate in batch.candidates] == list(range(44))
        return torch.cat([batch.scores for batch in found])

    fitting = 32 if patches > 3 * 32 else 8
    wanted = scores(fitting)
    empty = PatchMaker.empty

    def limited(self: PatchMaker, count: int, number: int = 0) -> torch.Tensor:
        if count * self.crops > patches:
            raise torch.OutOfMemoryError("out of memory")
        return empty(self, count, number)

    monkeypatch.setattr(PatchMaker, "empty", limited)
    with pytest.warns(RuntimeWarning, match=f"going on with {fitting} images"):
        assert torch.equal(scores(64), wanted)


@pytest.mark.filterwarnings("ignore:cpu is out of memory")
def test_a_run_ends_well_on_a_device_that_is_too_small(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    model = Greedy(load_observer(random_observer)._model, 4)
    config = RdedConfig(
        source=str(folder),
        observer="in memory",
        out=tmp_path / "set",
        ipc=2,
        factor=1,
        side=32,
        allow_weak_observer=True,
    )
    with pytest.warns(RuntimeWarning, match="going on with 4 images"):
        result = distill(config, observer=model)
    assert result.manifest.images_per_class == 2
