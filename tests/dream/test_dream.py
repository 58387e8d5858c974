from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch_states import all_states

from pydream.data import Source
from pydream.dream import PRESETS, DreamConfig, distill
from pydream.dream.loop import MatchingLoop
from pydream.dream.recipes import preset_for
from pydream.dream.resolved import fill_in
from pydream.errors import PydreamError
from pydream.inspection import inspect_set, render_inspection
from pydream.sets.distilled import load_set
from pydream.sets.run import MadeSet

ITERATIONS = 5


def config(out: Path, **changes: Any) -> DreamConfig:
    return dataclasses.replace(
        DreamConfig(
            "digits",
            out=out,
            ipc=2,
            factor=2,
            arch="convnet2-w8-instance",
            iterations=ITERATIONS,
            inner_loop=2,
            batch_real=8,
            network_images=16,
            learning_rate=0.05,
            checkpoint_every=2,
            eval_epochs=2,
            workers=1,
        ),
        **changes,
    )


def files(result: MadeSet) -> dict[str, str]:
    """Hash everything of a set but what tells of time."""
    return {
        str(file.relative_to(result.path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(result.path.rglob("*"))
        if file.is_file() and file.name != "run.json"
    }


def stop_at(monkeypatch: pytest.MonkeyPatch, iteration: int, error: BaseException) -> None:
    iterate = MatchingLoop.iterate

    def stopping(self: MatchingLoop, synthetic: Any, at: int) -> list[float]:
        loss = iterate(self, synthetic, at)
        if at == iteration:  # the images of this iteration are lost
            raise error
        return loss

    monkeypatch.setattr(MatchingLoop, "iterate", stopping)


def test_a_set_on_disk(tmp_path: Path, digits: Source, other_digits: Source) -> None:
    result = distill(
        config(tmp_path / "set", eval_every=2, eval_seeds=2), source=digits, test=other_digits
    )
    assert result.path == tmp_path / "set"
    assert not (tmp_path / "set.partial").exists()
    distilled = load_set(result.path)
    assert distilled.images.shape == (6, 8, 8, 3)
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]
    images, labels = torch.load(result.path / "images.pt")
    assert images.shape == (6, 3, 8, 8)
    assert labels.equal(distilled.labels)
    assert images.min() >= 0
    assert images.max() <= 1
    rounding = 0.5 / 255 + 1e-6
    stored = distilled.images.permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(stored, images, rtol=0.0, atol=rounding)
    rows = pq.read_table(result.path / "provenance.parquet").to_pylist()
    assert len(rows) == 3 * 2 * 4
    assert {row["source"] for row in rows} <= set(digits.keys)
    for row in rows:
        assert digits.labels[digits.keys.index(row["source"])] == row["class"]
    history = result.manifest.history
    assert history is not None
    assert [entry["iteration"] for entry in history] == list(range(ITERATIONS + 1))
    assert history[0]["loss"] is None
    assert all(entry["loss"] > 0 for entry in history[1:])
    assert [len(entry.get("top1", [])) for entry in history] == [2, 0, 2, 0, 2, 2]
    facts = inspect_set(distilled)
    assert facts.integrity is not None
    assert facts.integrity.intact
    assert facts.scores is None
    render_inspection(facts)
    page = (result.path / "report.html").read_text()
    for words in ("DREAM: 3 classes × 2 images", "The optimisation", "bidirectional, by mse"):
        assert words in page
    assert page.count("iteration 4, image") == 3
    assert "students’ top-1" in page


@pytest.mark.parametrize(("how", "cells"), [("interrupt", "shrunk"), ("kill", "matched")])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path,
    digits: Source,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    cells: Literal["shrunk", "matched"],
) -> None:
    """Ctrl-C keeps all whole iterations; what kills the process, those of the last checkpoint."""
    whole = distill(config(tmp_path / "whole", cells=cells), source=digits)
    error = KeyboardInterrupt() if how == "interrupt" else SystemError()
    with monkeypatch.context() as patch:
        stop_at(patch, 3, error)
        with pytest.raises(type(error)):
            distill(config(tmp_path / "stopped", cells=cells), source=digits)
    assert not (tmp_path / "stopped").exists()
    done: list[int] = []
    iterate = MatchingLoop.iterate

    def counted(self: MatchingLoop, synthetic: Any, at: int) -> Any:
        done.append(at)
        return iterate(self, synthetic, at)

    monkeypatch.setattr(MatchingLoop, "iterate", counted)
    resumed = distill(config(tmp_path / "stopped", cells=cells, resume=True), source=digits)
    assert done == ([3, 4] if how == "interrupt" else [2, 3, 4])
    assert files(resumed) == files(whole)
    again = distill(config(tmp_path / "stopped", cells=cells, resume=True), source=digits)
    assert again.manifest.as_json() == json.loads((resumed.path / "manifest.json").read_text())
    assert done[-1] == 4
    assert len(done) <= 3


def test_the_state_of_torch_does_not_matter(tmp_path: Path, digits: Source) -> None:
    short = {"iterations": 2, "eval_every": 0}
    expected = distill(config(tmp_path / "usual", **short), source=digits)
    with all_states(but="threads"):  # by which PyTorch's convolutions split their sums
        found = distill(config(tmp_path / "other", **short), source=digits)
    assert files(found) == files(expected)


def test_resuming_with_other_settings_is_refused(
    tmp_path: Path, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            distill(config(tmp_path / "set"), source=digits)
    with pytest.raises(PydreamError, match=r"metric 'mse' then, 'l1' now"):
        distill(config(tmp_path / "set", metric="l1", resume=True), source=digits)
    with pytest.raises(PydreamError, match="add --resume to continue"):
        distill(config(tmp_path / "set"), source=digits)


def test_students_on_the_way_are_part_of_the_settings(
    tmp_path: Path, digits: Source, other_digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = config(tmp_path / "set", iterations=2, eval_every=1, eval_epochs=1)
    resumed = dataclasses.replace(measured, resume=True)

    def others_are_refused() -> None:
        changes: dict[str, Any] = {"eval_every": 2, "eval_epochs": 3, "eval_seeds": 2}
        for name, value in changes.items():
            other = dataclasses.replace(resumed, **{name: value})
            with pytest.raises(PydreamError, match=rf"settings \({name} 1 then, {value} now\)"):
                distill(other, source=digits, test=other_digits)
        with pytest.raises(PydreamError, match=r"other settings \(test_fingerprint '\w+' then"):
            distill(resumed, source=digits, test=digits)

    with monkeypatch.context() as patch:
        stop_at(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            distill(measured, source=digits, test=other_digits)
    others_are_refused()
    distill(resumed, source=digits, test=other_digits)
    others_are_refused()


def test_settings_of_students_that_are_not_trained_do_not_matter(
    tmp_path: Path, digits: Source, other_digits: Source
) -> None:
    made = distill(config(tmp_path / "set", iterations=1), source=digits)
    other = config(tmp_path / "set", iterations=1, eval_epochs=7, eval_seeds=3, resume=True)
    assert distill(other, source=digits, test=other_digits).manifest == made.manifest


def test_divergence_names_the_checkpoint(tmp_path: Path, digits: Source) -> None:
    with pytest.raises(PydreamError, match=r"in iteration \d: give a --learning-rate below 1e\+30"):
        distill(config(tmp_path / "set", learning_rate=1e30), source=digits)
    assert (tmp_path / "set.partial").exists()


def test_own_networks(tmp_path: Path, digits: Source) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4 * 36, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.convolution(images).flatten(1))
            return logits

    made = config(tmp_path / "set", iterations=1, arch="small")
    result = distill(made, source=digits, make_network=Small)
    assert result.manifest.network == {"arch": "small"}
    with pytest.raises(PydreamError, match="Linear does not classify images of 3 × 8 × 8"):
        distill(config(tmp_path / "other"), source=digits, make_network=lambda: nn.Linear(2, 2))
    with pytest.raises(PydreamError, match=r"gives \(2, 3, 8, 2\) for two images of 3 classes"):
        distill(config(tmp_path / "other"), source=digits, make_network=lambda: nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 3}, "class 1 has 9 images, fewer than the 12 that ipc 3 and factor 2 take"),
        ({"eval_every": 1}, "no test split to measure students on: give --eval-every 0"),
        ({"arch": "convnet9"}, "the side must be at least 512"),
        ({"factor": 9}, "factor 9 is above the side of the images, 8"),
        ({"factor": 5, "cells": "matched"}, "factor 5 divides images of side 8 into cells of 2"),
        ({"per_cluster": 9}, "per_cluster must be at most batch_real, 8, got 9"),
    ],
)
def test_what_cannot_be_done(
    tmp_path: Path, digits: Source, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PydreamError, match=message):
        distill(config(tmp_path / "set", **changes), source=digits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1, got 0"),
        ({"metric": "cosine"}, "metric must be one of mse, l1, l1_mean, l2, cos, dc, got 'cosine'"),
        ({"recipe": "cifr"}, "recipe must be auto or one of cifar, svhn, .*, got 'cifr'"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1.0"),
        ({"eval_every": -1}, "eval_every must be at least 0, got -1"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"allow_skipped": 2.0}, "allow_skipped must be 0 to 1"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        DreamConfig("digits", **changes)


def test_a_side_that_the_factor_does_not_divide(tmp_path: Path, digits: Source) -> None:
    with pytest.warns(
        UserWarning, match="side 8 is not a multiple of factor 3: images are padded to 9"
    ):
        result = distill(config(tmp_path / "set", ipc=1, factor=3, iterations=1), source=digits)
    assert load_set(result.path).images.shape == (3, 8, 8, 3)


@pytest.mark.parametrize(
    ("source", "side", "classes", "recipe"),
    [
        ("cifar10:data", 32, 10, "cifar"),
        ("fashion-mnist:data", 28, 10, "mnist"),
        ("digits", 8, 10, "digits"),
        ("pictures.zip", 28, 10, "cifar"),
        ("pictures.zip", 64, 200, "tiny-imagenet"),
        ("pictures.zip", 224, 10, "imagenet10"),
        ("pictures.zip", 128, 100, "imagenet100"),
    ],
)
def test_recipes_by_source(source: str, side: int, classes: int, recipe: str) -> None:
    assert preset_for(source, side, classes) == recipe


def test_recipes_as_published() -> None:
    """The table of learning rates, scaled by images per class and by area."""
    settings = fill_in(DreamConfig("cifar10:data", ipc=50), 32, 10)
    assert settings.learning_rate == pytest.approx(5e-3 * 5)
    assert (settings.metric, settings.network_images, settings.network_epochs) == ("mse", 2000, 1)
    large = fill_in(DreamConfig("x.zip", ipc=10, match="gradient"), 112, 10)
    assert large.learning_rate == pytest.approx(3e-3 / 4)
    assert (large.arch, large.metric, large.network_epochs) == ("resnetap10", "l1", 0)
    tiny = fill_in(DreamConfig("x.zip", ipc=50), 64, 200)
    assert (tiny.learning_rate, tiny.batch_real) == (1e-6, 64)
    digits = fill_in(DreamConfig("digits", metric="cos"), 8, 10)
    assert (digits.metric, digits.factor, settings.factor) == ("cos", 1, 2)
    assert set(PRESETS) == {
        "cifar", "svhn", "mnist", "tiny-imagenet", "imagenet10", "imagenet100", "digits"
    }  # fmt: skip
