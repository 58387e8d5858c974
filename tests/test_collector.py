"""How seldom Python's collector looks through all objects while a run is under way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pydream.collector import nothing_collected, rare_full_collections
from pydream.data.arrays import open_arrays
from pydream.rded import RdedConfig, distill

USUAL = (700, 10, 10)


@pytest.fixture(autouse=True)
def _usual() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*USUAL)
    yield
    gc.set_threshold(*before)


def test_full_collections_become_rare_and_usual_again() -> None:
    with rare_full_collections():
        young, middle, old = gc.get_threshold()
        assert (young, middle) == USUAL[:2]
        assert old >= 100 * USUAL[2]
        assert gc.isenabled()
    assert gc.get_threshold() == USUAL


def test_they_become_usual_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), rare_full_collections():
        raise ZeroDivisionError
    assert gc.get_threshold() == USUAL


def test_two_at_once_may_end_in_either_order() -> None:
    for first_out in (0, 1):
        entered = [ExitStack(), ExitStack()]
        for stack in entered:
            stack.enter_context(rare_full_collections())
        entered[first_out].close()
        entered[1 - first_out].close()
        assert gc.get_threshold() == USUAL


def test_a_callers_choice_of_fewer_is_kept() -> None:
    gc.set_threshold(700, 10, 100_000)
    with rare_full_collections():
        assert gc.get_threshold() == (700, 10, 100_000)
    assert gc.get_threshold() == (700, 10, 100_000)


def test_nothing_is_collected_within_a_block_nor_begun_after_it_if_it_was_off() -> None:
    with nothing_collected():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with nothing_collected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_run_collects_rarely_and_leaves_the_collector_as_it_was(tmp_path: Path) -> None:
    seen = []

    class Classifier(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(gc.get_threshold())
            return images[:, :, 0, 0]

    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    labels = np.repeat([0, 1, 2], 4)
    config = RdedConfig(
        source="given",
        observer="given",
        out=tmp_path / "set",
        ipc=1,
        factor=1,
        side=8,
        device="cpu",
        allow_weak_observer=True,
    )
    distill(config, source=open_arrays(images, labels, "train"), observer=Classifier())
    assert seen
    assert all(old >= 100 * USUAL[2] for _, _, old in seen)
    assert gc.get_threshold() == USUAL
