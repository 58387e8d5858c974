"""DREAM+ shared by shards and by ranks: the set of one process, byte for byte."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rank_processes import killed_in, on_ranks, run_command
from rded_runs import hashes

from pydream.data import Source
from pydream.dream import DreamConfig, distill
from pydream.errors import OtherRankError, PydreamError, UnfinishedError
from pydream.sets.writer import SetWriter

SETTINGS: dict[str, Any] = {
    "ipc": 1,
    "factor": 2,
    "arch": "convnet2-w8-instance",
    "iterations": 4,
    "inner_loop": 2,
    "batch_real": 8,
    "network_images": 16,
    "network_epochs": 0,
    "checkpoint_every": 2,
    "eval_epochs": 1,
    "eval_seeds": 2,
    "workers": 1,
    "device": "cpu",
}


def config(out: Path, **changes: Any) -> DreamConfig:
    return DreamConfig("digits", out=out, **{**SETTINGS, **changes})


def test_shards_and_what_they_leave(tmp_path: Path, digits: Source) -> None:
    whole = distill(config(tmp_path / "whole"), source=digits).path
    with pytest.raises(UnfinishedError, match=r"shard 1/3 is done; 2 of 3 classes are left"):
        distill(config(tmp_path / "set", shard="1/3"), source=digits)
    # The others by one process, which leaves the finished class as it is.
    rest = config(tmp_path / "set", resume=True)
    assert hashes(distill(rest, source=digits).path) == hashes(whole)
    for number in ("2/3", "0/3"):
        with pytest.raises(UnfinishedError):
            distill(config(tmp_path / "shards", shard=number), source=digits)
    last = distill(config(tmp_path / "shards", shard="1/3"), source=digits)
    assert hashes(last.path) == hashes(whole)
    assert not (tmp_path / "shards.partial").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exact": True}, "exact updates one class after another"),
        ({"eval_every": 2}, "no shard has: give --eval-every 0"),
    ],
)
def test_what_shards_cannot_do(
    tmp_path: Path, digits: Source, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PydreamError, match=message):
        distill(config(tmp_path / "set", shard="0/3", **changes), source=digits, test=digits)
    assert not list(tmp_path.iterdir())


def test_ranks_with_students_on_the_way(tmp_path: Path) -> None:
    """Two ranks, of which the second has fewer classes, and each trains a student."""
    changes = {"eval_every": 2, "iterations": 2}
    whole = distill(config(tmp_path / "whole", **changes)).path
    options = [
        word
        for name, value in {**SETTINGS, **changes}.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    words = ["dream", "digits", "--out", str(tmp_path / "ranks"), *options]
    first, second = on_ranks(2, run_command, *words)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert hashes(tmp_path / "ranks") == hashes(whole)
    assert (first[2] + second[2]).count("matching: 2 of 2 iterations") == 1
    assert config(tmp_path, shard="0/2").identity() == config(tmp_path).identity()


@pytest.mark.parametrize("count", [2, 5])
def test_ranks_exchange_images_that_networks_are_trained_on(tmp_path: Path, count: int) -> None:
    """In DC; of five ranks, two have none of the three classes."""
    changes: dict[str, Any] = {
        "framework": "dc", "factor": 1, "network_images": None, "inner_loop": 3,
        "synthetic_epochs": 2, "iterations": 2,
    }  # fmt: skip
    three = "digits:classes=2:5"
    whole = dataclasses.replace(config(tmp_path / "whole", **changes), source=three)
    of_one = hashes(distill(whole).path)
    shared = dataclasses.replace(whole, out=tmp_path / "ranks")
    for made in on_ranks(count, distill, shared):
        assert hashes(made.path) == of_one
    killed = dataclasses.replace(whole, out=tmp_path / "killed", checkpoint_every=1)
    loop = "pydream.dream.loop.MatchingLoop"
    first, *others = on_ranks(2, killed_in, loop, "iterate", 2, distill, killed)
    assert first is None
    assert [*map(type, others)] == [OtherRankError]
    for made in on_ranks(count, distill, dataclasses.replace(killed, resume=True)):
        assert hashes(made.path) == of_one
    other = dataclasses.replace(whole, out=tmp_path / "other", synthetic_epochs=1)
    assert hashes(distill(other).path) != of_one  # what is exchanged matters


def test_a_run_killed_once_all_classes_are_written(
    tmp_path: Path, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distill(config(tmp_path / "whole"), source=digits).path

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SetWriter, "write_provenance", stop)
        with pytest.raises(KeyboardInterrupt):
            distill(config(tmp_path / "set"), source=digits)
    rest = config(tmp_path / "set", resume=True)
    assert hashes(distill(rest, source=digits).path) == hashes(whole)
