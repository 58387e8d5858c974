"""Labels that several ranks store: the files of one process."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from rank_processes import killed_in, on_ranks, twice
from small_digits import Digits

from pydream.errors import OtherRankError, PydreamError
from pydream.evaluate import RelabelConfig, relabel


def config(path: Path, digits: Digits, seeds: tuple[int, ...] = (0, 3)) -> RelabelConfig:
    return RelabelConfig(set=path, observer=str(digits.observer), epochs=4, seeds=seeds)


def files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.fixture
def other_set(digits_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_set, tmp_path / "other"))


def test_ranks_store_the_labels_of_one_process(
    digits: Digits, digits_set: Path, other_set: Path
) -> None:
    alone = relabel(dataclasses.replace(config(digits_set, digits), budget="4KB"))
    within = dataclasses.replace(config(other_set, digits), budget="4KB")
    found = on_ranks(3, twice, relabel, within)
    assert files(other_set) == files(digits_set)
    assert {result.labels_bytes for result in found} == {alone.labels_bytes}


def test_labels_of_killed_ranks_are_finished_by_another_number(
    digits: Digits, digits_set: Path, other_set: Path
) -> None:
    relabel(config(digits_set, digits))
    how = config(other_set, digits)
    module = "pydream.evaluate.relabel"
    first, second = on_ranks(2, killed_in, module, "write_epoch", 2, relabel, how)
    assert first is None
    assert isinstance(second, OtherRankError)
    stored = files(other_set / "labels")
    assert 3 <= len(stored) < len(files(digits_set / "labels"))
    assert "labels" not in json.loads((other_set / "manifest.json").read_text())
    (other_set / "labels" / "seed-0" / ".epoch-00003.safetensors.1.beside").touch()
    on_ranks(3, relabel, how)
    assert files(other_set) == files(digits_set)


def test_an_error_of_one_rank_ends_all(digits: Digits, digits_set: Path) -> None:
    relabel(config(digits_set, digits, seeds=(0,)))
    ends = on_ranks(2, relabel, RelabelConfig(**{**vars(config(digits_set, digits)), "top_k": 2}))
    assert isinstance(ends[0], PydreamError)
    assert "holds labels of other settings" in str(ends[0])
    assert isinstance(ends[1], OtherRankError)
    assert not (digits_set / "labels" / "seed-3").exists()
