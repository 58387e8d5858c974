from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from pydream.data.distilled import DistilledSet
from pydream.report import inspect_set, render_inspection

MakeSet = Callable[..., DistilledSet]

# Scores are stored as float32.
FLOAT32_ROUNDING = 1e-6


def shown(facts: dict[str, object], *, per_class: bool = False) -> str:
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(render_inspection(facts, per_class=per_class))
    return capture.get()


def test_facts_are_those_of_the_set(make_set: MakeSet) -> None:
    distilled = make_set(ipc=2, factor=2)
    facts = json.loads(json.dumps(inspect_set(distilled)))
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


def test_integrity_follows_the_rule(make_set: MakeSet) -> None:
    distilled = make_set()
    digest = hashlib.sha256()
    for name in sorted(
        file.relative_to(distilled.path).as_posix() for file in distilled.path.glob("images/*/*")
    ):
        inner = hashlib.sha256((distilled.path / name).read_bytes()).hexdigest()
        digest.update(name.encode() + b"\0" + inner.encode() + b"\n")
    integrity = inspect_set(distilled)["integrity"]
    assert integrity["images_sha256"] == digest.hexdigest()
    assert integrity["intact"]


@pytest.mark.parametrize("place", [0, 40, -1])
def test_one_flipped_bit_is_seen(make_set: MakeSet, place: int) -> None:
    distilled = make_set()
    file = distilled.path / "images" / "00001" / "00002.png"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    facts = inspect_set(distilled)
    assert not facts["integrity"]["intact"]
    assert "not those the manifest describes" in shown(facts)


def test_a_renamed_and_a_missing_file_are_seen(make_set: MakeSet) -> None:
    for change in (lambda file: file.unlink(), lambda file: file.rename(file.with_stem("9"))):
        distilled = make_set()
        change(distilled.path / "images" / "00000" / "00000.png")
        assert not inspect_set(distilled)["integrity"]["intact"]


def test_without_provenance_there_are_no_scores(make_set: MakeSet) -> None:
    facts = inspect_set(make_set(scores=False))
    assert facts["scores"] is None
    assert facts["per_class"] is None
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
