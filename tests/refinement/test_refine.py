from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rded_runs import hashes, settings, stopped_after, write_random_observer
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch_states import all_states

from pydream.data import open_source
from pydream.dream import DreamConfig
from pydream.dream import distill as distil_by_matching
from pydream.errors import PydreamError
from pydream.inspection.facts import inspect_set, render_inspection
from pydream.models import build_model
from pydream.ops import crop_resize, multi_formation
from pydream.rded import RdedConfig, distill
from pydream.refinement import RefineConfig, refine
from pydream.refinement.steps import Refined, Refiner
from pydream.sets.distilled import load_set

STEPS = 3


def refined(unrefined: Path, observer: Path, out: Path, *others: Path, **changes: Any) -> Path:
    observers = tuple(map(str, (observer, *others)))
    given: dict[str, Any] = {"observer": observers, "steps": STEPS, "out": out, **changes}
    return refine(RefineConfig(set=unrefined, **given)).path


def test_a_refined_set_is_whole_and_says_what_it_is(
    unrefined: Path, observer: Path, tmp_path: Path
) -> None:
    path = refined(unrefined, observer, tmp_path / "refined")
    before, after = load_set(unrefined), load_set(path)
    assert after.images.shape == before.images.shape
    assert not torch.equal(after.images, before.images)
    assert after.provenance == before.provenance
    manifest = after.manifest
    assert manifest.views == "dsa"
    assert manifest.method == "rded"
    assert manifest.observer == before.manifest.observer
    assert manifest.refinement is not None
    assert manifest.refinement["steps"] == len(manifest.refinement["loss"]) == STEPS
    assert manifest.refinement["layers"] == ["layers.pool.0"]
    assert {*manifest.refinement["distances"]} == {"unrefined", "refined", "rounded"}
    console = Console(file=io.StringIO(), width=200)
    console.print(render_inspection(inspect_set(after)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"refined +3 steps by the features of layers.pool.0 of convnet2-w16", shown)
    assert re.search(r"distance +\S+ before, \S+ after, \S+ in 8 bits", shown)
    assert not (tmp_path / "refined.partial").exists()
    values, labels = torch.load(path / "images.pt", weights_only=True)
    assert labels.tolist() == after.labels.tolist()
    levels = after.images.permute(0, 3, 1, 2).float()
    assert (values * 255 - levels).abs().max() <= 0.5001  # rounded to the nearest level


def test_the_report_shows_anchors_beside_refined_images(
    unrefined: Path, observer: Path, tmp_path: Path
) -> None:
    page = (refined(unrefined, observer, tmp_path / "refined") / "report.html").read_text()
    assert "3 steps by the features of layers.pool.0 of convnet2-w16" in page
    found = re.findall(r'base64,([^"]*)" [^>]*alt="(anchors|unrefined|refined), image (\d)"', page)
    assert [(name, number) for _, name, number in found] == [
        (name, str(number))
        for name in ("anchors", "unrefined", "refined")
        for number in range(1, 5)
    ]
    shown = {
        (name, int(number)): np.array(Image.open(io.BytesIO(base64.b64decode(data))))
        for data, name, number in found
    }
    before = load_set(unrefined)
    rows = [row for row in before.provenance.to_pylist() if row["image"] == 0]  # type: ignore[union-attr]
    for label in range(4):
        assert (shown["unrefined", label + 1] == before.images[2 * label].numpy()).all()
        anchors = shown["anchors", label + 1]
        assert anchors.shape == (64, 64, 3)
        for row in (row for row in rows if row["class"] == label):
            picture = Image.open(tmp_path / "pictures" / row["source"]).convert("RGB")
            box = torch.tensor([[row["top"], row["left"], row["height"], row["width"]]])
            anchor = crop_resize([torch.from_numpy(np.array(picture))], box, 32, dtype=torch.uint8)
            top, left = 32 * (row["cell"] // 2), 32 * (row["cell"] % 2)
            part = anchors[top : top + 32, left : left + 32]
            assert (part == anchor[0].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("cells", ["matched", "shrunk"])
@pytest.mark.parametrize("match", ["features", "features+gradients"])
def test_rded_with_a_refinement_is_rded_and_then_a_refinement(
    folder: Path, observer: Path, tmp_path: Path, cells: str, match: str
) -> None:
    of_one_run = distill(
        settings(folder, observer, tmp_path / "one", cells=cells, refine=STEPS, match=match)
    ).path
    first = distill(settings(folder, observer, tmp_path / "first", cells=cells)).path
    of_two = refined(first, observer, tmp_path / "two", match=match)
    differing = {
        name for name, of_file in hashes(of_one_run).items() if hashes(of_two).get(name) != of_file
    }
    assert differing <= {"manifest.json", "report.html"}  # which tell the settings
    manifests = [load_set(path).manifest for path in (of_one_run, of_two)]
    assert manifests[0].refinement == manifests[1].refinement
    assert manifests[0].views == manifests[1].views == "dsa"


@pytest.mark.parametrize(
    ("classes", "match"), [(0, "features"), (1, "features+gradients"), (3, "features")]
)
def test_a_stopped_refinement_goes_on_to_the_same_bytes(
    unrefined: Path, observer: Path, tmp_path: Path, classes: int, match: str
) -> None:
    usual = hashes(refined(unrefined, observer, tmp_path / "usual", match=match))
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, classes)
        with pytest.raises(KeyboardInterrupt):
            refined(unrefined, observer, tmp_path / "again", match=match)
    path = refined(unrefined, observer, tmp_path / "again", match=match, resume=True)
    assert hashes(path) == usual
    again = refined(unrefined, observer, path, match=match, resume=True)  # finished already
    assert hashes(again) == usual


def test_gradients_change_the_set_and_are_named(
    unrefined: Path, observer: Path, tmp_path: Path
) -> None:
    usual = refined(unrefined, observer, tmp_path / "usual")
    path = refined(unrefined, observer, tmp_path / "other", match="features+gradients")
    first = "images/00000/00000.png"
    assert hashes(path)[first] != hashes(usual)[first]
    for made, match in ((usual, "features"), (path, "features+gradients")):
        record = load_set(made).manifest.refinement
        assert record is not None
        assert record["match"] == match
    page = (path / "report.html").read_text()
    words = (
        "3 steps by the features of layers.pool.0 of convnet2-w16, and by class means and gradients"
    )
    assert words in page


def test_a_stopped_run_of_rded_goes_on_to_the_same_bytes(
    folder: Path, observer: Path, tmp_path: Path
) -> None:
    def run(name: str, **changes: Any) -> dict[str, str]:
        given = {"cells": "matched", "refine": STEPS, **changes}
        return hashes(distill(settings(folder, observer, tmp_path / name, **given)).path)

    usual = run("usual")
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run("again")
    assert run("again", resume=True) == usual
    assert run("organised otherwise", batch_size=1, workers=1, memory_budget=1) == usual


def test_the_state_of_torch_does_not_matter(
    unrefined: Path, observer: Path, tmp_path: Path
) -> None:
    usual = hashes(refined(unrefined, observer, tmp_path / "usual"))
    with all_states():
        found = refined(unrefined, observer, tmp_path / "other", workers=1)
    assert hashes(found) == usual


def test_a_factor_that_does_not_divide_the_side_and_several_observers(
    folder: Path, observer: Path, tmp_path: Path
) -> None:
    unrefined = distill(
        settings(folder, observer, tmp_path / "set", cells="matched", factor=3, ipc=1)
    ).path
    other = write_random_observer(tmp_path / "other.safetensors", seed=4)
    path = refined(unrefined, observer, tmp_path / "refined", other)
    record = load_set(path).manifest.refinement
    assert record is not None
    assert len({facts["weights_sha256"] for facts in record["observers"]}) == 2
    assert record["layers"] == ["layers.pool.0"] * 2
    alone = refined(unrefined, observer, tmp_path / "alone")
    assert hashes(alone)["images/00000/00000.png"] != hashes(path)["images/00000/00000.png"]


def test_unequal_classes(folder: Path, observer: Path, tmp_path: Path) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("ant,1\nbee,2\ncat,1\ndog,2\n")
    path = distill(
        settings(folder, observer, tmp_path / "set", cells="matched", ipc=str(counts), refine=1)
    ).path
    assert load_set(path).labels.tolist() == [0, 1, 1, 2, 3, 3]


def test_anchors_are_the_crops_of_the_provenance(
    monkeypatch: pytest.MonkeyPatch, unrefined: Path, observer: Path, tmp_path: Path
) -> None:
    """Matched cells, enlarged, correlate more with their anchors than with those of other cells."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    whole = Refiner.__call__

    def note(
        refiner: Refiner, images: torch.Tensor, anchors: torch.Tensor, labels: list[int]
    ) -> Refined:
        seen.append((images, anchors))
        return whole(refiner, images, anchors, labels)

    monkeypatch.setattr(Refiner, "__call__", note)
    refined(unrefined, observer, tmp_path / "refined")
    for images, anchors in seen:
        cells = multi_formation(images.float() / 255, 2, 32).flatten(1)
        both = torch.cat([cells, anchors.flatten(0, 1).flatten(1).float() / 255])
        alike = torch.corrcoef(both)[: len(cells), len(cells) :]
        assert alike.argmax(dim=1).tolist() == list(range(len(cells)))


def test_a_set_of_dream_is_refined_towards_whole_images(tmp_path: Path) -> None:
    digits = open_source("digits")
    unrefined = distil_by_matching(
        DreamConfig(
            source="digits",
            arch="convnet2-w8",
            iterations=1,
            inner_loop=1,
            ipc=1,
            factor=2,
            eval_every=0,
            batch_real=8,
            network_epochs=0,
            out=tmp_path / "dream",
        ),
        source=digits,
    ).path
    torch.manual_seed(0)
    model = build_model("convnet2-w8", num_classes=10, side=8)
    config = RefineConfig(
        set=unrefined, observer=("mine",), steps=2, out=tmp_path / "refined", source="digits"
    )
    result = refine(config, source=digits, observers=[model])
    assert result.manifest.method == "dream"
    assert result.manifest.refinement is not None
    assert result.manifest.history == load_set(unrefined).manifest.history


def refused(words: str, unrefined: Path, observer: Path, out: Path, **changes: Any) -> None:
    with pytest.raises(PydreamError) as told:
        refined(unrefined, observer, out, **changes)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert not out.exists()


def test_what_cannot_be_refined_is_named(
    folder: Path, unrefined: Path, observer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = distill(settings(folder, observer, tmp_path / "whole", factor=1)).path
    refused("one cell in each image (factor 1)", whole, observer, out)
    again = refined(unrefined, observer, tmp_path / "refined")
    refused("has been refined already, in 3 steps", again, observer, out)
    refused("has no layer 9", unrefined, observer, out, layer="9")
    strange = write_random_observer(tmp_path / "strange.safetensors", num_classes=5)
    refused("5 classes", unrefined, strange, out)
    (unrefined / "provenance.parquet").rename(tmp_path / "provenance.parquet")
    refused("so its cells have no anchors", unrefined, observer, out)


def test_real_images_that_changed_are_named(
    folder: Path, unrefined: Path, observer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rows = pq.read_table(unrefined / "provenance.parquet").to_pylist()
    file = folder / rows[0]["source"]
    usual = file.read_bytes()

    def finds(words: str) -> None:
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
        refused(words, unrefined, observer, out)

    picture = Image.open(file)
    picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(file)
    finds("no longer look like")
    Image.new("RGB", (rows[0]["left"] + 1, rows[0]["top"] + 1)).save(file)
    finds("fewer than the crop")
    file.write_bytes(b"no picture")
    finds("cannot be read")
    file.unlink()
    finds(f"no longer has {rows[0]['source']}")
    file.write_bytes(usual)
    shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
    assert refined(unrefined, observer, out).is_dir()


def test_resuming_with_other_settings_is_refused(
    unrefined: Path, observer: Path, tmp_path: Path
) -> None:
    path = refined(unrefined, observer, tmp_path / "refined")
    with pytest.raises(PydreamError, match="made with other settings"):
        refined(unrefined, observer, path, steps=STEPS + 1, resume=True)


def test_resuming_with_other_inputs_is_refused(
    folder: Path, unrefined: Path, tmp_path: Path
) -> None:
    """The real images, the crops of them, and what stands beside the weights in their file."""
    observer = write_random_observer(tmp_path / "other.safetensors", seed=5)
    path = refined(unrefined, observer, tmp_path / "refined")
    with safe_open(observer, "pt") as opened:
        facts = opened.metadata()
    whole = observer.read_bytes()
    save_file(load_file(observer), observer, {**facts, "mean": "0.5,0.1,0.9"})
    with pytest.raises(PydreamError, match=r"refined: observers: 1: mean .* now"):
        refined(unrefined, observer, path, resume=True)
    observer.write_bytes(whole)
    file = folder / pq.read_table(unrefined / "provenance.parquet")["source"][0].as_py()
    photograph = file.read_bytes()
    file.write_bytes(photograph + b"more")
    with pytest.raises(PydreamError, match="refined: anchors"):
        refined(unrefined, observer, path, resume=True)
    file.write_bytes(photograph)
    table = pq.read_table(unrefined / "provenance.parquet")
    shifted = table.set_column(table.schema.get_field_index("left"), "left", table["top"])
    pq.write_table(shifted, unrefined / "provenance.parquet")
    with pytest.raises(PydreamError, match="refined: anchors"):
        refined(unrefined, observer, path, resume=True)


def test_settings_of_a_refinement_without_one_are_refused(observer: Path) -> None:
    for settings_alone in ({"layer": "1"}, {"learning_rate": 0.1}):
        with pytest.raises(PydreamError, match="for the refinement: give refine, too"):
            RdedConfig(source="x", observer=str(observer), **settings_alone)
    with pytest.raises(PydreamError, match="learning_rate must be above 0"):
        RefineConfig(set=Path("x"), observer=("y",), learning_rate=0)
    with pytest.raises(PydreamError, match="steps must be at least 1"):
        RefineConfig(set=Path("x"), observer=("y",), steps=0)


def test_the_home_folder_is_found_in_the_names_of_observers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = RefineConfig(set=Path("x"), observer=("~/a.pt", "b.pt"))
    assert config.observer == (str(tmp_path / "a.pt"), "b.pt")
    with pytest.raises(PydreamError, match="observer must differ"):
        RefineConfig(set=Path("x"), observer=("~/a.pt", str(tmp_path / "a.pt")))


def test_a_set_without_a_refinement_is_found_again(folder: Path, observer: Path) -> None:
    """The settings of a refinement are no part of what older sets were made by."""
    names = json.dumps(settings(folder, observer, Path("out")).identity())
    assert not {"refine", "layer", "learning_rate"} & json.loads(names).keys()


def test_factor_one_has_nothing_to_refine(folder: Path, observer: Path, tmp_path: Path) -> None:
    with pytest.raises(PydreamError, match="factor 1 has no cells: give --factor 2"):
        distill(settings(folder, observer, tmp_path / "out", factor=1, refine=1))
