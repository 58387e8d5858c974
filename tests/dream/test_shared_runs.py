"""DREAM+ shared by shards and by ranks: the set of one process, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rank_processes import on_ranks, run_command
from rded_runs import hashes

from pydream.data import Source
from pydream.dream import DreamConfig, distill
from pydream.errors import PydreamError, UnfinishedError

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
