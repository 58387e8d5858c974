from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pydream.inspection.realism import SetMeasures
from pydream.report import render_report
from pydream.sets.distilled import DistilledSet

MakeSet = Callable[..., DistilledSet]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
PHONE = 390

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on PATH")

# The page stands in a frame, since a window may not be as narrow as a phone. First as it is, then
# with everything open that can be opened.
AROUND = """<!DOCTYPE html><meta charset="utf-8">
<iframe style="border: 0; width: WIDTHpx; height: 844px" srcdoc="PAGE"></iframe>
<output></output>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement, found = {};
  found.width = frame.contentWindow.innerWidth;
  found.closed = root.scrollWidth;
  page.querySelectorAll("details").forEach(each => { each.open = true; });
  page.querySelectorAll("input").forEach(each => { each.checked = true; });
  found.open = root.scrollWidth;
  found.details = page.querySelectorAll("details").length;
  found.pictures = [...page.images].filter(each => each.naturalWidth > 0).length;
  found.requests = frame.contentWindow.performance.getEntriesByType("resource")
    .map(each => each.name).filter(each => !each.startsWith("data:"));
  frame.remove();
  document.querySelector("output").textContent = JSON.stringify(found);
};
</script>
"""


def seen(page: str, folder: Path, width: int = PHONE) -> dict[str, Any]:
    """Open a page in a browser without a window, and measure it there."""
    around = folder / "around.html"
    text = AROUND.replace("WIDTH", str(width)).replace("PAGE", html.escape(page))
    around.write_text(text, encoding="utf-8")
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    done = subprocess.run(
        [
            BROWSER,
            *options,
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1400,900",
            "--virtual-time-budget=10000",
            "--dump-dom",
            around.as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=True,
    )
    found = re.search(r"<output>(.+?)</output>", done.stdout)
    assert found is not None, done.stderr
    return dict(json.loads(html.unescape(found[1])))


def broad_set(make_set: MakeSet, factor: int) -> DistilledSet:
    """Make a set whose names are long and cannot be broken at spaces."""
    reason = {"key": "k" * 200, "reason": "r" * 200}
    distilled = make_set(["n" * 150, "bee"], ipc=12, side=96, factor=factor, skipped=[reason])
    assert distilled.manifest.source is not None
    distilled.manifest.source["description"] = "/" + "d" * 150
    assert distilled.provenance is not None
    keys = pa.array(["s" * 200] * distilled.provenance.num_rows)
    place = distilled.provenance.schema.get_field_index("source")
    provenance = distilled.provenance.set_column(place, "source", keys)
    return dataclasses.replace(distilled, provenance=provenance)


@pytest.mark.parametrize("width", [320, PHONE, 1300])
def test_a_page_fits_and_asks_for_nothing(
    make_set: MakeSet, measures: SetMeasures, tmp_path: Path, width: int
) -> None:
    assert measures.real is not None
    measures = dataclasses.replace(
        measures,
        real=dataclasses.replace(measures.real, source="/" + "d" * 150),
        observer={"arch": "a" * 100, "weights_sha256": ""},
    )
    found = seen(render_report(broad_set(make_set, 2), measures), tmp_path, width)
    assert found["width"] == width
    assert found["closed"] <= width
    assert found["open"] <= width
    assert found["requests"] == []
    assert (found["details"], found["pictures"]) == (2, 20)


def test_one_small_image_per_class_fits_too(make_set: MakeSet, tmp_path: Path) -> None:
    page = render_report(make_set([f"class {number}" for number in range(30)], ipc=1, side=8))
    found = seen(page, tmp_path)
    assert max(found["closed"], found["open"]) <= PHONE
    assert (found["details"], found["pictures"]) == (30, 30)


def test_the_probe_sees_what_is_wrong(make_set: MakeSet, tmp_path: Path) -> None:
    elsewhere = "http://127.0.0.1:9/picture.png"
    wrong = f'<img src="{elsewhere}"><details><p style="width: 50rem">broad</p></details></body>'
    found = seen(render_report(make_set()).replace("</body>", wrong), tmp_path)
    assert found["closed"] <= PHONE < found["open"]
    assert found["requests"] == [elsewhere]
