"""Dry runs: what they predict, and that they leave nothing behind."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from rank_processes import on_ranks
from rded_runs import settings

from pydream.data.arrays import ArraySource
from pydream.errors import PydreamError, UnfinishedError
from pydream.files import hidden_beside
from pydream.models import build_model
from pydream.ranks import ALONE
from pydream.rded import RdedConfig, distill, opened, predict, sample
from pydream.sets import writer

# run.json has the seconds of a dozen stages, each of up to ten digits.
RUN_JSON = 150
# Crops of an image that fill passes of the observer, so that no image shares one with others.
FULL_PASSES = 64


def everything_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes and the time of every file, and the time of every folder."""
    return {
        str(place.relative_to(folder)): (
            place.read_bytes() if place.is_file() else b"",
            place.stat().st_mtime_ns,
        )
        for place in folder.rglob("*")
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"select": "diverse", "image_format": "webp"},
        {"refine": 2, "cells": "matched", "crops": 0},
        {"ipc": "proportional:2"},
    ],
    ids=str,
)
def test_a_small_run_is_predicted_to_the_byte(
    changes: dict[str, Any],
    folder: Path,
    random_observer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample, "_ENOUGH", math.inf)  # however busy the machine is
    config = settings(folder, random_observer, tmp_path / "new" / "set", **changes)
    before = everything_in(tmp_path)
    found = predict(config)
    assert everything_in(tmp_path) == before
    made = distill(config)
    assert (found.path, found.images, found.classes) == (made.path, 8, 4)
    assert found.scored == found.measured == 44
    size = sum(file.stat().st_size for file in made.path.rglob("*") if file.is_file())
    assert abs(found.bytes - size) <= RUN_JSON
    assert {*made.seconds} <= {*found.seconds}
    others = [seconds for name, seconds in found.seconds.items() if name != "whole"]
    assert found.seconds["whole"] == pytest.approx(sum(others), abs=0.02)  # rounded each
    least, most = found.range
    assert least < found.seconds["whole"] < most


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self._now, self._lock = 0.0, threading.Lock()

    def __call__(self) -> float:
        return self._now

    def go_on(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


class SlowSource(ArraySource):
    """Images in memory, each of which takes a second to read."""

    def __init__(self, sizes: Sequence[int], clock: Clock) -> None:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 9, 9, 3), dtype=np.uint8)
        names = [f"class {label}" for label in range(len(sizes))]
        super().__init__(pixels, labels, names, description="slow", split="train")
        self._clock = clock

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        self._clock.go_on(1.0)
        return super().read(index)


@pytest.mark.parametrize(
    ("sizes", "ipc"), [((40, 3, 21, 90, 6, 35), 2), ((40, 3, 21, 90, 6, 35), "proportional:3")]
)
def test_seconds_are_scaled_by_images_not_by_classes(
    sizes: tuple[int, ...],
    ipc: int | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, save = Clock(), writer.save_image

    def save_slowly(image: torch.Tensor, file: Path, quality: int) -> None:
        clock.go_on(10.0)
        save(image, file, quality)

    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(writer, "save_image", save_slowly)
    torch.manual_seed(0)
    config = RdedConfig(
        source="slow",
        observer="given",
        side=8,
        out=tmp_path / "set",
        ipc=ipc,
        crops=FULL_PASSES,
        allow_weak_observer=True,
        device="cpu",
    )
    network = build_model("convnet1-w4", num_classes=len(sizes), side=8)
    source = SlowSource(sizes, clock)
    found = predict(config, source=source, observer=network)
    assert found.measured == 8 < found.scored == sum(sizes)  # two of each of four classes
    made = distill(config, source=source, observer=network)
    assert found.seconds["write"] == made.seconds["write"] == 10 * found.images
    assert found.seconds["whole"] == pytest.approx(made.seconds["whole"])


def test_a_sample_is_spread_evenly_and_leaves_room_for_broken_images(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    config = settings(folder, random_observer, tmp_path / "set", ipc=1)
    found = opened.open_run(config, ALONE, None, None)
    assert isinstance(found, opened.OpenedRun)
    full = found.selection
    for wanted in (1, 20, 33, 43):
        part = sample.draw_sample(found, range(4), wanted, 1, tmp_path / "sample")
        assert part.labels == [0, 1, 2, 3]
        sizes = np.diff(part.selection.starts)
        assert np.ptp(sizes) == 0
        assert part.scored == max(wanted, 32) + -max(wanted, 32) % 4
        assert not part.whole or part.scored == 44
        assert set(part.selection.indices) <= set(full.indices)
        assert part.distilled == 4
        for label in part.labels:  # the first candidate, and no long gap after it
            rows = [part.selection.indices[row] for row in part.selection.candidates(label)]
            assert rows[0] == full.indices[full.starts[label]]
            assert max(np.diff(rows)) <= 2
    assert sample.draw_sample(found, range(4), 44, 1, tmp_path / "sample").whole


def test_broken_images_are_left_out_as_in_the_run(
    folder: Path, random_observer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bee" / "00.jpg").write_bytes(b"broken")
    found = predict(settings(folder, random_observer, tmp_path / "set", allow_skipped=0.1))
    assert found.scored == 44
    assert "bee/00.jpg" in capsys.readouterr().err


def make_set(config: RdedConfig) -> None:
    distill(config)


def begin_set(config: RdedConfig) -> None:
    with pytest.raises(UnfinishedError):
        distill(dataclasses.replace(config, shard="0/2"))


@pytest.mark.parametrize(
    ("changes", "prepare"),
    [
        ({"source": "nowhere"}, None),
        ({"observer": "nowhere.safetensors"}, None),
        ({"ipc": 4}, None),
        ({"allow_weak_observer": False}, None),
        ({"device": "cuda:77"}, None),
        ({}, make_set),
        ({}, begin_set),
        ({"resume": True, "seed": 5}, make_set),
        ({"resume": True, "seed": 5}, begin_set),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_a_run_refuses_is_refused_in_the_same_words(
    changes: dict[str, Any],
    prepare: Callable[[RdedConfig], None] | None,
    folder: Path,
    random_observer: Path,
    tmp_path: Path,
) -> None:
    config = settings(folder, random_observer, tmp_path / "set")
    if prepare is not None:
        prepare(config)
    before = everything_in(tmp_path)
    refused = dataclasses.replace(config, **changes)
    with pytest.raises(PydreamError) as by_prediction:
        predict(refused)
    assert everything_in(tmp_path) == before
    with pytest.raises(PydreamError) as by_run:
        distill(refused)
    assert str(by_prediction.value) == str(by_run.value)


def test_of_a_run_that_was_begun_the_rest_is_predicted(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    config = settings(folder, random_observer, tmp_path / "set", crops=FULL_PASSES)
    begin_set(config)
    before = everything_in(tmp_path)
    found = predict(dataclasses.replace(config, resume=True))
    whole = predict(dataclasses.replace(config, out=tmp_path / "other"))
    assert everything_in(tmp_path) == before
    assert (found.scored, whole.scored) == (22, 44)
    assert found.images == whole.images == 8
    distill(dataclasses.replace(config, resume=True))
    before = everything_in(tmp_path)
    nothing = predict(dataclasses.replace(config, resume=True))
    assert (nothing.scored, nothing.images, nothing.seconds) == (0, 8, {"whole": 0.0})
    assert everything_in(tmp_path) == before


def test_a_shard_is_predicted_by_its_own_classes(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    config = settings(folder, random_observer, tmp_path / "set", crops=FULL_PASSES)
    shards = [predict(dataclasses.replace(config, shard=f"{number}/2")) for number in range(2)]
    assert [shard.scored for shard in shards] == [22, 22]
    assert not (tmp_path / "set.partial").exists()


def test_a_shard_without_classes_has_only_to_finish_the_set(
    folder: Path, random_observer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "_ENOUGH", math.inf)  # however busy the machine is
    idle = settings(folder, random_observer, tmp_path / "set", shard="39/40")
    predicted = predict(idle)
    assert (predicted.scored, predicted.measured) == (0, 0)
    assert predicted.seconds["observer"] == predicted.seconds["assemble"] == 0
    assert predicted.seconds["report"] > 0
    with pytest.raises(UnfinishedError):
        distill(idle)
    made = distill(dataclasses.replace(idle, shard=None, resume=True))
    size = sum(file.stat().st_size for file in made.path.rglob("*") if file.is_file())
    assert abs(predicted.bytes - size) <= RUN_JSON


@pytest.mark.parametrize("stopped_in", ["class_loop.score", "prediction.fill_up"])
def test_nothing_is_left_by_a_dry_run_that_is_stopped(
    stopped_in: str,
    folder: Path,
    random_observer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        assert len(list(tmp_path.glob(".set.dry-run.*"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pydream.rded.{stopped_in}", stop)
    before = everything_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        predict(settings(folder, random_observer, tmp_path / "set"))
    assert everything_in(tmp_path) == before


def test_a_dry_run_removes_the_folder_of_one_that_was_killed(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        pass
    name = hidden_beside(tmp_path / "set.dry-run").name
    left = tmp_path / name.replace(f"-{os.getpid()}.", f"-{killed.pid}.")
    left.mkdir()
    (left / "image.png").write_bytes(b"half")
    predict(settings(folder, random_observer, tmp_path / "set"))
    assert not left.exists()


def test_several_ranks_are_refused_in_one_line(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    config = settings(folder, random_observer, tmp_path / "set")
    errors = [error for error in on_ranks(2, predict, config) if type(error) is PydreamError]
    assert errors
    assert "a dry run measures one process" in str(errors[0])
    assert not (tmp_path / "set").exists()
