"""Students that several ranks train: those of one process."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rank_processes import killed_in, on_ranks, run_command
from small_digits import Digits

from pydream.errors import OtherRankError, PydreamError
from pydream.evaluate import EvaluateConfig, EvaluationResult, evaluate_set

# Sums of float32 in another order, over a few steps of training.
ROUNDING = 1e-4
# Of 360 test images, those whose two likeliest classes are that close.
NEAR = 0.012


def config(path: Path, digits: Digits, **changes: Any) -> EvaluateConfig:
    values: dict[str, Any] = {
        "set": path,
        "observer": str(digits.observer),
        "students": ("convnet1-w8", "convnet1-w4-instance"),
        "seeds": (0, 5),
        "labels": ("hard",),
        "baselines": ("random",),
        "epochs": 3,
        "horizontal_flip": False,
        "workers": 1,
        **changes,
    }
    return EvaluateConfig(**values)


def content(result: EvaluationResult) -> dict[str, Any]:
    """Return what is in the file of a result, without durations and the folder of the results."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: without(entry)
                for name, entry in value.items()
                if name
                not in ("seconds", "train_seconds", "test_seconds", "out", "resume", "threads")
            }
        return [*map(without, value)] if isinstance(value, list) else value

    found: dict[str, Any] = without(json.loads(result.path.read_text()))
    return found


def test_ranks_train_the_students_of_one_process(
    digits: Digits, digits_set: Path, tmp_path: Path
) -> None:
    alone = evaluate_set(config(digits_set, digits, out=tmp_path / "alone"))
    out = tmp_path / "shared"
    how = config(digits_set, digits, out=out)
    keep = "pydream.evaluate.results.FinishedStudents"
    first, second = on_ranks(2, killed_in, keep, "keep", 2, evaluate_set, how)
    assert first is None
    assert isinstance(second, OtherRankError)
    kept = {file: file.stat().st_mtime_ns for file in (out / "students").iterdir()}
    assert 1 <= len(kept) < 8
    resumed = config(digits_set, digits, out=out, resume=True)
    results = on_ranks(3, evaluate_set, resumed)
    for result in results:
        assert content(result) == content(alone)
        assert result.path == out / "results-0001.json"
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert len([*(out / "students").iterdir()]) == 8
    assert (out / "results-0001.png").is_file()


def test_ranks_print_one_table_and_one_line_of_progress(
    digits: Digits, digits_set: Path, tmp_path: Path
) -> None:
    how = config(digits_set, digits, baselines=(), epochs=2, out=tmp_path / "alone")
    alone = evaluate_set(how)
    words = [
        *("evaluate", str(digits_set), "--observer", str(digits.observer)),
        *("--students", *how.students, "--seeds", "0", "5", "--labels", "hard", "--epochs", "2"),
        *("--horizontal-flip", "False", "--workers", "1"),
        *("--out", str(tmp_path / "shared"), "--device", "cpu"),
    ]
    statuses, outputs, errors = zip(*on_ranks(2, run_command, *words), strict=True)
    assert statuses == (0, 0), errors
    output, told = "".join(outputs), "".join(errors)
    file = tmp_path / "shared" / "results-0001.json"
    assert output.count(f"results: {file}") == 1
    assert output.count("top-5") == 2  # once for each kind of student
    assert len(re.findall(r"students: 8 of 8 epochs", told)) == 1
    rows = json.loads(file.read_text())["rows"]
    for row, same in zip(rows, alone.rows, strict=True):
        curves = [run["curve"] for run in row["runs"]]
        assert curves == [[*map(dataclasses.asdict, run.curve)] for run in same.runs]


def test_students_on_all_ranks_are_those_of_one_process_up_to_rounding(
    digits: Digits, digits_set: Path, tmp_path: Path
) -> None:
    changes = {
        "students": ("convnet2-w8-instance",),
        "labels": ("online", "hard"),
        "out": tmp_path / "results",
        "batch_size": 15,
        "learning_rate": 1e-3,
        "epochs": 2,
    }
    alone = evaluate_set(config(digits_set, digits, **changes))
    first, second = on_ranks(
        2, evaluate_set, config(digits_set, digits, data_parallel=True, **changes)
    )
    assert first == second
    assert first.facts["data_parallel"] == 2
    for row, same in zip(first.rows, alone.rows, strict=True):
        assert (row.images, row.labels, row.recipe) == (same.images, same.labels, same.recipe)
        for run, whole in zip(row.runs, same.runs, strict=True):
            for point, other in zip(run.curve, whole.curve, strict=True):
                assert point.loss == pytest.approx(other.loss, rel=ROUNDING)
                assert point.top1 == pytest.approx(other.top1, abs=NEAR)


def test_a_network_with_batch_norm_is_refused_on_cpus(digits: Digits, digits_set: Path) -> None:
    ends = on_ranks(2, evaluate_set, config(digits_set, digits, data_parallel=True))
    assert all(isinstance(end, PydreamError) for end in ends)
    (told,) = (end for end in ends if not isinstance(end, OtherRankError))
    assert "convnet1-w8 has batch norm, which PyTorch synchronises between GPUs only" in str(told)
    assert not (digits_set / "results").exists()
