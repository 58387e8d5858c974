"""Comparisons on a GPU, here on the CPU: rivals that fail or disagree, cases that fail."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pydream import ops

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


class OutOfResourcesError(Exception):
    """As Triton's: no RuntimeError."""


def raises(error: Exception) -> Any:
    def call(given: Tensor) -> Tensor:
        raise error

    return call


def absent(given: Tensor) -> Tensor:
    doubled: Tensor = importlib.import_module("a_library_that_nobody_has").double(given)
    return doubled


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("benchmarks.comparison")


def compare(comparison: ModuleType, rivals: dict[str, Any], **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = comparison.compared(
        comparison.Rival(lambda x: x + x),
        {name: comparison.Rival(call, **options) for name, call in rivals.items()},
        [torch.arange(1000.0), torch.arange(1000.0)],
        CPU,
        agree=lambda mine, theirs: torch.testing.assert_close(mine[: len(theirs)], theirs),
        items=1000,
        work=comparison.Work(8000),
        limit=1e-9,
        least=1e-4,
    )
    return found


def test_a_rival_without_a_figure_says_why_and_the_others_have_theirs(
    comparison: ModuleType,
) -> None:
    case = compare(
        comparison,
        {
            "greedy": raises(OutOfResourcesError("shared memory\nand more")),
            "wrong": lambda x: 2 * x + 3,
            "absent": absent,
            "mute": raises(AssertionError()),
            "right": lambda x: 2 * x,
        },
    )
    wrong = case["remarks"].pop("wrong")
    assert wrong.startswith("other result: Greatest absolute difference: 3.0 at index (0,)")
    assert case["remarks"] == {
        "greedy": "failed: OutOfResourcesError: shared memory",
        "absent": "a_library_that_nobody_has is not installed",
        "mute": "failed: AssertionError",
    }
    assert set(case["times_as_fast"]) == {"right"}
    assert set(case["microseconds_per_item"]) == {"pydream", "right"}
    assert case["fraction_of_limit"] > 0
    assert json.loads(json.dumps(case)) == case


def test_a_rival_may_agree_in_part(comparison: ModuleType) -> None:
    def inside(mine: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(mine[1:-1], theirs[1:-1])

    found = compare(comparison, {"apart at the ends": twice_but_for_the_ends}, agree=inside)
    assert set(found["times_as_fast"]) == {"apart at the ends"}
    assert set(compare(comparison, {"strictly": twice_but_for_the_ends})["remarks"]) == {"strictly"}


def twice_but_for_the_ends(x: Tensor) -> Tensor:
    doubled = 2 * x
    doubled[[0, -1]] += 5
    return doubled


def test_what_croppers_agree_on_is_the_frame_and_the_inside_of_a_patch(
    comparison: ModuleType,
) -> None:
    croppers = importlib.import_module("benchmarks.croppers")
    crop = croppers.Cropping(side=4, canvas=8, mean=(0.0,), std=(1.0,))
    canvas = torch.arange(64).view(1, 8, 8)
    whole = croppers.Cropper(None, None).compared(canvas, crop)
    assert sorted(whole[0].tolist()) == list(range(64))
    inside = croppers.Cropper(None, None, edge=1).compared(canvas, crop)
    edge = {*canvas[0, 2:6, [2, 5]].flatten().tolist(), *canvas[0, [2, 5], 2:6].flatten().tolist()}
    assert set(inside[0].tolist()) == set(range(64)) - edge


def test_a_compiled_rival_has_the_same_derivatives_in_a_rehearsal(comparison: ModuleType) -> None:
    setting = SimpleNamespace(small=True)
    cubes = comparison.by_compile(setting, lambda x: (x**3).sum())
    x = torch.arange(4.0, requires_grad=True)
    assert torch.autograd.grad(cubes(x), x)[0].tolist() == [0.0, 3.0, 12.0, 27.0]


def test_a_rival_of_fewer_items_is_compared_by_the_item(comparison: ModuleType) -> None:
    case = compare(comparison, {"a tenth": lambda x: 2 * x[:100]}, items=100)
    seconds = {name: timing["median"] for name, timing in case["device_seconds"].items()}
    per_item = seconds["a tenth"] / 100 / (seconds["pydream"] / 1000)
    assert case["times_as_fast"]["a tenth"] == pytest.approx(per_item)
    assert case["items_of_a_call"] == {"pydream": 1000, "a tenth": 100}


def test_a_case_that_fails_is_recorded_and_the_others_go_on(
    comparison: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = comparison.GrowingRecord("race", tmp_path)
    seen: list[list[str]] = []

    def last() -> dict[str, Any]:
        (file,) = tmp_path.glob("*/*.json")
        seen.append(list(json.loads(file.read_text())["results"]))
        return compare(comparison, {"lame": raises(OutOfResourcesError())})

    failed = comparison.run_cases(
        {
            "copy": lambda: {"bytes_per_second": 3},
            "ours": lambda: raises(ValueError("no"))(1),
            "last": last,
        },
        record,
    )
    assert failed == ["ours"]
    assert seen == [["copy", "ours"]]  # written before the last began
    assert record.results["ours"] == {"failed": "failed: ValueError: no"}
    printed = capsys.readouterr().out
    assert "copy: bytes_per_second 3" in printed
    assert "failed: OutOfResourcesError" in printed


@pytest.mark.usefixtures("comparison")  # benchmarks on the path
def test_the_published_cutout_clears_a_square_around_each_place() -> None:
    dsa = importlib.import_module("benchmarks.published.dsa")
    x, rows = torch.rand(5, 3, 9, 9) + 1, torch.zeros(5, 13)
    rows[:, 9:11] = torch.tensor([[-2, 0], [3, 3], [7, -4], [5, 8], [-4, -4]]).float()
    expected = x.clone()
    for image, (top, left) in enumerate(rows[:, 9:11].int().tolist()):
        for down in range(top, top + 4):
            for across in range(left, left + 4):
                # As published, what lies beyond an edge clears the edge.
                expected[image, :, min(max(down, 0), 8), min(max(across, 0), 8)] = 0
    assert dsa.erased(x, rows).equal(expected)


@pytest.mark.usefixtures("comparison")
def test_only_our_iteration_is_repeatable_and_its_capture_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    benchmark = importlib.import_module("benchmarks.pipeline_dream")
    seen: dict[str, list[bool]] = {"ours": [], "published": []}

    clock = [0.0]

    def note(name: str, seconds: float) -> float:
        seen[name].append(torch.backends.cudnn.deterministic)
        clock[0] += seconds
        return 0.0

    class Loop:
        def __init__(self, *_: Any) -> None:
            pass

        def capture(self, *_: Any) -> None:
            note("ours", 100.0)

        def initial(self) -> tuple[Tensor, None]:
            note("ours", 10.0)
            return torch.zeros(1), None

        def iterate(self, *_: Any) -> list[float]:
            return [note("ours", 1.0)]

    config = SimpleNamespace(learning_rate=0.1)
    for name, replacement in {
        "prepare": lambda arguments: (config, None),
        "MatchingLoop": Loop,
        "SyntheticImages": lambda *_: None,
        "time": SimpleNamespace(perf_counter=lambda: clock[0]),
    }.items():
        monkeypatch.setattr(benchmark, name, replacement)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    published = {"seconds": 0.0, "loss": 0.0}
    monkeypatch.setitem(
        benchmark.RIVALS, "published loop", lambda *_: (note("published", 1.0), published)[1]
    )
    monkeypatch.setattr(benchmark.dataclasses, "replace", lambda config, **_: config)
    found = {run: benchmark.one_run(argparse.Namespace(run=run)) for run in benchmark.RIVALS}
    assert found["pydream"] == {"seconds": 1.0, "loss": 0.0}
    assert seen["published"] == [False, False]
    # The images of both rivals, and each time the capture and the iteration.
    assert seen["ours"] == [True] * 6


def test_samples_of_k_means_still_move_after_the_iterations_that_are_timed(
    comparison: ModuleType,
) -> None:
    benchmark = importlib.import_module("benchmarks.cuda_kmeans")
    size = benchmark.SIZES[0].small()
    x = benchmark.samples(size, CPU)
    assert x.shape == (size.problems, size.count, size.dim)
    assert x.dtype == size.dtype
    found = ops.kmeans(x, size.k, init=x[:, : size.k], max_iter=20, tol=0.0)
    assert found.n_iter.tolist() == [20] * size.problems
