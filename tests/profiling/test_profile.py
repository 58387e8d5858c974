from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pydream.dream import DreamConfig
from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig
from pydream.models import ObserverConfig, train_observer
from pydream.profiling import comparison_table, profile, profile_table, read_profile
from pydream.rded import RdedConfig
from pydream.sets.distilled import load_set


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("observer") / "digits.safetensors"
    train_observer(
        ObserverConfig(
            source="digits", arch="convnet2-w16", epochs=4, horizontal_flip=False, out=path
        )
    )
    return str(path)


def settings(observer: str, **changes: Any) -> RdedConfig:
    return RdedConfig(
        **{"source": "digits", "observer": observer, "ipc": 1, "preselect": 20, **changes}
    )


def rows(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in facts["stages"]}


def consistent(facts: dict[str, Any]) -> None:
    limits, found = facts["limits"], rows(facts)
    for path, row in found.items():
        assert row["calls"] > 0
        assert row["share"] == pytest.approx(row["seconds"] / facts["seconds"])
        least = max(
            row["bytes"] / limits["copy_bytes"], row["operations"] / limits["matrix_operations"]
        )
        if least:
            assert row["of_limit"] == pytest.approx(least / row["seconds"])
        else:
            assert row["of_limit"] is None
        outer = path.rpartition(" / ")[0]
        if outer:
            assert row["seconds"] <= found[outer]["seconds"]
            assert row["operations"] <= found[outer]["operations"]
            paths = list(found)
            assert paths.index(outer) < paths.index(path)
    assert not facts["uncounted"]


def shown(table: Any) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_rded(observer: str, tmp_path: Path) -> None:
    out = tmp_path / "set"
    result = profile(settings(observer, out=out), tmp_path / "one.json")
    assert len(load_set(out).images) == 10
    facts = read_profile(result.path)
    assert facts == json.loads(json.dumps(result.facts, default=str))
    consistent(facts)
    found = rows(facts)
    for name in ("open", "decode", "crop", "observer", "score", "select", "assemble", "report"):
        assert found[name]["seconds"] > 0
    # Each patch goes through a convolution of 3 x 3 from 3 to 16 channels, at least.
    patches = 10 * 20 * 5
    assert found["observer"]["operations"] >= patches * 2 * 9 * 3 * 16 * 8 * 8
    assert found["score"]["bytes"] == patches * 10 * 4
    trace = json.loads(gzip.decompress(result.trace.read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"pydream: observer", "pydream: crop", "aten::convolution"} <= names
    text = shown(profile_table(facts))
    for word in ("observer", "crop", "of limit", "Gop/s", "Peak memory"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_is_made_is_dropped(
    observer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = settings(observer)
    assert profile(config).path == Path("profile-rded-1.json")
    assert profile(config).path == Path("profile-rded-2.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"profile-rded-{number}{suffix}"
        for number in (1, 2)
        for suffix in (".json", ".trace.json.gz")
    ]
    with pytest.raises(PydreamError, match=r"profile-rded-1\.json exists .*: give --save"):
        profile(config, Path("profile-rded-1.json"))
    with pytest.raises(PydreamError, match=r"profile-rded-1\.json is no folder: give --save"):
        profile(config, Path("profile-rded-1.json/a.json"))


def test_dream_and_its_students(observer: str, tmp_path: Path) -> None:
    config = DreamConfig(
        source="digits", ipc=1, iterations=1, inner_loop=2, batch_real=16, network_images=64,
        arch="convnet2-w16-instance",
    )  # fmt: skip
    facts = profile(config, tmp_path / "dream.json").facts
    consistent(facts)
    found = rows(facts)
    inner = ("choose real images", "step", "train network")
    for name in inner:
        assert found[f"match / {name}"]["calls"] == 2
    assert found["match / step / answers to real"]["calls"] == 2  # of all classes together
    assert found["match / step / derivative"]["operations"] > 0
    parts = sum(found[f"match / {name}"]["seconds"] for name in (*inner, "fresh network"))
    assert parts <= found["match"]["seconds"]


def test_evaluate(observer: str, tmp_path: Path) -> None:
    out = tmp_path / "set"
    profile(settings(observer, out=out), tmp_path / "rded.json")
    config = EvaluateConfig(out, observer=observer, source="digits", epochs=2, eval_every=2)
    facts = profile(config, tmp_path / "evaluate.json").facts
    consistent(facts)
    found = rows(facts)
    assert not (out / "results").exists()
    steps = found["forward"]["calls"]
    assert found["labels"]["operations"] == found["forward"]["operations"] > 0
    assert found["backward"]["calls"] == found["optimiser"]["calls"] == steps
    assert found["views"]["calls"] == steps + 2
    assert found["test"]["calls"] == 1


def test_two_side_by_side(observer: str, tmp_path: Path) -> None:
    one, other = (
        profile(settings(observer, preselect=number), tmp_path / f"{number}.json").facts
        for number in (10, 30)
    )
    text = shown(comparison_table(one, other, names=("10.json", "30.json")))
    (line,) = [line for line in text.splitlines() if line.startswith("observer")]
    seconds = [rows(table)["observer"]["seconds"] for table in (one, other)]
    assert line.split()[-1] == f"{seconds[0] / seconds[1]:.2f}"
    (whole,) = [line for line in text.splitlines() if line.startswith("whole")]
    assert whole.split()[-1] == f"{one['seconds'] / other['seconds']:.2f}"
    del other["stages"][-1]
    assert rows(one)["report"]["seconds"] > 0  # a stage that only one has
    assert "report" in shown(comparison_table(one, other, names=("a", "b")))
    with pytest.raises(PydreamError, match="only profiles of the same method"):
        comparison_table(one, {**other, "method": "dream"}, names=("a", "b"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not what `pydream profile` writes"),
        ("{}", "is not what `pydream profile` writes"),
        ('{"format": 99, "stages": []}', "format 99 is newer"),
    ],
)
def test_files_that_are_no_profile(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(PydreamError, match=message):
        read_profile(tmp_path / "a.json")


def test_the_command(
    observer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("tyro", reason="the command line needs tyro")
    from pydream.cli import main

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pydream", "profile", *arguments])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    monkeypatch.chdir(tmp_path)
    method = ("rded", "digits", "--observer", observer, "--ipc", "1", "--preselect", "10")
    assert run("--save", "a.json", *method) == 0
    assert "trace:   a.trace.json.gz" in capsys.readouterr().out
    assert run("--save", "b.json", "--json", *method) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "rded"
    assert run("--compare", "a.json", "b.json") == 0
    assert "A / B" in capsys.readouterr().out
    for arguments, message in (
        ((), "name what to profile"),
        (("--compare", "a.json", "b.json", *method), "--compare A B goes alone"),
        (("--compare", "a.json", "c.json"), "c.json cannot be read"),
    ):
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
