from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from rded_runs import hashes, settings, shuffled_observer
from scoring_limits import limits

from pydream.cli import parsing
from pydream.data import Source, open_source
from pydream.errors import PydreamError
from pydream.models import Observer, ObserverSettings, build_model, load_observer, save_weights
from pydream.rded import RdedConfig, distill
from pydream.rded.groups import images_together
from pydream.rded.passes import score_together
from pydream.rded.patches import PatchMaker, preselect
from pydream.rded.scoring import score
from pydream.sets.distilled import load_set
from pydream.sets.manifest import Manifest
from pydream.sets.opening import class_order, load_set_observer
from pydream.timeline import Stopwatch

ROUNDING = 1e-5  # float32 sums of a few numbers near 1

Combine = Literal["log-probabilities", "logits"]


def write_observer(
    file: Path, seed: int, *, classes: int = 4, side: int = 32, width: int = 16, **inputs: str
) -> str:
    torch.manual_seed(seed)
    arch = f"convnet2-w{width}"
    model = build_model(arch, num_classes=classes, side=side)
    save_weights(model, file, {"arch": arch, "side": str(side), **inputs})
    return str(file)


@pytest.fixture
def second(tmp_path: Path) -> str:
    """Another observer of the same input as `random_observer`."""
    return write_observer(tmp_path / "second.safetensors", 11, width=24)


@pytest.fixture
def smaller(tmp_path: Path) -> str:
    """An observer of another side and normalisation."""
    file = tmp_path / "smaller.safetensors"
    return write_observer(file, 12, side=24, mean="0.5,0.5,0.5", std="0.25,0.25,0.25")


def test_scores_together_are_the_means_that_the_formulas_say() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 7 * 2, 5)) * 4
    labels = rng.integers(0, 5, 7)
    rows = np.arange(14), labels.repeat(2)

    def log_probabilities(values: np.ndarray) -> np.ndarray:
        return np.asarray((values - np.log(np.exp(values).sum(-1, keepdims=True)))[rows])

    wanted: dict[Combine, np.ndarray] = {
        "log-probabilities": np.mean([log_probabilities(one) for one in logits], axis=0),
        "logits": log_probabilities(logits.mean(axis=0)),
    }
    usable = [0, 1, 3, 4, 5, 6]
    for combine, values in wanted.items():
        given = [torch.from_numpy(one).float() for one in logits]
        found = score_together(given, torch.from_numpy(labels), usable, combine)
        np.testing.assert_allclose(
            found[usable], values.reshape(7, 2)[usable], rtol=ROUNDING, atol=ROUNDING
        )
        assert (found[2] == -torch.inf).all()
        alone = score_together(given[:1], torch.from_numpy(labels), usable, combine)
        np.testing.assert_allclose(
            alone[usable],
            log_probabilities(logits[0]).reshape(7, 2)[usable],
            rtol=ROUNDING,
            atol=ROUNDING,
        )


def all_scores(maker: PatchMaker, **options: Any) -> torch.Tensor:
    selection = preselect(maker.source, 300, 0)
    needed = np.ones(len(selection.indices), dtype=bool)
    batches = score(maker, selection, needed, limits(), Stopwatch(), **options)
    return torch.cat([batch.scores for batch in batches])


def alone(source: Source, observer: Observer) -> torch.Tensor:
    return all_scores(PatchMaker(source, observer, side=observer.side, factor=2, crops=3))


def test_each_observer_sees_patches_made_for_its_input(
    folder: Path, random_observer: Path, second: str, smaller: str
) -> None:
    source = open_source(folder)
    observers = [load_observer(file) for file in (random_observer, second, smaller)]
    observers[1].tile = 24
    maker = PatchMaker(source, observers[0], side=32, factor=2, crops=3, further=observers[1:])
    assert len(maker.inputs) == 2  # the first two share their patches
    assert maker.input_of == [0, 0, 1]
    assert images_together(maker) % 8 == 0
    assert images_together(maker) * 3 % observers[0].tile == 0
    wanted = torch.stack([alone(source, observer) for observer in observers]).double().mean(0)
    found = all_scores(maker)
    np.testing.assert_allclose(found, wanted, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("combine", ["log-probabilities", "logits"])
def test_same_bytes_however_the_run_is_organised(
    folder: Path,
    random_observer: Path,
    second: str,
    smaller: str,
    tmp_path: Path,
    combine: Combine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observers = (str(random_observer), second, smaller)

    def config(name: str, **changes: Any) -> RdedConfig:
        common = {"observer": observers, "combine": combine, "select": "diverse", "ipc": 1}
        return settings(folder, random_observer, tmp_path / name, **{**common, **changes})

    result = distill(config("usual"))
    reference = hashes(result.path)
    small = {"batch_size": 1, "workers": 1, "memory_budget": 1}
    assert hashes(distill(config("small", **small)).path) == reference
    with monkeypatch.context() as patch:

        def stopping(*arguments: Any, **options: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("pydream.sets.writer.SetWriter.write_class", stopping)
        with pytest.raises(KeyboardInterrupt):
            distill(config("resumed"))
    resume = config("resumed", resume=True)
    with monkeypatch.context() as patch:  # what was measured is not measured again
        patch.setattr("pydream.rded.observers.preflight", None)
        assert hashes(distill(resume).path) == reference
    assert hashes(distill(resume).path) == reference  # finished: nothing is done
    with pytest.raises(PydreamError, match="other settings"):
        distill(dataclasses.replace(resume, observer=observers[:2]))
    manifest = result.manifest
    assert manifest.further_observers is not None
    assert len(manifest.further_observers) == 2
    assert manifest.further_observers[1]["side"] == 24
    assert manifest.further_observers[1]["mean"] == [0.5, 0.5, 0.5]
    report = (result.path / "report.html").read_text(encoding="utf-8")
    assert f"{combine}: " in report
    assert manifest.further_observers[0]["weights_sha256"] in report
    again = Manifest.from_json(json.loads((result.path / "manifest.json").read_text()))
    assert again.as_json() == manifest.as_json()


def test_one_observer_in_a_tuple_is_the_same_run(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    plain = settings(folder, random_observer, tmp_path / "x")
    listed = dataclasses.replace(plain, observer=(str(random_observer),))
    assert listed == plain
    assert listed.observers == (str(random_observer),)
    assert "combine" not in plain.identity()  # or older sets could not be resumed


def test_the_order_of_classes_is_found_for_each_and_kept_for_the_set(
    digits_observer: Path, tmp_path: Path
) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    shuffled = tmp_path / "shuffled.safetensors"
    shuffled_observer(shuffled, digits_observer, order)
    common: dict[str, Any] = {"source": "digits", "preselect": 20, "ipc": 1}
    both = RdedConfig(
        observer=(str(digits_observer), str(shuffled)),
        out=tmp_path / "both",
        class_order="infer",
        **common,
    )
    result = distill(both)
    manifest = result.manifest
    assert manifest.observer is not None and manifest.further_observers is not None  # noqa: PT018
    assert manifest.observer["class_order"] == list(range(10))
    assert manifest.further_observers[0]["class_order"] == [order.index(c) for c in range(10)]
    made = load_set(result.path)
    observer = load_set_observer(
        str(shuffled), made, ObserverSettings(), arch=None, precision="auto", device="cpu"
    )
    assert class_order(observer, made) == [order.index(c) for c in range(10)]
    # The weights differ in the order of their rows alone: together they say what one says.
    single = RdedConfig(observer=str(digits_observer), out=tmp_path / "single", **common)
    scores = [
        load_set(path).provenance["score"].to_numpy()  # type: ignore[index]
        for path in (result.path, distill(single).path)
    ]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3, atol=ROUNDING)
    misordered = dataclasses.replace(both, class_order="sorted", out=tmp_path / "misordered")
    with pytest.raises(
        PydreamError, match=r"observer .*shuffled\.safetensors is right on .* infer"
    ):
        distill(misordered)
    assert not (tmp_path / "misordered").exists()


def test_observers_that_do_not_fit_are_refused_by_name(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    five = write_observer(tmp_path / "five.safetensors", 0, classes=5)
    config = settings(
        folder, random_observer, tmp_path / "set", observer=(str(random_observer), five)
    )
    with pytest.raises(PydreamError, match=r"observer .*five\.safetensors has 5 classes, .* has 4"):
        distill(config)
    weak = dataclasses.replace(config, allow_weak_observer=False)
    with pytest.raises(PydreamError, match=r"observer .*random\.safetensors is right on"):
        distill(weak)
    with pytest.raises(PydreamError, match="observer must differ"):
        settings(folder, random_observer, tmp_path / "set", observer=(five, five))
    with pytest.raises(PydreamError, match="rded: --observer needs a value"):
        settings(folder, random_observer, tmp_path / "set", observer=())
    model = build_model("convnet2-w8", num_classes=4, side=32)
    with pytest.raises(PydreamError, match="1 observers are given"):
        distill(config, observer=model)
    assert not (tmp_path / "set").exists()


def test_models_in_memory_score_together(folder: Path, tmp_path: Path) -> None:
    models = [build_model(f"convnet2-w{width}", num_classes=4, side=32) for width in (8, 12)]
    config = settings(
        folder, Path("x"), tmp_path / "set", observer=("one", "other"), side=32, ipc=1
    )
    result = distill(config, observer=models)
    assert result.manifest.further_observers is not None
    assert result.manifest.config is not None
    assert result.manifest.config["observer"] == ["one", "other"]


def test_the_command_takes_one_observer_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[RdedConfig] = []

    def noted(config: RdedConfig) -> None:
        given.append(config)
        raise PydreamError("seen")

    monkeypatch.setattr("pydream.rded.distill", noted)
    for words in (
        ["photos", "--observer", "a.pt", "b.pt", "--combine", "logits"],
        ["--observer", "a.pt", "photos"],
        ["--observer", "a.pt", "b.pt", "--combine", "logits", "photos"],
    ):
        monkeypatch.setattr("sys.argv", ["pydream", "rded", *words])
        with pytest.raises(PydreamError, match="seen"):
            parsing.run()
    assert [config.observer for config in given] == [("a.pt", "b.pt"), "a.pt", ("a.pt", "b.pt")]
    assert [config.source for config in given] == ["photos"] * 3
    assert given[0].combine == "logits"
