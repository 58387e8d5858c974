from __future__ import annotations

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from small_digits import Digits

from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, relabel
from pydream.sets.distilled import load_set
from pydream.sets.manifest import Manifest
from pydream.students.stored_labels import StoredLabels


@pytest.fixture
def set_of_cells(digits_set: Path, tmp_path: Path) -> Path:
    """A set whose images are to be seen by their four cells."""
    path = tmp_path / "cells"
    shutil.copytree(digits_set, path)
    manifest = dataclasses.replace(Manifest.read(path), factor=2, views="dsa")
    (path / "manifest.json").write_text(manifest.as_text())
    return path


def given(path: Path, digits: Digits, **changes: Any) -> dict[str, Any]:
    return {
        "set": path,
        "observer": str(digits.observer),
        "epochs": 1,
        "horizontal_flip": False,
        **changes,
    }


def test_students_see_a_set_as_its_manifest_says(
    digits: Digits, set_of_cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usual = evaluate_set(EvaluateConfig(**given(set_of_cells, digits), workers=1))
    assert (
        "views: dsa (the set is made for them; --views chooses others)" in capsys.readouterr().err
    )
    asked = evaluate_set(EvaluateConfig(**given(set_of_cells, digits, views="dsa"), workers=1))
    assert "views:" not in capsys.readouterr().err
    assert usual.facts["config"]["views"] == "dsa"
    assert [row.last_mean for row in usual.rows] == [row.last_mean for row in asked.rows]


def test_labels_are_stored_of_the_views_that_students_see(
    digits: Digits, set_of_cells: Path
) -> None:
    relabel(RelabelConfig(**given(set_of_cells, digits)))
    assert StoredLabels(load_set(set_of_cells), 0).plan.views["views"] == "dsa"
    evaluate_set(EvaluateConfig(**given(set_of_cells, digits, labels=("stored",)), workers=1))


def test_other_views_are_warned_of(digits: Digits, set_of_cells: Path) -> None:
    with pytest.warns(UserWarning, match="made for views dsa, and students see views crop: leave"):
        result = evaluate_set(
            EvaluateConfig(**given(set_of_cells, digits, views="crop"), workers=1)
        )
    assert result.facts["config"]["views"] == "crop"


def test_a_set_that_says_nothing_leaves_the_choice_to_the_recipe(
    digits: Digits, digits_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate_set(EvaluateConfig(**given(digits_set, digits), workers=1))
    assert result.facts["config"]["views"] is None
    assert "views:" not in capsys.readouterr().err
