from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pydream.models import ObserverConfig, train_observer
from pydream.rded import RdedConfig, distill
from pydream.sets import ExportConfig, export_set
from pydream.sets.config import Layout

pytest.importorskip("tyro", reason="the command line needs tyro")
from pydream.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Distil digits; return the set and the observer."""
    folder = tmp_path_factory.mktemp("made")
    observer = folder / "digits.safetensors"
    train_observer(
        ObserverConfig(
            source="digits", arch="convnet2-w16", epochs=4, horizontal_flip=False, out=observer
        )
    )
    distill(
        RdedConfig(source="digits", observer=str(observer), ipc=2, preselect=20, out=folder / "set")
    )
    return folder / "set", observer


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Inspect in this process; return the exit code."""
    monkeypatch.setattr(sys, "argv", ["pydream", "inspect", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_measures_and_a_page(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, made: tuple[Path, Path]
) -> None:
    path, observer = made
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    page = tmp_path / "page.html"
    options = ("--observer", observer, "--source", "digits", "--most-real", 7, "--report", page)
    assert run(monkeypatch, path, *options, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    measures = facts["measures"]
    # The patches were chosen by their score, by this observer.
    assert measures["distilled"]["realism"] > measures["random_real"]["realism"]
    assert measures["real"]["samples"] == 70
    assert measures["images_bytes"] == facts["bytes"]
    assert "Realism and diversity" in page.read_text()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert run(monkeypatch, path, "--observer", observer) == 0
    assert "entropy of soft labels" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["tensors", "rded"])
def test_sets_of_others(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    tmp_path: Path,
    made: tuple[Path, Path],
    layout: Layout,
) -> None:
    path, observer = made
    other, page = tmp_path / "other", tmp_path / "page.html"
    export_set(ExportConfig(path, layout, other))
    options = ("--observer", observer, "--source", "digits", "--most-real", 7)
    assert run(monkeypatch, path, *options, "--json") == 0
    own = json.loads(capsys.readouterr().out)
    assert run(monkeypatch, other, *options, "--report", page, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "imported"
    for name in ("seed", "source", "package", "integrity", "observer", "scores"):
        assert found[name] is None
    for name in ("realism", "agreement", "entropy", "pairwise_distance"):
        assert found["measures"]["distilled"][name] == own["measures"]["distilled"][name]
    text = page.read_text()
    assert "IMPORTED: 10 classes × 2 images" in text
    assert "Realism and diversity" in text
    assert "How good is it?" not in text  # its commands are of a set of ours
    assert run(monkeypatch, other, *options) == 0
    assert "made by  imported\n" in re.sub(r" +\n", "\n", capsys.readouterr().out)
    assert run(monkeypatch, other, "--source", "digits", "--image", "7/1") == 2


def test_one_image(monkeypatch: pytest.MonkeyPatch, capsys: Any, made: tuple[Path, Path]) -> None:
    assert run(monkeypatch, made[0], "--image", "7/1", "--json") == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert run(monkeypatch, made[0], "--image", "7/1") == 0
    assert cell["source"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "digits"), "give one with --observer"),
        (("--observer", "nowhere.pt"), "nowhere.pt"),
        (("--observer", "OBSERVER", "--source", "nowhere"), "nowhere: no such source"),
        (("--observer", "OBSERVER", "--observer-arch", "convnet3"), "convnet3"),
        (("--observer", "OBSERVER", "--most-real", "0"), "most_real must be at least 1"),
        (("--report", "OBSERVER"), "is not overwritten: give --report the name of a new file"),
        (
            ("--report", "SET/manifest.json/page.html"),
            "manifest.json is not a folder: give --report",
        ),
        (("--report", "."), "'.' does not name a new file"),
        (("--image", "a/0"), "no class 'a'"),
        (("--image", "1/0", "--observer", "OBSERVER"), "--image goes without --observer"),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    tmp_path: Path,
    made: tuple[Path, Path],
    options: tuple[str, ...],
    message: str,
) -> None:
    path, observer = made
    monkeypatch.chdir(tmp_path)
    names = {"OBSERVER": str(observer), "SET": str(path)}
    given = [re.sub("OBSERVER|SET", lambda found: names[found[0]], option) for option in options]
    assert run(monkeypatch, path, *given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pydream: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not list(tmp_path.iterdir())


def test_without_a_page_nothing_is_imported_that_draws(made: tuple[Path, Path]) -> None:
    script = (
        "import sys; from pydream.cli import main; main(); "
        "print([name for name in ('matplotlib', 'jinja2', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "inspect", str(made[0])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
