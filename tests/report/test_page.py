from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pydream.errors import PydreamError
from pydream.formatting import byte_words, score_words
from pydream.inspection.realism import SetMeasures
from pydream.report import render_report, write_report
from pydream.report.plots import score_histogram
from pydream.sets.distilled import DistilledSet

MakeSet = Callable[..., DistilledSet]
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Reads a page: its elements, its text, and that every element is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_tells_what_the_set_is(make_set: MakeSet) -> None:
    skipped = [{"key": "bee/9.jpg", "reason": "truncated"}]
    text = Page(render_report(make_set(factor=2, skipped=skipped))).text
    for words in (
        "RDED: 2 classes × 3 images",
        "Distilled from insects.zip",
        "convnet3, float32",
        "87.5% of 64 images (test split)",
        "f" * 64,
        "Seed 7",
        "24 patches, from 4 distinct source images",
        "bee/9.jpg truncated",
        "pydream evaluate",
        "pydream-distill 1.2.3",
    ):
        assert words in text, words


def test_nothing_is_loaded_from_elsewhere(make_set: MakeSet) -> None:
    html = render_report(make_set(side=80))
    page = Page(html)
    loads = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
    ]
    assert loads
    assert all(value is not None and value.startswith(("data:", "#")) for value in loads)
    assert not page.all("script")
    assert "url(" not in re.sub(r"url\(#", "", html)
    assert "@import" not in html


def test_hostile_names_are_text(make_set: MakeSet) -> None:
    hostile = "<script>alert(1)</script>\" onload='x"
    distilled = make_set(
        [hostile, "{{ 7 * 7 }}", "bad\udcffbyte"], skipped=[{"key": hostile, "reason": hostile}]
    )
    assert distilled.manifest.source is not None
    distilled.manifest.source["description"] = hostile
    html = render_report(distilled)
    html.encode()
    page = Page(html)
    assert not page.all("script")
    assert all("onload" not in attributes for _, attributes in page.elements)
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert "{{ 7 * 7 }}" in page.text


def test_same_set_same_bytes(make_set: MakeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_set(), make_set()
    assert first.path != second.path
    expected = render_report(first)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 33)
    assert render_report(second) == expected
    written: list[dict[str, bytes]] = [{}, {}]
    for files, distilled in zip(written, (first, second), strict=True):

        def write(path: Path, data: bytes, files: dict[str, bytes] = files) -> None:
            files[path.name] = data

        write_report(distilled, write)
    assert written[0] == written[1]
    assert written[0].keys() == {"contact_sheet.png", "report.html"}
    assert str(first.path) not in expected
    assert not re.search(r"\b20[2-9]\d-\d\d-\d\d", expected)


def test_a_set_without_provenance_has_no_scores(make_set: MakeSet) -> None:
    page = Page(render_report(make_set(scores=False)))
    assert not page.all("svg")
    assert "Realism scores" not in page.text
    assert len(page.all("img")) == 6


def test_measures_stand_beside_those_of_random_images(
    make_set: MakeSet, measures: SetMeasures
) -> None:
    distilled = make_set()
    assert "Realism and diversity" not in Page(render_report(distilled)).text
    text = Page(render_report(distilled, measures)).text
    for words in (
        "As resnet18 sees them.",
        "random real images of insects.zip; 1,200 other real images of 2 classes",
        "Measure This set Random real",
        "0 is best −0.051 −0.77",
        "97.5% 81.2%",
        "5.0 MiB",
    ):
        assert words in text, words
    alone = dataclasses.replace(measures, random_real=None, real=None)
    text = Page(render_report(distilled, alone)).text
    assert "0 is best −0.051 Realism of patches" in text
    assert "Measure This set Realism" in text


def test_sources_are_listed_below_each_class(make_set: MakeSet) -> None:
    html = render_report(make_set(factor=2))
    lists = [Page(block) for block in re.findall(r"<details>.*?</details>", html, re.DOTALL)]
    assert len(lists) == 2
    for page in lists:
        assert (len(page.all("dt")), len(page.all("dd"))) == (3, 12)
    assert "00002 1/0.jpg: 0 × 0 at 0, 0, score −0.001 1/1.jpg" in lists[1].text
    assert not Page(render_report(make_set(scores=False))).all("details")


def test_lists_of_sources_are_bounded(make_set: MakeSet) -> None:
    distilled = make_set(["ant"], ipc=1, factor=5)
    assert distilled.provenance is not None
    rows = distilled.provenance.to_pylist()
    for row in rows:
        row["source"] = "a/" * 500 + f"{row['cell']}.jpg"
    rows[0] |= dict.fromkeys(("top", "left", "height", "width", "score"))
    provenance = pa.Table.from_pylist(rows, distilled.provenance.schema)
    html = render_report(dataclasses.replace(distilled, provenance=provenance))
    page = Page(html[html.index("<details>") : html.index("</details>") + len("</details>")])
    assert len(page.all("dd")) == 17
    assert "and 9 more patches" in page.text
    assert re.search(r"…/?(a/)+0\.jpg: whole …", page.text)
    assert max(map(len, page.text.split())) < 100


@pytest.mark.parametrize(
    ("classes", "ipc", "side", "shown", "note"),
    [
        (1, 1, 7, 1, "Click"),
        (2, 15, 16, 20, "10 of 15 images of each class."),
        (300, 2, 1, 600, "Click"),
        (801, 1, 1, 800, "800 of 801 classes, evenly chosen."),
        (26, 5, 400, 100, "25 of 26 classes, evenly chosen. 4 of 5 images of each class."),
    ],
)
def test_how_many_pictures_are_shown(
    make_set: MakeSet, classes: int, ipc: int, side: int, shown: int, note: str
) -> None:
    page = Page(render_report(make_set([f"c{i}" for i in range(classes)], ipc=ipc, side=side)))
    assert len(page.all("img")) == shown
    assert note in page.text


def test_write_report_writes_beside_the_manifest(make_set: MakeSet) -> None:
    distilled = make_set()
    written: dict[Path, bytes] = {}
    write_report(distilled, written.__setitem__)
    assert {path.relative_to(distilled.path).as_posix() for path in written} == {
        "contact_sheet.png",
        "report.html",
    }
    assert written[distilled.path / "report.html"].decode() == render_report(distilled)
    sheet = Image.open(io.BytesIO(written[distilled.path / "contact_sheet.png"]))
    sheet.load()
    assert sheet.format == "PNG"


@pytest.mark.parametrize(
    "scores",
    [[0.0], [-1.0], [-0.5] * 9, [-1e-7, -12.0], [-1e-30], [-100.0, -0.001], [-0.0, -1e-3]],
)
def test_every_score_is_in_the_histogram(scores: list[float]) -> None:
    svg = score_histogram(np.array(scores, dtype=np.float32))
    page = Page(svg)
    assert page.elements[0][0] == "svg"
    assert f"of {len(scores)} patches" in str(page.elements[0][1]["aria-label"])
    assert page.text.count("patches") == 1  # the axis; the tallest bar names the top tick
    assert "nan" not in svg


def test_histogram_counts_agree_with_numpy() -> None:
    scores = -np.array([0.2] * 5 + [0.02] * 3 + [0.002] * 1)
    svg = score_histogram(scores)
    outline = re.search(r'<path d="([^"]*)"[^>]*style="fill: var\(--accent\)', svg)
    assert outline is not None
    heights = {float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", outline[1])}
    base = max(heights)
    ratios = sorted((base - height) for height in heights if height < base)
    assert np.allclose(np.array(ratios) / ratios[0], [1, 3, 5], rtol=1e-4)  # six digits in SVG


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**31, "2.0 GiB"),
    ],
)
def test_byte_words(count: int, words: str) -> None:
    assert byte_words(count) == words


@pytest.mark.parametrize(
    ("score", "words"),
    [(0.0, "0"), (-0.0, "0"), (-0.5, "−0.5"), (-1.26e-6, "−1.3e-06"), (-12.34, "−12")],
)
def test_score_words(score: float, words: str) -> None:
    assert score_words(score) == words


@pytest.mark.parametrize("missing", ["config", "observer", "source"])
def test_a_manifest_without_what_a_page_shows_is_refused(make_set: MakeSet, missing: str) -> None:
    distilled = make_set()
    changed: dict[str, Any] = {missing: {}}
    manifest = dataclasses.replace(distilled.manifest, **changed)
    with pytest.raises(PydreamError, match="its manifest lacks an entry"):
        render_report(dataclasses.replace(distilled, manifest=manifest))
