"""Several processes that share a run: ranks under torchrun and srun, and shards."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_processes import LIMIT, free_port, killed_in, on_ranks, run_command
from rded_runs import settings, write_pictures, write_random_observer
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from pydream import _C
from pydream.errors import OtherRankError, PydreamError, UnfinishedError
from pydream.launchers import first_host, place_of_rank
from pydream.models import build_model, save_weights
from pydream.ranks import Ranks, ranks_of
from pydream.rded import distill
from pydream.sets.run import MadeSet


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "photos")


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_observer(tmp_path_factory.mktemp("weights") / "observer.safetensors")


def command(pictures: Path, observer: Path, out: Path, *more: str) -> list[str]:
    return [
        *("rded", str(pictures), "--observer", str(observer), "--out", str(out)),
        *("--ipc", "2", "--factor", "2", "--allow-weak-observer", "--device", "cpu", *more),
    ]


def torchrun(count: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    return subprocess.run(
        [sys.executable, *launcher, "--master-port", str(free_port()), "-m", "pydream", *words],
        env={**own, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def hash_of(out: Path) -> str:
    return str(json.loads((out / "manifest.json").read_text())["images_sha256"])


@pytest.fixture(scope="module")
def alone(pictures: Path, observer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set of a single process."""
    out = tmp_path_factory.mktemp("alone") / "set"
    return distill(settings(pictures, observer, out, device="cpu")).path


def test_ranks_make_the_set_of_one_process(
    pictures: Path, observer: Path, alone: Path, tmp_path: Path
) -> None:
    done = torchrun(2, command(pictures, observer, tmp_path / "set"))
    assert done.returncode == 0, done.stderr
    for name in ("manifest.json", "provenance.parquet"):
        assert (tmp_path / "set" / name).read_bytes() == (alone / name).read_bytes()
    assert hash_of(tmp_path / "set") == hash_of(alone)
    assert not (tmp_path / "set.partial").exists()
    lines = re.findall(r"scoring: ([\d,]+) of \1 patches", done.stderr)
    assert len(lines) == 1  # of all ranks together
    assert done.stdout.count(f"set: {tmp_path / 'set'}") == 1


@pytest.mark.parametrize("changes", [{}, {"cells": "matched", "crops": 0, "refine": 2}])
def test_shards_make_the_set_of_one_process(
    pictures: Path,
    observer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    def shard(number: str) -> MadeSet:
        return distill(
            settings(pictures, observer, tmp_path / "set", device="cpu", shard=number, **changes)
        )

    for number in ("2/3", "0/3"):
        with pytest.raises(UnfinishedError, match=rf"shard {number} is done; .* left to other"):
            shard(number)
        assert not (tmp_path / "set").exists()
    # As a task of a Slurm array, whose numbers begin with 1.
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    made = shard("auto")
    whole = distill(settings(pictures, observer, tmp_path / "whole", device="cpu", **changes))
    assert made.manifest == whole.manifest
    assert not (tmp_path / "set.partial").exists()
    assert shard("1/3").manifest == made.manifest  # once more, and nothing is left to do


def test_what_a_shard_leaves_is_finished_by_one_process(
    pictures: Path, observer: Path, alone: Path, tmp_path: Path
) -> None:
    config = settings(pictures, observer, tmp_path / "set", device="cpu", shard="1/3")
    with pytest.raises(UnfinishedError):
        distill(config)
    (tmp_path / "set.partial/state/finish.claimed").touch()  # of a shard that was killed
    made = distill(dataclasses.replace(config, shard=None, resume=True))
    assert made.manifest.images_sha256 == hash_of(alone)


def test_the_last_of_two_shards_at_once_leaves_the_set_to_the_other(
    pictures: Path, observer: Path, tmp_path: Path
) -> None:
    config = settings(pictures, observer, tmp_path / "set", device="cpu", shard="1/2")
    with pytest.raises(UnfinishedError, match="classes are left"):
        distill(config)
    (tmp_path / "set.partial/state/finish.claimed").touch()
    with pytest.raises(UnfinishedError, match="shard 0/2 is done, and another one is finishing"):
        distill(dataclasses.replace(config, shard="0/2"))


def test_shards_of_other_settings_do_not_mix(
    pictures: Path, observer: Path, tmp_path: Path
) -> None:
    config = settings(pictures, observer, tmp_path / "set", device="cpu", shard="1/2")
    with pytest.raises(UnfinishedError):
        distill(config)
    with pytest.raises(PydreamError, match=r"begun with other settings .seed 0 then, 1 now"):
        distill(dataclasses.replace(config, shard="0/2", seed=1))


@pytest.mark.parametrize("change", [{"shard": "0/2"}, {"shard": None, "resume": True}])
def test_machines_that_choose_another_precision_do_not_mix(
    pictures: Path,
    observer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    """Machines may decide alike or not, and one that is told what the others chose goes on."""
    config = settings(pictures, observer, tmp_path / "set", device="cpu", shard="1/2")
    monkeypatch.setattr(_C, "native_bfloat16", lambda: True)
    with pytest.raises(UnfinishedError):
        distill(config)
    monkeypatch.setattr(_C, "native_bfloat16", lambda: False)
    with pytest.raises(PydreamError, match=r"precision 'bfloat16' then, 'float32' now"):
        distill(dataclasses.replace(config, **change))
    made = distill(dataclasses.replace(config, **change, precision="bfloat16"))
    alone = distill(
        settings(pictures, observer, tmp_path / "alone", device="cpu", precision="bfloat16")
    )
    assert made.manifest == alone.manifest


def test_shards_whose_observers_read_images_otherwise_do_not_mix(
    pictures: Path, tmp_path: Path
) -> None:
    """Mean and std stand beside the weights in a file, and are not in their hash."""
    file = tmp_path / "observer.safetensors"
    network = build_model("convnet2-w16", num_classes=4, side=32)
    facts = {"arch": "convnet2-w16", "side": "32"}
    save_weights(network, file, facts)
    config = settings(pictures, file, tmp_path / "set", device="cpu", shard="1/2")
    with pytest.raises(UnfinishedError):
        distill(config)
    file.unlink()
    save_weights(network, file, {**facts, "mean": "0.5,0.1,0.9", "std": "0.2,0.2,0.2"})
    with pytest.raises(PydreamError, match=r"\(observer_identity: mean .* 0\.9\] now"):
        distill(dataclasses.replace(config, shard="0/2"))


def test_a_killed_rank_ends_all_and_another_number_of_ranks_goes_on(
    pictures: Path, observer: Path, alone: Path, tmp_path: Path
) -> None:
    """The ranks run without a launcher, so that nothing but pydream ends the other one."""
    out = tmp_path / "set"
    place, words = "pydream.sets.writer.SetWriter", command(pictures, observer, out)
    killed, other = on_ranks(2, killed_in, place, "write_class", 2, run_command, *words)
    assert killed is None
    status, output, errors = other
    assert (status, output) == (2, "")
    assert "pydream:" not in errors
    assert "Traceback" not in errors
    assert not out.exists()
    assert 1 <= len([*(tmp_path / "set.partial" / "state").glob("0000*.json")]) < 4
    config = settings(pictures, observer, out, device="cpu", resume=True)
    for made in on_ranks(3, distill, config):
        assert made.path == out
    assert hash_of(out) == hash_of(alone)


def test_an_error_is_told_once_by_the_rank_that_had_it(
    pictures: Path, observer: Path, tmp_path: Path
) -> None:
    words = command(pictures, observer, tmp_path / "set", "--preselect", "3")
    ends = on_ranks(2, run_command, *words)
    assert [status for status, _, _ in ends] == [2, 2]
    told = "".join(errors for _, _, errors in ends)
    assert told.count("pydream: preselect 3 looks at fewer images") == 1
    assert not (tmp_path / "set.partial").exists()


def connected(count: int) -> list[Ranks]:
    """Ranks that share a store, for threads of this process."""
    store = HashStore()
    return [Ranks(number, count, store) for number in range(count)]


def test_values_and_turns_of_several_ranks() -> None:
    def work(ranks: Ranks) -> tuple[list[int], list[int], str]:
        with ranks.together():
            values = ranks.gather(10 * ranks.number)
            turns = list(ranks.take_turns(20))
            return values, turns, ranks.once(lambda: f"made by {ranks.number}")

    with ThreadPoolExecutor(3) as threads:
        values, turns, made = zip(*threads.map(work, connected(3)), strict=True)
    assert values == ([0, 10, 20],) * 3
    assert sorted(number for turn in turns for number in turn) == list(range(20))
    assert set(made) == {"made by 0"}


def test_ranks_with_other_settings_are_refused_by_all() -> None:
    def work(ranks: Ranks) -> str:
        try:
            with ranks.together():
                ranks.agree({"seed": ranks.number // 2, "ipc": 10})
        except OtherRankError:
            return "other"
        except PydreamError as error:
            return str(error)
        return "passed"

    with ThreadPoolExecutor(3) as threads:
        ends = list(threads.map(work, connected(3)))
    (told,) = (end for end in ends if end != "other")  # by one of them
    assert told.startswith("rank 2 runs with another seed than rank 0: ")


@pytest.mark.parametrize(
    "meet",
    [
        lambda ranks: ranks.wait(),
        lambda ranks: ranks.gather(1),
        lambda ranks: ranks.once(lambda: 1),
        lambda ranks: [*ranks.take_turns(1)],
        lambda ranks: ranks.tell("anything"),
        lambda ranks: ranks.count_together("anything", 1),
    ],
)
def test_a_first_rank_that_has_gone_is_no_error_of_another_kind(
    meet: Callable[[Ranks], object],
) -> None:
    """A rank that comes late finds no store, whatever it does next."""
    port = free_port()
    hosted = TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    late = Ranks(1, 2, TCPStore("127.0.0.1", port, 2, False))
    del hosted
    with pytest.raises(OtherRankError), late.together():
        meet(late)


def test_a_rank_that_is_lost_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 has told of its work and gives no sign; rank 2 does, and is only slow."""
    monkeypatch.setattr("pydream.life_signs._BEAT", 0.05)
    monkeypatch.setattr("pydream.life_signs._LOST", 1.0)
    waiting, lost, slow = connected(3)
    lost.tell("scoring, class bee")
    waiting.show_life()
    slow.show_life()
    told = r"^rank 1 was killed, .* told last: scoring, class bee; .*run the same command again"
    with pytest.raises(PydreamError, match=told):
        waiting.wait()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_blocks_cover_all_items_once_and_weigh_about_the_same(count: int) -> None:
    weights = np.random.default_rng(0).integers(1, 30, 40).tolist()
    blocks = [Ranks(number, count).own(weights) for number in range(count)]
    assert [item for block in blocks for item in block] == list(range(40))
    loads = [sum(weights[item] for item in block) for block in blocks]
    assert max(loads) - min(loads) <= 2 * max(weights)
    few = [Ranks(number, count).own([5, 5]) for number in range(count)]
    assert [item for block in few for item in block] == [0, 1]
    assert not any(Ranks(number, count).own([]) for number in range(count))


@pytest.mark.parametrize("shard", ["3/3", "4/3", "x", "1", "1/0", "-1/3", "1/3/5"])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(PydreamError, match="--shard takes i/n"):
        ranks_of(shard)


def test_an_array_is_needed_for_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(PydreamError, match="--shard auto is for the tasks of a Slurm array"):
        ranks_of("auto")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"MASTER_PORT": "tcp://10.0.0.1:80"}, None),  # of a service of Kubernetes named master
        (
            {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "a", "MASTER_PORT": "7"},
            (3, 4, 3, "a", 7),
        ),
        ({"WORLD_SIZE": "two"}, None),  # of another program
        ({"SLURM_NTASKS": "8"}, None),  # a batch script, not a step of srun
        (  # the shell of an allocation, a step of one task
            {
                "SLURM_NTASKS": "8",
                "SLURM_STEP_ID": "4294967290",
                "SLURM_STEP_NUM_TASKS": "1",
                "SLURM_PROCID": "0",
            },
            None,
        ),
        (  # four tasks that srun starts from there
            {
                "SLURM_NTASKS": "8",
                "SLURM_STEP_ID": "0",
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_PROCID": "3",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_NODELIST": "a,b",
            },
            (3, 4, 1, "a", 29500),
        ),
        (
            {
                "SLURM_NTASKS": "8",
                "SLURM_STEP_ID": "0",
                "SLURM_PROCID": "5",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_NODELIST": "node[03-07,12]",
                "SLURM_JOB_ID": "12345",
            },
            (5, 8, 1, "node03", 29845),
        ),
    ],
)
def test_the_place_among_ranks(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], wanted: Any
) -> None:
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "MASTER_")) or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert place_of_rank() == wanted


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE must be a number, got 'two'"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "RANK must be a number, got ''"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK must be a number, got '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "tcp://a:1"}, "MASTER_PORT must be"),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, "SLURM_PROCID must be a number, got ''"),
    ],
)
def test_variables_that_are_no_numbers_are_named(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], named: str
) -> None:
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "MASTER_")) or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    for name, value in {"MASTER_ADDR": "a", **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PydreamError, match=named):
        place_of_rank()


def test_ranks_without_an_address_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(PydreamError, match="not MASTER_ADDR: start the ranks by torchrun"):
        place_of_rank()


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("node[03-07,12]", "node03"), ("a,b", "a"), ("gpu7", "gpu7"), ("x[1,3]y", "x1")],
)
def test_the_first_host(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_settings_of_the_tests_are_those_of_the_command(
    pictures: Path, observer: Path, tmp_path: Path
) -> None:
    """A shard is no setting that decides the bytes."""
    config = settings(pictures, observer, tmp_path / "set", shard="0/2")
    assert "shard" not in config.identity()
