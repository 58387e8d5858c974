from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rded_runs import hashes, settings

from pydream import ops
from pydream.data.resized import whole_view_box
from pydream.errors import PydreamError
from pydream.rded import RdedConfig, distill
from pydream.rded.config import _PRESETS
from pydream.sets.distilled import load_set

SIDE = 32


def enlargement(size: int, enlarged: int) -> torch.Tensor:
    unit = torch.eye(size, dtype=torch.float64)[:, None]
    return F.interpolate(unit, size=enlarged, mode="linear")[:, 0].transpose(0, 1)


def matched(folder: Path, observer: Path, out: Path, **changes: Any) -> Path:
    return distill(settings(folder, observer, out, cells="matched", **changes)).path


@pytest.mark.parametrize("factor", [2, 3])
def test_cells_are_those_whose_enlargement_is_nearest_to_the_crop(
    folder: Path, random_observer: Path, tmp_path: Path, factor: int
) -> None:
    """Each cell is computed again from its box in the provenance, by pseudo-inverses."""
    distilled = load_set(matched(folder, random_observer, tmp_path / "set", factor=factor, ipc=1))
    assert distilled.provenance is not None
    cell = -(-SIDE // factor)
    of_class = [0] * len(distilled.class_names)
    for row in distilled.provenance.to_pylist():
        number = of_class[row["class"]]
        of_class[row["class"]] += 1
        top, left = (place * cell for place in divmod(number, factor))
        rows, columns = min(cell, SIDE - top), min(cell, SIDE - left)
        pixels = torch.from_numpy(np.array(Image.open(folder / row["source"]).convert("RGB")))
        box = torch.tensor([[row["top"], row["left"], row["height"], row["width"]]])
        anchor = ops.crop_resize([pixels], box, SIDE)[0].double().numpy() - 0.5
        down, across = (
            np.linalg.pinv(enlargement(cell, SIDE)[:, :count].numpy()) for count in (rows, columns)
        )
        expected = np.clip(down @ anchor @ across.T + 0.5, 0, 1) * 255
        found = distilled.images[row["class"], top : top + rows, left : left + columns]
        # Half a level of rounding, and float32 sums against float64 ones.
        assert np.abs(found.permute(2, 0, 1).double().numpy() - expected).max() <= 0.51
    assert set(of_class) == {factor**2}


@pytest.mark.parametrize("factor", [2, 3])
def test_same_bytes_however_the_run_is_organised(
    folder: Path, random_observer: Path, tmp_path: Path, factor: int
) -> None:
    def run(name: str, **changes: Any) -> dict[str, str]:
        given = {"factor": factor, "ipc": 1, **changes}
        return hashes(matched(folder, random_observer, tmp_path / name, **given))

    usual = run("usual")
    assert run("one by one", batch_size=1, workers=1) == usual
    assert run("little memory", memory_budget=1) == usual


def test_whole_images_are_the_only_patches_without_crops(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    for cells in ("matched", "shrunk"):
        path = distill(
            settings(folder, random_observer, tmp_path / cells, crops=0, cells=cells)
        ).path
        provenance = load_set(path).provenance
        assert provenance is not None
        for row in provenance.to_pylist():
            width, height = Image.open(folder / row["source"]).size
            box = (row["top"], row["left"], row["height"], row["width"])
            assert box == whole_view_box(height, width, SIDE)


def test_the_manifest_says_how_the_set_is_to_be_seen(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    choices: dict[str, dict[str, Any]] = {
        "matched": {"cells": "matched"},
        "shrunk": {},
        "whole": {"cells": "matched", "factor": 1},
    }
    made = {
        name: load_set(distill(settings(folder, random_observer, tmp_path / name, **choice)).path)
        for name, choice in choices.items()
    }
    assert made["matched"].manifest.views == "dsa"
    reports = {name: (tmp_path / name / "report.html").read_text() for name in made}
    assert "enlarged, a cell comes nearest to its patch" in reports["matched"]
    assert "enlarged, a cell comes nearest" not in reports["shrunk"]
    assert made["shrunk"].manifest.views is None
    assert made["whole"].manifest.views is None
    config = made["shrunk"].manifest.config
    assert config is not None
    assert "cells" not in config  # or sets made before there was a choice could not be resumed
    assert torch.equal(  # of one patch an image there is nothing to match
        made["whole"].images,
        load_set(
            distill(settings(folder, random_observer, tmp_path / "plain", factor=1)).path
        ).images,
    )


def test_a_factor_that_leaves_cells_empty_is_refused(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        PydreamError, match=r"factor 13 divides .* 32 into cells of 3 .*--factor, or shrunken cells"
    ):
        matched(folder, random_observer, tmp_path / "set", factor=13, ipc=1)
    assert not list(tmp_path.glob("set*"))


def test_the_best_preset_stands_for_its_settings(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    best = settings(folder, random_observer, tmp_path / "a", factor=None, preset="best")
    spelt = settings(
        folder, random_observer, tmp_path / "b", factor=2, crops=0, cells="matched", refine=100
    )
    assert best.identity() == spelt.identity()
    assert dataclasses.replace(best, preset="published", factor=1).method == (1, 5, "shrunk", 0)


def test_a_run_by_the_best_preset_makes_the_set_of_its_settings(
    folder: Path, random_observer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = _PRESETS["best"]._replace(refine=2)
    monkeypatch.setitem(_PRESETS, "best", few)
    made = [
        distill(settings(folder, random_observer, tmp_path / "a", factor=None, preset="best")),
        distill(settings(folder, random_observer, tmp_path / "b", **few._asdict())),
    ]
    assert hashes(made[0].path) == hashes(made[1].path)
    assert made[0].manifest.refinement is not None
    assert made[0].manifest.refinement["steps"] == 2


@pytest.mark.parametrize(
    ("preset", "given", "wanted"),
    [
        ("published", {}, (None, 5, "shrunk", 0)),
        ("best", {}, (2, 0, "matched", 100)),
        ("best", {"factor": 3, "crops": 2, "refine": 1}, (3, 2, "matched", 1)),
        ("best", {"crops": 5, "cells": "shrunk", "refine": 0}, (2, 5, "shrunk", 0)),  # as published
        ("published", {"cells": "matched", "refine": 100}, (None, 5, "matched", 100)),
    ],
)
def test_given_values_replace_those_of_the_preset(
    preset: Any, given: dict[str, Any], wanted: tuple[int | None, int, str, int]
) -> None:
    config = RdedConfig("x", "o", preset=preset, **given)
    assert config.method == wanted
    usual = {"cells": "shrunk", "refine": 0}  # left out, as in sets made before there was a choice
    for name, value in zip(("factor", "crops", "cells", "refine"), wanted, strict=True):
        assert config.identity().get(name, usual.get(name)) == value


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(PydreamError, match=r"^preset must be published or best, got 'bset'$"):
        RdedConfig("x", "o", preset="bset")  # type: ignore[arg-type]
