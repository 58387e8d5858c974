"""Simulated ranks divide images as a run does, and say what they presume."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDING = 1e-9  # of a sum of a few doubles


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("benchmarks.simulate_ranks")


def record(name: str, results: dict[str, Any], **machine: Any) -> dict[str, Any]:
    about = {"processor": "Abacus", "cores": 2, "build": {"instruction_set": "beads"}, **machine}
    return {
        "name": name,
        "file": f"results/{name}.json",
        "date": "2026-01-01T00:00:00+00:00",
        "machine": about,
        "results": results,
    }


@pytest.fixture
def records() -> list[dict[str, Any]]:
    run = {"parts": {"open": 4.0, "pre-select": 2.0, "fingerprint and identity": 3.0}}
    folders = {
        "images": 1_000_000,
        "mean_bytes_of_files": 100_000.0,
        "runs": [{**run, "pre-selected": 300_000}],
    }
    on_gpu = {
        "images_per_second_scoring": 2000.0,
        "precision": "bfloat16",
        "stages": {"preflight": 0.5, "report": 1.5},
    }
    return [
        record("million-images", {"class folders": folders}),
        record("ranks", {"cifar10": {"of_a_rank": {"two": {"imports": 5.0}}}}),
        record("rded-cuda", {"decode=host": on_gpu}, gpu="Loom"),
    ]


@pytest.mark.parametrize("ranks", [1, 2, 7, 64])
@pytest.mark.parametrize("group", [1, 8, 512])
def test_ranks_score_every_image_and_whole_groups(
    module: ModuleType, ranks: int, group: int
) -> None:
    candidates = np.random.default_rng(ranks).integers(1, 300, 100).tolist()
    total = sum(candidates)
    scored = module.scored_images(candidates, ranks, group)
    assert len(scored) == ranks
    assert total <= sum(scored) <= total + 2 * group * ranks
    assert max(scored) <= total
    if ranks == 1:
        assert scored == [total]
    if group == 1:
        assert sum(scored) == total


def test_the_time_of_a_run_is_that_of_its_parts(
    module: ModuleType, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "tile_of", lambda device, precision: 512)
    results = module.simulate_all(records)
    [rank] = results["ranks"]
    runs = rank["runs"]["ImageNet-1K"]
    # 300 of each of 1000 classes at 2000 a second; 1,281,167 images to open and to draw from.
    fixed = 5.0 + 1.281167 * (4.0 + 2.0) + 3.0 + 0.5 + 1.5
    assert runs["1"]["seconds"] == pytest.approx(fixed + 150.0, rel=ROUNDING)
    assert runs["1"]["limited_by"] == "rank"
    # A disk of 10 GB/s gives 100,000 images a second, less than 64 ranks take.
    assert runs["64"]["limited_by"] == "disk"
    most = runs["64"]["images_of_slowest_rank"]
    assert runs["64"]["parts"]["score"] == pytest.approx(most / (100_000 / 64), rel=ROUNDING)
    assert set(results["assumptions"]) == set(module.ASSUMPTIONS)
    tables = importlib.import_module("benchmarks.expected_times")
    text = tables.simulated_table([record(tables.RECORD, results)])
    assert "| Loom, 2 cores | 2,000 | ImageNet-1K, 300,000 images scored | 3 min |" in text
    assert all(name in text for name in module.ASSUMPTIONS)
    assert "results/rded-cuda.json" in text


@pytest.mark.parametrize("missing", ["million-images", "ranks", "rded-cuda"])
def test_a_missing_record_is_named(
    module: ModuleType, records: list[dict[str, Any]], missing: str
) -> None:
    rest = [entry for entry in records if entry["name"] != missing]
    with pytest.raises(SystemExit, match=r"no record of .*: run `python -m benchmarks\."):
        module.simulate_all(rest)
