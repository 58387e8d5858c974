from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import write_noise
from rich.console import Console
from small_digits import SIDE, Digits

from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig, baselines, evaluate_set, evaluation, result_table
from pydream.evaluate.baselines import Baselines
from pydream.models import load_observer
from pydream.ops import multi_formation
from pydream.sets.manifest import Manifest
from pydream.students.train import train_student
from pydream.tiling import CellFit

IPC = 2


def least_squares_cell(anchor: torch.Tensor, rows: int, columns: int, cell: int) -> np.ndarray:
    """Solve for the cell whose enlargement is nearest to one channel, all its pixels at once."""
    units = torch.eye(cell * cell, dtype=torch.float64).view(-1, 1, cell, cell)
    grown = F.interpolate(units, size=anchor.shape, mode="bilinear", align_corners=False)
    inside = torch.zeros(cell, cell, dtype=torch.bool)
    inside[:rows, :columns] = True
    matrix = grown.flatten(1)[inside.flatten()].T.numpy()
    wanted = anchor.double().numpy().ravel() / 255 - 0.5
    solved: np.ndarray = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    cells: np.ndarray = np.clip(solved.reshape(rows, columns) + 0.5, 0, 1) * 255
    return cells


@pytest.mark.parametrize("factor", [2, 3])
def test_matched_cells_are_the_least_squares_answers_for_the_images_of_the_rule(
    factor: int,
) -> None:
    source, count = open_source("digits"), IPC * factor**2
    tiled = Baselines(source, IPC, SIDE, factor=factor, cells="matched", workers=1)
    found = tiled.images("random-tiled", seed=4)
    anchors = Baselines(source, count, SIDE, workers=1).images("random", 4).images
    assert found.labels.tolist() == [label for label in range(10) for _ in range(IPC)]
    cell = -(-SIDE // factor)
    for rank in range(count):  # of the first class; its images are grey
        top, left = (place * cell for place in divmod(rank // IPC, factor))
        image = found.images[rank % IPC, top : top + cell, left : left + cell, 0].numpy()
        rows, columns = image.shape
        expected = least_squares_cell(anchors[rank, :, :, 0], rows, columns, cell)
        # Half a level of rounding, and float32 sums against float64 ones.
        assert np.abs(image - expected).max() <= 0.51


@pytest.mark.parametrize("factor", [2, 3])
def test_cells_enlarge_to_the_images_of_the_rule(factor: int) -> None:
    source, count = open_source("digits"), 10 * factor**2
    of_classes = Baselines(source, factor**2, SIDE, workers=1).images("random", 0).images
    # One image a class: its cells, in order, are the real images of its class.
    anchors = of_classes.view(10, factor**2, SIDE, SIDE, 3).transpose(0, 1).flatten(0, 1)

    def error(cells: CellFit) -> float:
        tiled = Baselines(source, 1, SIDE, factor=factor, cells=cells, workers=1)
        images = tiled.images("random-tiled", seed=0).images.permute(0, 3, 1, 2) / 255
        grown = multi_formation(images, factor, SIDE)
        assert len(grown) == count
        return float((grown - anchors.permute(0, 3, 1, 2) / 255).square().mean())

    mean = anchors.float().mean() / 255
    spread = float((anchors / 255 - mean).square().mean())
    assert error("matched") < min(error("shrunk"), spread)


def test_the_same_images_however_many_are_tiled_at_a_time(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> list[torch.Tensor]:
        tiled = Baselines(
            open_source("digits"),
            3,
            SIDE,
            factor=3,
            cells="matched",
            observer=load_observer(digits.observer),
            workers=1,
        )
        return [tiled.images(name, seed=1).images for name in ("random-tiled", "k-centre-tiled")]

    usual = made()
    monkeypatch.setattr(baselines, "_AT_ONCE", 25)  # two images of nine cells
    for image, again in zip(usual, made(), strict=True):
        assert torch.equal(image, again)


def test_classes_may_differ_in_size_and_a_small_one_repeats_images(tmp_path: Path) -> None:
    root = write_noise(tmp_path, {"a": [(8, 8)] * 9, "b": [(8, 8)] * 5, "c": [(8, 8)] * 9})
    (root / "train" / "c" / "3.png").write_bytes(b"no picture")
    source = open_source(root)
    tiled = Baselines(source, [1, 3, 2], 8, factor=2, workers=1).images("random-tiled", seed=0)
    assert tiled.labels.tolist() == [0, 1, 1, 2, 2]
    cells = tiled.images.view(5, 2, 4, 2, 4, 3).transpose(2, 3).reshape(5, 4, -1)
    distinct = [len(cells[tiled.labels == label].flatten(0, 1).unique(dim=0)) for label in range(3)]
    assert distinct == [4, 5, 8]  # two images of class b have all its five


def test_features_are_computed_once(digits: Digits, capsys: pytest.CaptureFixture[str]) -> None:
    made = Baselines(
        open_source("digits"),
        1,
        SIDE,
        factor=2,
        observer=load_observer(digits.observer),
        workers=1,
    )
    sizes = [
        len(made.images(name, seed=0))
        for name in ("herding", "herding-tiled", "k-centre", "k-centre-tiled")
    ]
    assert sizes == [10] * 4
    assert len(re.findall("features for coresets: .* taken", capsys.readouterr().err)) == 1


def with_manifest(digits_set: Path, path: Path, **changes: Any) -> Path:
    shutil.copytree(digits_set, path)
    manifest = dataclasses.replace(Manifest.read(path), **changes)
    (path / "manifest.json").write_text(manifest.as_text())
    return path


def config(path: Path, digits: Digits, **changes: Any) -> EvaluateConfig:
    given = {"epochs": 1, "horizontal_flip": False, "workers": 1, "observer": str(digits.observer)}
    return EvaluateConfig(set=path, **{**given, **changes})


def test_students_see_tiled_images_like_the_set_and_results_are_told_apart(
    digits: Digits, digits_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def watched(images: torch.Tensor, *arguments: Any, **settings: Any) -> Any:
        trained.append(settings["description"].split()[1])
        return train_student(images, *arguments, **settings)

    monkeypatch.setattr(evaluation, "train_student", watched)
    names = ("random", "random-tiled", "k-centre-tiled")
    how = {"baselines": names, "views": "dsa", "out": tmp_path / "out", "resume": True}
    silent = with_manifest(digits_set, tmp_path / "silent", factor=2)
    result = evaluate_set(config(silent, digits, **how))
    assert trained == ["distilled", *names]
    assert [row.images for row in result.rows] == trained
    assert [row.recipe.factor for row in result.rows] == [2, 1, 2, 2]
    assert {row.recipe.views for row in result.rows} == {"dsa"}
    assert [row.runs[0].steps for row in result.rows] == [4, 1, 4, 4]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(result_table(result))
    text = console.export_text()
    assert "…" not in text
    assert re.search(r"k-centre\s+tiled", text)
    trained.clear()
    evaluate_set(config(silent, digits, **how))
    assert not trained
    # The same images, which are now to be seen by their cells: only tiled baselines differ.
    cells = with_manifest(digits_set, tmp_path / "cells", factor=2, views="dsa")
    evaluate_set(config(cells, digits, **how))
    assert trained == ["random-tiled", "k-centre-tiled"]


def test_a_set_without_cells_has_no_tiled_baseline(digits: Digits, digits_set: Path) -> None:
    how = config(digits_set, digits, baselines=("herding-tiled",))
    with pytest.raises(PydreamError, match=r"herding-tiled: .*are not tiled \(factor 1\).*herding"):
        evaluate_set(how)
    result = evaluate_set(dataclasses.replace(how, factor=2))
    assert [row.recipe.factor for row in result.rows] == [2, 2]
