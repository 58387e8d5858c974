from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plain_sets import write_set
from rich.console import Console

from pydream.errors import PydreamError
from pydream.inspection import image_origin, inspect_set, render_inspection, render_origin
from pydream.inspection.facts import SetFacts
from pydream.inspection.origins import CellOrigin, ImageOrigin
from pydream.inspection.realism import SetMeasures
from pydream.sets.distilled import PROVENANCE_SCHEMA, DistilledSet, load_set

MakeSet = Callable[..., DistilledSet]

# Scores are stored as float32.
FLOAT32_ROUNDING = 1e-6


def shown(facts: SetFacts, *, per_class: bool = False) -> str:
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(render_inspection(facts, per_class=per_class))
    return capture.get()


def test_facts_are_those_of_the_set(make_set: MakeSet) -> None:
    distilled = make_set(ipc=2, factor=2)
    facts = json.loads(json.dumps(inspect_set(distilled).as_json()))
    files = sorted(distilled.path.glob("images/*/*"))
    assert facts["bytes"] == sum(len(file.read_bytes()) for file in files)
    assert (facts["format"], facts["method"], facts["seed"]) == (1, "rded", 7)
    assert (facts["classes"], facts["images_per_class"], facts["images"]) == (2, 2, 4)
    scores = [-(10.0 ** -(c + i + k)) for c in range(2) for i in range(2) for k in range(4)]
    assert facts["scores"]["mean"] == pytest.approx(sum(scores) / 16, rel=FLOAT32_ROUNDING)
    assert facts["scores"]["min"] == pytest.approx(min(scores), rel=FLOAT32_ROUNDING)
    assert facts["scores"]["max"] == pytest.approx(max(scores), rel=FLOAT32_ROUNDING)
    assert (facts["scores"]["cells"], facts["scores"]["distinct_sources"]) == (16, 4)
    second = facts["per_class"][1]
    assert (second["name"], second["cells"], second["distinct_sources"]) == ("bee", 8, 2)
    assert second["mean"] == pytest.approx(sum(scores[8:]) / 8, rel=FLOAT32_ROUNDING)
    assert second["min"] == pytest.approx(min(scores[8:]), rel=FLOAT32_ROUNDING)
    assert second["max"] == pytest.approx(max(scores[8:]), rel=FLOAT32_ROUNDING)


@pytest.mark.parametrize(
    ("method", "config", "views", "expected"),
    [
        ("rded", {}, None, ["cells shrunk: a patch is resized"]),
        ("rded", {"cells": "matched"}, "dsa", ["cells matched: .* its patch", "views dsa: enl"]),
        ("dream", {"cells": "matched"}, "dsa", ["matched: .* real image, before", "views dsa"]),
    ],
)
def test_cells_and_views_are_told(
    make_set: MakeSet, method: str, config: dict[str, str], views: Any, expected: list[str]
) -> None:
    distilled = make_set(factor=2)
    described = {"method": method, "config": config, "views": views}
    manifest = dataclasses.replace(distilled.manifest, **described)
    facts = inspect_set(dataclasses.replace(distilled, manifest=manifest))
    text = re.sub(" +", " ", shown(facts))
    assert all(re.search(words, text) for words in expected)
    assert ("\nviews " in text) == (views is not None)
    assert facts.as_json()["cells"] == config.get("cells", "shrunk")
    assert inspect_set(make_set(factor=1)).cells is None


def test_integrity_follows_the_rule(make_set: MakeSet) -> None:
    distilled = make_set()
    digest = hashlib.sha256()
    for name in sorted(
        file.relative_to(distilled.path).as_posix() for file in distilled.path.glob("images/*/*")
    ):
        inner = hashlib.sha256((distilled.path / name).read_bytes()).hexdigest()
        digest.update(name.encode() + b"\0" + inner.encode() + b"\n")
    integrity = inspect_set(distilled).integrity
    assert integrity is not None
    assert integrity.images_sha256 == digest.hexdigest()
    assert integrity.intact


@pytest.mark.parametrize("place", [0, 40, -1])
def test_one_flipped_bit_is_seen(make_set: MakeSet, place: int) -> None:
    distilled = make_set()
    file = distilled.path / "images" / "00001" / "00002.png"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    facts = inspect_set(distilled)
    assert facts.integrity is not None
    assert not facts.integrity.intact
    assert "not those the manifest describes" in shown(facts)


def test_a_renamed_and_a_missing_file_are_seen(make_set: MakeSet) -> None:
    changes: list[Callable[[Path], object]] = [
        lambda file: file.unlink(),
        lambda file: file.rename(file.with_stem("9")),
    ]
    for change in changes:
        distilled = make_set()
        change(distilled.path / "images" / "00000" / "00000.png")
        integrity = inspect_set(distilled).integrity
        assert integrity is not None
        assert not integrity.intact


def test_without_provenance_there_are_no_scores(make_set: MakeSet) -> None:
    facts = inspect_set(make_set(scores=False))
    assert facts.scores is None
    assert facts.per_class is None
    assert "distinct source images" not in shown(facts, per_class=True)


def test_the_terminal_shows_it(make_set: MakeSet) -> None:
    facts = inspect_set(make_set(["[bold]ant", "bee"], skipped=[{"key": "a", "reason": "b"}]))
    text = shown(facts)
    for words in ("2 classes x 3", "insects.zip", "87.5% of 64", "1 source images", "intact"):
        assert words in text
    assert "bee" not in text
    table = shown(facts, per_class=True)
    assert "[bold]ant" in table
    assert "bee" in table


def test_measures_are_shown_as_given(make_set: MakeSet, measures: SetMeasures) -> None:
    facts = inspect_set(make_set(), measures)
    assert facts.measures == measures
    assert facts.as_json()["measures"] == dataclasses.asdict(measures)
    lines = {line.split("  ")[0]: line.split() for line in shown(facts).splitlines()}
    assert lines["realism"][1:3] == ["−0.051", "−0.77"]
    assert lines["realism of patches"][3:4] == ["−0.42"]
    assert lines["right class likeliest"][3:5] == ["97.5%", "81.2%"]
    assert lines["distance from real images"][4:6] == ["12.25", "11.75"]
    assert lines["effective sources"][2:3] == ["4.0"]
    assert lines["bytes of labels"][3:5] == ["5.0", "MiB"]
    assert "1200 real samples of 2 classes" in shown(facts)


def test_measures_without_an_observer(make_set: MakeSet, measures: SetMeasures) -> None:
    only_bytes = SetMeasures(measures.images_bytes, measures.labels_bytes, None)
    text = shown(inspect_set(make_set(scores=False), only_bytes))
    assert "bytes of labels" in text
    for words in ("realism", "random real", "effective sources", "None"):
        assert words not in text


def test_the_origin_of_an_image(make_set: MakeSet) -> None:
    distilled = make_set(["ant", "bee/wasp"], factor=2)
    origin = image_origin(distilled, "bee/wasp/2")
    assert (origin.class_name, origin.image) == ("bee/wasp", 2)
    assert origin.file == str(distilled.path / "images" / "00001" / "00002.png")
    assert [cell.cell for cell in origin.cells] == [0, 1, 2, 3]
    assert [cell.source for cell in origin.cells] == ["1/0.jpg", "1/1.jpg"] * 2
    scores = [cell.score for cell in origin.cells]
    assert scores == pytest.approx([-1e-3, -1e-4, -1e-5, -1e-6], rel=FLOAT32_ROUNDING)
    content = json.loads(json.dumps(origin.as_json()))
    assert list(content) == ["class", "image", "file", "cells"]
    assert content["class"] == "bee/wasp"
    assert content["cells"][3] == dataclasses.asdict(origin.cells[3])
    names = ["cell", "source", "top", "left", "height", "width", "score"]
    assert list(content["cells"][0]) == names


def test_an_origin_is_shown_as_a_table() -> None:
    origin = ImageOrigin(
        class_name="ant",
        image=0,
        file="images/00000/00000.png",
        cells=[
            CellOrigin(0, "[red]", top=3, left=40, height=17, width=18, score=-0.001),
            CellOrigin(1, "1/1.jpg", top=None, left=None, height=None, width=None, score=None),
        ],
    )
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render_origin(origin))
    title, _, first, second = capture.get().splitlines()
    assert title.strip() == "images/00000/00000.png"
    assert first.split() == ["0", "[red]", "18", "×", "17", "at", "40,", "3", "−0.001"]
    assert second.split() == ["1", "1/1.jpg", "whole"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ant", "no class ''; give --image CLASS/INDEX, as ant/0"),
        ("wasp/0", "no class 'wasp'"),
        ("ant/3", "no image '3' of ant; give 0 to 2"),
        ("ant/-1", "no image '-1'"),
        ("ant/", "no image ''"),
    ],
)
def test_an_image_that_is_not_there(make_set: MakeSet, name: str, words: str) -> None:
    with pytest.raises(PydreamError, match=re.escape(words)):
        image_origin(make_set(), name)


def test_an_origin_that_is_not_known(make_set: MakeSet) -> None:
    with pytest.raises(PydreamError, match="no provenance"):
        image_origin(make_set(scores=False), "ant/0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class": 2}, "row 4 is of cell 0 of image 1 of class 2, which the set does not have"),
        ({"class": -1}, "which the set does not have"),
        ({"image": 3}, "which the set does not have"),
        ({"cell": 4}, "which the set does not have"),
        ({"source": None}, "it has empty entries"),
        ({"score": float("inf")}, "a score is not a number"),
    ],
    ids=str,
)
def test_a_provenance_of_other_images_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = write_set(tmp_path / "set", ipc=3, factor=2).path / "provenance.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[4] |= changes
    pq.write_table(pa.Table.from_pylist(rows, PROVENANCE_SCHEMA), file)
    with pytest.raises(PydreamError, match=rf"provenance\.parquet: .*{message}"):
        load_set(tmp_path / "set")


def test_a_table_that_is_no_provenance_is_refused(tmp_path: Path) -> None:
    file = write_set(tmp_path / "set").path / "provenance.parquet"
    whole = pq.read_table(file)
    for table in (
        whole.drop(["class"]),
        whole.slice(0, 0),
        whole.set_column(0, "class", [["x"] * 6]),
    ):
        pq.write_table(table, file)
        with pytest.raises(PydreamError, match=r"provenance\.parquet: not the provenance of a set"):
            load_set(tmp_path / "set")
