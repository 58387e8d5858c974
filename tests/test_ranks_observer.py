"""An observer that several ranks train together: that of one process, up to rounding."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from rank_processes import interrupted_after, killed_in, on_ranks
from rded_runs import write_pictures

from pydream.errors import OtherRankError, PydreamError
from pydream.models import ObserverConfig, TrainedObserver, read_weights, train_observer

# Sums of float32 in another order, over a dozen steps of training.
ROUNDING = 2e-4


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ObserverConfig:
    """Training on pictures of which one cannot be read, decoded again in every epoch."""
    pictures = write_pictures(tmp_path_factory.mktemp("pictures") / "photos")
    (pictures / "bee" / "03.png").write_bytes(b"not a picture")
    return ObserverConfig(
        str(pictures),
        arch="convnet2-w4-instance",
        side=72,
        epochs=2,
        batch_size=7,
        learning_rate=0.01,
        allow_skipped=0.1,
        precision="float32",
        device="cpu",
        workers=1,
        resume=True,
    )


def assert_same(found: TrainedObserver, alone: TrainedObserver) -> None:
    assert found.loss == pytest.approx(alone.loss, rel=ROUNDING)
    assert (found.images, found.skipped) == (alone.images, alone.skipped)
    weights, same = read_weights(found.path)[0], read_weights(alone.path)[0]
    assert weights.keys() == same.keys()
    for name, values in weights.items():
        torch.testing.assert_close(values, same[name], rtol=0, atol=ROUNDING)


def test_ranks_train_the_observer_of_one_process(config: ObserverConfig, tmp_path: Path) -> None:
    alone = train_observer(dataclasses.replace(config, out=tmp_path / "alone"))
    assert alone.skipped == 1
    shared = dataclasses.replace(config, out=tmp_path / "shared")
    module = "pydream.models.training_state.TrainingState"
    first, second = on_ranks(2, killed_in, module, "is_due", 4, train_observer, shared)
    assert first is None
    assert isinstance(second, PydreamError)
    assert not (tmp_path / "shared").exists()
    found = on_ranks(3, train_observer, shared)
    assert len({dataclasses.replace(result, seconds=0.0) for result in found}) == 1
    assert found[0].data_parallel == (3,)
    assert_same(found[0], alone)
    again = train_observer(shared)
    assert again == dataclasses.replace(found[0], seconds=0.0)
    training = json.loads(read_weights(found[0].path)[1]["training"])
    assert training["result"]["data_parallel"] == [3]
    assert "data_parallel" not in json.loads(read_weights(alone.path)[1]["training"])["result"]


def test_what_ranks_have_begun_is_finished_by_one_process(
    config: ObserverConfig, tmp_path: Path
) -> None:
    pictures = dataclasses.replace(config, side=32, out=tmp_path / "alone")
    alone = train_observer(pictures)
    shared = dataclasses.replace(pictures, out=tmp_path / "shared")
    ends = on_ranks(2, interrupted_after, 5, shared)
    assert isinstance(ends[1], OtherRankError)
    assert ends[0] == "stopped"
    found = train_observer(shared)
    assert found.data_parallel == (2, 1)
    assert_same(found, alone)


def test_a_network_with_batch_norm_is_refused_on_cpus(
    config: ObserverConfig, tmp_path: Path
) -> None:
    changed = dataclasses.replace(config, arch="convnet2-w4", out=tmp_path / "shared")
    ends = on_ranks(2, train_observer, changed)
    (told,) = (end for end in ends if not isinstance(end, OtherRankError))
    assert "convnet2-w4 has batch norm, which PyTorch synchronises between GPUs only" in str(told)
    assert not [*tmp_path.iterdir()]
