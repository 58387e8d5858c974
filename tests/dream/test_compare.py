from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pydream.data import Source
from pydream.data.subset import Subset
from pydream.dream import CompareConfig, Comparison, DreamConfig, Experts, compare
from pydream.dream.compare import _IN_IDC, _SMALL_EXPERTS, _settings
from pydream.dream.loop import MatchingLoop
from pydream.errors import PydreamError


def config(out: Path) -> CompareConfig:
    return CompareConfig(
        "digits",
        out=out,
        classes=2,
        images_per_class=9,
        ipc=1,
        arch="convnet2-w8-instance",
        iterations=3,
        inner_loop=1,
        batch_real=4,
        network_images=8,
        eval_every=2,
        eval_epochs=1,
        seeds=2,
    )


def test_three_methods_from_the_same_seeds(
    tmp_path: Path, digits: Source, other_digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = compare(config(tmp_path / "out"), train=digits, test=other_digits)
    assert result.iterations == [0, 2, 3]
    assert list(result.top1) == ["random", "DREAM", "DREAM+"]
    for runs in result.top1.values():
        assert [len(run) for run in runs] == [3, 3]
        assert all(0 <= value <= 1 for run in runs for value in run)
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["top1"] == result.top1
    assert (tmp_path / "out" / "comparison.svg").is_file()
    matched = [
        json.loads((tmp_path / "out" / name / "manifest.json").read_text())["config"]
        for name in ("random-1", "dream-1", "dream+-1")
    ]
    kinds = [(config["sampler"], config["match"], config["network_epochs"]) for config in matched]
    assert kinds == [
        ("random", "gradient", 0),
        ("representative", "gradient", 0),
        ("representative", "bidirectional", 1),
    ]
    assert {config["seed"] for config in matched} == {1}
    monkeypatch.setattr(MatchingLoop, "iterate", None)  # finished runs are not repeated
    again = compare(config(tmp_path / "out"), train=digits, test=other_digits)
    assert again == result
    longer = dataclasses.replace(config(tmp_path / "out"), eval_epochs=2)
    with pytest.raises(PydreamError, match=r"random-0 holds .* \(eval_epochs 1 then, 2 now\)"):
        compare(longer, train=digits, test=other_digits)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == record


@pytest.mark.parametrize("full", [False, True])
def test_given_numbers_replace_the_usual_ones(full: bool) -> None:
    given: dict[str, Any] = {
        "iterations": 50, "inner_loop": 7, "learning_rate": 0.5, "network_images": 3,
        "batch_real": 8, "arch": "convnet3-w16-instance", "factor": 1,
    }  # fmt: skip
    run = _settings(CompareConfig("digits", full=full, **given), _IN_IDC["DREAM"], "dream-0", 0)
    assert {name: getattr(run, name) for name in given} == given


def test_the_usual_numbers_of_a_full_comparison_are_the_recipes() -> None:
    run = _settings(CompareConfig("digits", full=True), _IN_IDC["DREAM"], "dream-0", 0)
    names = ("iterations", "inner_loop", "learning_rate", "network_images", "batch_real", "arch")
    assert [getattr(run, name) for name in names] == [None] * 6


def test_usual_network_and_batch_of_a_small_comparison(
    tmp_path: Path, digits: Source, other_digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[DreamConfig] = []

    def noted(run: DreamConfig, **_: Any) -> NoReturn:
        seen.append(run)
        raise PydreamError("enough")

    monkeypatch.setattr(import_module("pydream.dream.compare"), "distill", noted)
    for full in (False, True):
        with pytest.raises(PydreamError, match="enough"):
            compare(
                CompareConfig("digits", out=tmp_path / "out", full=full),
                train=digits, test=other_digits,
            )  # fmt: skip
    assert (seen[0].arch, seen[0].batch_real) == ("convnet3-w32-instance", 64)
    assert (seen[1].arch, seen[1].batch_real) == (None, None)


def test_experts_of_a_comparison(
    tmp_path: Path, digits: Source, other_digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_SMALL_EXPERTS, "count", 1)
    small = dataclasses.replace(
        config(tmp_path / "out"), framework="mtt", network_images=None, seeds=1
    )
    result = compare(small, train=digits, test=other_digits)
    assert list(result.top1) == ["random", "representative"]
    assert len(Experts.open(tmp_path / "out" / "experts").files) == 1


@pytest.mark.parametrize("framework", ["dc", "dm"])
def test_representatives_in_another_framework(
    tmp_path: Path, digits: Source, other_digits: Source, framework: Any
) -> None:
    small = dataclasses.replace(
        config(tmp_path / "out"), framework=framework, network_images=None, seeds=1, eval_every=None
    )
    result = compare(small, train=digits, test=other_digits)
    assert result.iterations == [0, 1, 2, 3]
    assert list(result.top1) == ["random", "representative", "bidirectional"]
    found = {
        name: json.loads((tmp_path / "out" / f"{name}-0" / "manifest.json").read_text())["config"]
        for name in result.top1
    }
    assert {own["framework"] for own in found.values()} == {framework}
    weighted = compare(
        dataclasses.replace(small, weights="clusters"), train=digits, test=other_digits
    )
    assert weighted.top1["random"] == result.top1["random"]  # the same run
    manifest = json.loads((tmp_path / "out/bidirectional-0-clusters/manifest.json").read_text())
    assert manifest["config"]["weights"] == "clusters"
    assert {own["start"] for own in found.values()} == {"real"}
    usual = "gradient" if framework == "dc" else "feature"
    assert [own["match"] for own in found.values()] == [usual, usual, "bidirectional"]
    assert [own["sampler"] for own in found.values()] == ["random", *["representative"] * 2]


def test_means_and_the_first_iteration_at_a_level() -> None:
    result = Comparison([0, 4, 8], {"DREAM": [[0.1, 0.4, 0.5], [0.3, 0.2, 0.7]]}, Path())
    assert result.mean("DREAM") == pytest.approx([0.2, 0.3, 0.6])
    assert result.first_reaching("DREAM", 0.25) == 4
    assert result.first_reaching("DREAM", 0.2) == 0
    assert result.first_reaching("DREAM", 0.9) is None


def test_without_test_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(PydreamError, match="has no test split to measure students on"):
        compare(CompareConfig(str(tmp_path), out=tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "classes must be at least 2, got 1"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"allow_skipped": 1.5}, r"allow_skipped must be 0 to 1, got 1\.5"),
        ({"ipc": 0}, "ipc must be at least 1, got 0"),
        ({"ipc": 10, "factor": 1}, "class 0 has 9 images, fewer than the 10"),
        ({"arch": "nothing"}, "nothing"),
        ({"framework": "dm", "experts": Path("x")}, "experts are for mtt"),
        ({"framework": "dm"}, "network_images is for idc, not dm"),
    ],
)
def test_what_cannot_be_compared_leaves_nothing_behind(
    tmp_path: Path, digits: Source, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PydreamError, match=message):
        compare(dataclasses.replace(config(tmp_path / "out"), **changes), train=digits, test=digits)
    assert not [*tmp_path.iterdir()]


def test_a_source_of_one_class_is_named(tmp_path: Path, digits: Source) -> None:
    single = Subset(digits, range(1))
    with pytest.raises(PydreamError, match="only one class, '0'"):
        compare(config(tmp_path / "out"), train=single, test=single)
    assert not [*tmp_path.iterdir()]


def test_a_subset_is_a_source(digits: Source) -> None:
    part = Subset(digits, range(2), 10)
    assert part.labels.tolist() == [0] * 10 + [1] * 9
    assert len(part) == 19
    assert part.class_names == digits.class_names[:2]
    for row in (0, 9, 10, 18):
        whole = list(digits.keys).index(part.keys[row])
        assert part.image(row).equal(digits.image(whole))
    assert part.fingerprint() != digits.fingerprint()
    assert part.fingerprint() == Subset(digits, range(2), 10).fingerprint()
    assert part.fingerprint() != Subset(digits, range(2), 9).fingerprint()
