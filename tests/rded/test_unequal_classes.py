"""A set with other numbers of images for some classes, through all that reads it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from rded_runs import hashes, settings
from rich.console import Console

from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, relabel
from pydream.evaluate.baselines import Baselines
from pydream.inspection.facts import inspect_set, render_inspection
from pydream.inspection.origins import image_origin
from pydream.inspection.realism import measure_set
from pydream.models import load_observer
from pydream.rded import RdedConfig, distill
from pydream.sets import ExportConfig, export_set
from pydream.sets.config import Layout
from pydream.sets.distilled import load_set
from pydream.sets.imported import open_distilled
from pydream.students.stored_labels import StoredLabels

COUNTS = (3, 1, 2, 1, 1, 5, 1, 1, 1, 2)  # of the digits
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)]


@pytest.fixture(scope="module")
def unequal(digits_observer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unequal")
    lines = [f"{label},{count}" for label, count in enumerate(COUNTS)]
    (folder / "counts.csv").write_text("digit,images\n" + "\n".join(lines))
    config = RdedConfig(
        source="digits",
        observer=str(digits_observer),
        out=folder / "set",
        ipc=str(folder / "counts.csv"),
        factor=2,
        preselect=20,
    )
    return distill(config).path


def test_every_class_is_as_in_a_set_of_its_own_count(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    (tmp_path / "counts.json").write_text('{"dog": 2, "ant": 1, "bee": 2, "cat": 1}')
    ipc = str(tmp_path / "counts.json")
    found = distill(settings(folder, random_observer, tmp_path / "set", ipc=ipc))
    for count, labels in ((1, (0, 2)), (2, (1, 3))):
        equal = distill(settings(folder, random_observer, tmp_path / f"ipc{count}", ipc=count))
        rows = pq.read_table(equal.path / "provenance.parquet").to_pylist()
        for label in labels:
            name = f"images/{label:05d}"
            assert hashes(found.path / name) == hashes(equal.path / name)
            own = pq.read_table(found.path / "provenance.parquet").to_pylist()
            assert [row for row in own if row["class"] == label] == [
                row for row in rows if row["class"] == label
            ]
    assert found.manifest.as_json()["images_per_class"] == [1, 2, 1, 2]
    assert found.manifest.config is not None
    assert found.manifest.config["ipc"] == {"ant": 1, "bee": 2, "cat": 1, "dog": 2}
    Path(ipc).write_text('{"dog": 1, "ant": 1, "bee": 3, "cat": 1}')
    few = settings(folder, random_observer, tmp_path / "few", ipc=ipc)
    with pytest.raises(PydreamError, match=r"bee has 11 .* fit: 2 images of it with --factor 2 or"):
        distill(few)
    Path(ipc).write_text('{"dog": 2, "ant": 1, "bee": 2, "cat": 1}')
    resumed = settings(folder, random_observer, tmp_path / "set", ipc=ipc, resume=True)
    assert distill(resumed).manifest == found.manifest
    Path(ipc).write_text('{"dog": 2, "ant": 1, "bee": 1, "cat": 2}')
    with pytest.raises(PydreamError, match=r"ipc: bee 2 then, 1 now and 1 more"):
        distill(resumed)


def test_a_file_of_equal_counts_gives_the_set_of_that_number(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    (tmp_path / "counts.txt").write_text("ant 2\nbee 2\ncat 2\ndog 2\n")
    given = settings(folder, random_observer, tmp_path / "a", ipc=str(tmp_path / "counts.txt"))
    number = settings(folder, random_observer, tmp_path / "b", ipc=2)
    assert hashes(distill(given).path) == hashes(distill(number).path)


def test_proportional_counts_follow_the_classes(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    for file in sorted((folder / "bee").iterdir())[4:]:
        file.unlink()
    given: dict[str, Any] = {"ipc": "proportional:2", "factor": 1}
    result = distill(settings(folder, random_observer, tmp_path / "set", **given))
    # Eight over 37 images: 2.38 of eleven, 0.86 of four; so one of these, 7/3 of the others.
    assert result.manifest.class_counts == (3, 1, 2, 2)
    assert len(list((result.path / "images" / "00000").iterdir())) == 3


def test_manifest_files_and_provenance_agree(unequal: Path) -> None:
    distilled = load_set(unequal)
    assert distilled.manifest.images_per_class == distilled.manifest.class_counts == COUNTS
    assert distilled.labels.tolist() == LABELS
    assert distilled.provenance is not None
    patches = Counter(distilled.provenance["class"].to_pylist())
    assert patches == {label: 4 * count for label, count in enumerate(COUNTS)}
    (unequal / "images" / "00005" / "00004.png").rename(unequal / "away")
    with pytest.raises(PydreamError, match="promises 5 images of class 5, but its folder holds 4"):
        load_set(unequal)
    (unequal / "away").rename(unequal / "images" / "00005" / "00004.png")


def test_a_manifest_with_too_few_numbers(unequal: Path) -> None:
    text = (unequal / "manifest.json").read_text()
    content = json.loads(text)
    assert content["images_per_class"].pop() == COUNTS[-1]
    (unequal / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(PydreamError, match="9 numbers of images for 10 classes"):
        load_set(unequal)
    (unequal / "manifest.json").write_text(text)


def test_inspect_and_report_tell_the_range(unequal: Path, digits_observer: Path) -> None:
    distilled = load_set(unequal)
    observer = load_observer(digits_observer)
    measures = measure_set(distilled, observer, open_source("digits"), most_real=5)
    assert measures.real is not None
    assert (measures.real.classes, measures.real.samples) == (10, 50)
    facts = inspect_set(distilled, measures)
    assert facts.images == 18
    assert facts.per_class is not None
    assert [row.scores.cells for row in facts.per_class] == [4 * count for count in COUNTS]
    with Console(width=200).capture() as _:
        console = Console(width=200, record=True)
        console.print(render_inspection(facts, per_class=True))
    assert "18: 10 classes x 1 to 5, 8 pixels a side" in console.export_text()
    page = (unequal / "report.html").read_text()
    assert "10 classes × 1 to 5 images" in page
    assert "5, image 5 of 5" in page
    assert "1, image 1 of 1" in page


def test_the_origin_of_an_image_is_that_of_its_file(unequal: Path) -> None:
    distilled = load_set(unequal)
    origin = image_origin(distilled, "9/1")
    assert origin.file == str(unequal / "images" / "00009" / "00001.png")
    assert distilled.provenance is not None
    wanted = [
        row["source"]
        for row in distilled.provenance.to_pylist()
        if (row["class"], row["image"]) == (9, 1)
    ]
    assert [cell.source for cell in origin.cells] == wanted
    with pytest.raises(PydreamError, match=r"no image '1' of 1; give 0 to 0"):
        image_origin(distilled, "1/1")


@pytest.mark.parametrize("name", ["random", "herding", "k-centre", "random-tiled"])
def test_baselines_have_the_counts_of_the_set(
    unequal: Path, digits_observer: Path, name: str
) -> None:
    images = Baselines(
        open_source("digits"),
        load_set(unequal).manifest.class_counts,
        8,
        factor=2,
        observer=load_observer(digits_observer),
        workers=1,
    ).images(name, seed=0)
    assert images.labels.tolist() == LABELS
    assert len(torch.unique(images.images.flatten(1), dim=0)) == len(LABELS)


def test_evaluate_and_relabel(unequal: Path, digits_observer: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"observer": str(digits_observer), "epochs": 2}
    relabel(RelabelConfig(set=unequal, **common))
    config = EvaluateConfig(
        set=unequal,
        labels=("stored", "online"),
        baselines=("random", "herding"),
        workers=1,
        out=tmp_path / "results",
        **common,
    )
    result = evaluate_set(config)
    rows = {(row.labels, row.images): row.image_count for row in result.rows}
    assert rows == {
        ("stored", "distilled"): 18,
        ("online", "distilled"): 18,
        ("online", "random"): 18,
        ("online", "herding"): 18,
    }
    assert StoredLabels(load_set(unequal), 0).plan is not None


@pytest.mark.parametrize("layout", ["tensors", "rded", "cim"])
def test_an_export_opens_as_the_set(unequal: Path, tmp_path: Path, layout: Layout) -> None:
    export_set(ExportConfig(set=unequal, to=layout, out=tmp_path / "out"))
    opened, distilled = open_distilled(tmp_path / "out"), load_set(unequal)
    assert opened.labels.tolist() == LABELS
    assert torch.equal(opened.images, distilled.images)
    assert opened.manifest.images_per_class == COUNTS


def test_dd_ranking_has_no_such_sets(unequal: Path, digits_observer: Path, tmp_path: Path) -> None:
    config = ExportConfig(
        set=unequal, to="ddranking", out=tmp_path / "out", observer=str(digits_observer)
    )
    with pytest.raises(PydreamError, match=r"as many images of every class, .* 1 to 5: export"):
        export_set(config)
    with pytest.raises(PydreamError, match="CV-DD takes sets with as many images of every class"):
        export_set(ExportConfig(set=unequal, to="patches", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
