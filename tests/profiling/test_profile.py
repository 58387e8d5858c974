from __future__ import annotations

import dataclasses
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
from pydream.profiling import (
    Profile,
    Stage,
    comparison_table,
    profile,
    profile_table,
    read_profile,
)
from pydream.rded import RdedConfig, distill
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


def by_path(result: Profile) -> dict[str, Stage]:
    return {stage.path: stage for stage in result.stages}


def consistent(result: Profile) -> None:
    limits, stages = result.limits, by_path(result)
    for path, stage in stages.items():
        assert stage.calls > 0
        assert stage.share == pytest.approx(stage.seconds / result.seconds)
        least = max(stage.bytes / limits.copy_bytes, stage.operations / limits.matrix_operations)
        if least:
            assert stage.of_limit == pytest.approx(least / stage.seconds)
        else:
            assert stage.of_limit is None
        outer = path.rpartition(" / ")[0]
        if outer:
            assert stage.seconds <= stages[outer].seconds
            assert stage.operations <= stages[outer].operations
            paths = list(stages)
            assert paths.index(outer) < paths.index(path)
    assert not result.uncounted


def shown(table: Any) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_rded(observer: str, tmp_path: Path) -> None:
    out = tmp_path / "set"
    result = profile(settings(observer, out=out), tmp_path / "one.json")
    assert len(load_set(out).images) == 10
    content = json.loads(result.path.read_text())
    assert list(content) == [
        "format", "package", "date", "method", "device", "seconds", "limits", "memory", "stages",
        "uncounted", "config", "machine",
    ]  # fmt: skip
    assert list(content["stages"][0]) == [
        "path", "seconds", "share", "calls", "threads", "bytes", "operations", "of_limit",
    ]  # fmt: skip
    assert content["config"]["out"] == str(out)
    saved = read_profile(result.path)
    assert saved == result
    assert saved.as_json() == content
    consistent(saved)
    stages = by_path(saved)
    for name in ("open", "decode", "crop", "observer", "score", "select", "assemble", "report"):
        assert stages[name].seconds > 0
    # Each patch goes through a convolution of 3 x 3 from 3 to 16 channels, at least.
    patches = 10 * 20 * 5
    assert stages["observer"].operations >= patches * 2 * 9 * 3 * 16 * 8 * 8
    assert stages["score"].bytes == patches * 10 * 4
    trace = json.loads(gzip.decompress(result.trace.read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"pydream: observer", "pydream: crop", "aten::convolution"} <= names
    text = shown(profile_table(saved))
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
    with pytest.raises(PydreamError, match=r"profile-rded-1\.json is not a folder: give --save"):
        profile(config, Path("profile-rded-1.json/a.json"))


def test_dream_and_its_students(observer: str, tmp_path: Path) -> None:
    config = DreamConfig(
        source="digits", ipc=1, iterations=1, inner_loop=2, batch_real=16, network_images=64,
        arch="convnet2-w16-instance",
    )  # fmt: skip
    result = profile(config, tmp_path / "dream.json")
    consistent(result)
    stages = by_path(result)
    inner = ("choose real images", "step", "train network")
    for name in inner:
        assert stages[f"match / {name}"].calls == 2
    assert stages["match / step / answers to real"].calls == 2 * 10  # of each class
    assert stages["match / step / derivative"].operations > 0
    parts = sum(stages[f"match / {name}"].seconds for name in (*inner, "fresh network"))
    assert parts <= stages["match"].seconds


def test_evaluate(observer: str, tmp_path: Path) -> None:
    out = tmp_path / "set"
    distill(settings(observer, out=out))
    config = EvaluateConfig(out, observer=observer, source="digits", epochs=2, eval_every=2)
    result = profile(config, tmp_path / "evaluate.json")
    consistent(result)
    stages = by_path(result)
    assert not (out / "results").exists()
    steps = stages["forward"].calls
    assert stages["labels"].operations == stages["forward"].operations > 0
    assert stages["backward"].calls == stages["optimiser"].calls == steps
    assert stages["views"].calls == steps + 2
    assert stages["test"].calls == 1


def test_two_side_by_side(observer: str, tmp_path: Path) -> None:
    one, other = (
        profile(settings(observer, preselect=number), tmp_path / f"{number}.json")
        for number in (2, 5)
    )
    text = shown(comparison_table(one, other, names=("2.json", "5.json")))
    (line,) = [line for line in text.splitlines() if line.startswith("observer")]
    seconds = [by_path(result)["observer"].seconds for result in (one, other)]
    assert line.split()[-1] == f"{seconds[0] / seconds[1]:.2f}"
    (whole,) = [line for line in text.splitlines() if line.startswith("whole")]
    assert whole.split()[-1] == f"{one.seconds / other.seconds:.2f}"
    other = dataclasses.replace(other, stages=other.stages[:-1])
    assert by_path(one)["report"].seconds > 0  # a stage that only one has
    assert "report" in shown(comparison_table(one, other, names=("a", "b")))
    with pytest.raises(PydreamError, match="only profiles of the same method"):
        comparison_table(one, dataclasses.replace(other, method="dream"), names=("a", "b"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not what `pydream profile` writes"),
        ("{}", "is not what `pydream profile` writes"),
        ("[]", "is not what `pydream profile` writes"),
        ('{"format": 1, "stages": [{}]}', "is not what `pydream profile` writes"),
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
    method = ("rded", "digits", "--observer", observer, "--ipc", "1", "--preselect", "2")
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
