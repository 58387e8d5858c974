from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from PIL import Image

from pydream.data import Source, open_source
from pydream.errors import PydreamError
from pydream.models import (
    ObserverConfig,
    build_model,
    read_weights,
    save_weights,
    train_observer,
)
from pydream.models.training_state import interrupt_between_steps

train = importlib.import_module("pydream.models.train")
training_state = importlib.import_module("pydream.models.training_state")

# Plans what is done when so many steps of a training are done.
AfterSteps = Callable[[int, Callable[[], None]], None]


class KilledError(Exception):
    """Ends a training as a lost machine would."""


@pytest.fixture
def after_steps(monkeypatch: pytest.MonkeyPatch) -> AfterSteps:
    """Do something when so many steps of a training are done."""

    def plan(steps: int, act: Callable[[], None]) -> None:
        @contextmanager
        def track(*words: object, **options: object) -> Iterator[Callable[..., None]]:
            left = steps

            def advance(done: int, note: str = "") -> None:
                nonlocal left
                left -= done
                if left == 0 and done:
                    act()

            yield advance

        monkeypatch.setattr(train, "track", track)

    return plan


def kill() -> NoReturn:
    raise KilledError


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def images_of(side: int) -> Source:
    """Forty images of two classes: five batches of seven an epoch, and four kept aside."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 90, (40, side, side, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    pixels[labels == 1, ..., 0] += 100
    return open_source((pixels, labels))


def settings(out: Path, **changes: Any) -> ObserverConfig:
    options = {"arch": "convnet1-w4", "epochs": 3, "batch_size": 7, "device": "cpu", "workers": 1}
    return ObserverConfig(source="mine", out=out, **{**options, **changes})


def interrupted(
    out: Path,
    source: Source,
    after_steps: AfterSteps,
    monkeypatch: pytest.MonkeyPatch,
    *,
    steps: int = 8,
    act: Callable[[], None] = kill,
    error: type[KilledError] = KilledError,
) -> None:
    """Train until something ends it; the state is written after every step."""
    after_steps(steps, act)
    monkeypatch.setattr(training_state, "_SECONDS_BETWEEN", 0.0)
    with pytest.raises(error):
        train_observer(settings(out), source=source)
    monkeypatch.undo()


# The small ones are kept in memory and padded, the large ones decoded in every epoch.
@pytest.mark.parametrize(("side", "steps"), [(8, 1), (8, 8), (8, 10), (72, 8)])
def test_a_killed_training_goes_on_to_the_same_bytes(
    tmp_path: Path, after_steps: AfterSteps, monkeypatch: pytest.MonkeyPatch, side: int, steps: int
) -> None:
    """Killed in the first step, in the midst of an epoch, and behind its last batch."""
    source, out = images_of(side), tmp_path / "w.safetensors"
    whole = train_observer(settings(tmp_path / "whole.safetensors"), source=source)
    interrupted(out, source, after_steps, monkeypatch, steps=steps)
    assert not out.exists()
    result = train_observer(settings(out, resume=True, workers=2), source=source)
    assert sha256(out) == sha256(whole.path)
    assert (result.top1, result.loss) == (whole.top1, whole.loss)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, whole.path.name]


def test_ctrl_c_keeps_every_step(
    tmp_path: Path, after_steps: AfterSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = images_of(8), tmp_path / "w.safetensors"
    whole = train_observer(settings(tmp_path / "whole.safetensors"), source=source)
    after_steps(8, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        train_observer(settings(out), source=source)
    state = torch.load(tmp_path / "w.safetensors.partial" / "state" / "checkpoint.pt")
    assert (state["epoch"], state["images"]["batches"]) == (1, 3)
    monkeypatch.undo()
    train_observer(settings(out, resume=True), source=source)
    assert sha256(out) == sha256(whole.path)


def test_a_begun_training_is_neither_overwritten_nor_gone_on_with_otherwise(
    tmp_path: Path, after_steps: AfterSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = images_of(8), tmp_path / "w.safetensors"
    interrupted(out, source, after_steps, monkeypatch)
    with pytest.raises(PydreamError, match=r"w\.safetensors\.partial holds a training .*--resume"):
        train_observer(settings(out), source=source)
    for changes, words in (
        ({"epochs": 4}, "epochs 3 then, 4 now"),
        ({"seed": 1}, "seed 0 then, 1 now"),
    ):
        with pytest.raises(PydreamError, match=f"begun with other settings .{words}"):
            train_observer(settings(out, resume=True, **changes), source=source)
    with pytest.raises(PydreamError, match="source_fingerprint"):
        train_observer(settings(out, resume=True, side=8), source=images_of(9))
    checkpoint = tmp_path / "w.safetensors.partial" / "state" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    with pytest.raises(PydreamError, match=r"checkpoint\.pt is damaged.*remove it"):
        train_observer(settings(out, resume=True), source=source)


def test_a_training_killed_when_it_was_finished_leaves_nothing_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = images_of(8), tmp_path / "w.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(train.PartialRun, "forget", lambda self: kill())
        with pytest.raises(KilledError):
            train_observer(settings(out, epochs=1), source=source)
    assert (tmp_path / "w.safetensors.partial").is_dir()
    train_observer(settings(out, epochs=1, resume=True), source=source)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_finished_training_is_known_again(tmp_path: Path) -> None:
    source, out = images_of(8), tmp_path / "w.safetensors"
    config = settings(out, epochs=1)
    result = train_observer(config, source=source)
    again = train_observer(dataclasses.replace(config, resume=True), source=source)
    assert again == dataclasses.replace(result, seconds=0.0)
    with pytest.raises(PydreamError, match=r"trained with other settings .epochs 1 then, 2 now"):
        train_observer(settings(out, resume=True, epochs=2), source=source)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(PydreamError, match="exists and is not overwritten"):
        train_observer(settings(tmp_path / "mine", resume=True), source=source)
    assert (tmp_path / "mine").read_text() == "mine"
    for training in ("{", "[]", '{"settings": {}, "result": {}}'):
        out.unlink()
        model = build_model("convnet1-w4", num_classes=2, side=8)
        save_weights(model, out, {"training": training})
        with pytest.raises(PydreamError, match="exists and is not overwritten"):
            train_observer(settings(out, resume=True), source=source)


def test_the_test_split_belongs_to_a_training(tmp_path: Path, after_steps: AfterSteps) -> None:
    """Without one, other images are trained on; with another, the accuracy is another."""
    out, source, test = (tmp_path / name for name in ("w.safetensors", "set", "set/test"))
    for split, count in (("train", 8), ("test", 3)):
        for label in ("a", "b"):
            (source / split / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(
                    source / split / label / f"{number}.png"
                )
    config = dataclasses.replace(settings(out, epochs=1), source=str(source))
    resumed = dataclasses.replace(config, resume=True)

    def is_refused(begun: str) -> None:
        aside = "held_out 'images of the test split' then, 'training images kept aside' now"
        test.rename(tmp_path / "away")
        with pytest.raises(PydreamError, match=rf"{begun} with other settings \({aside}; test_"):
            train_observer(resumed)
        (tmp_path / "away").rename(test)
        (test / "b" / "2.png").rename(tmp_path / "2.png")
        with pytest.raises(PydreamError, match=rf"{begun} with other settings \(test_fingerprint"):
            train_observer(resumed)
        (tmp_path / "2.png").rename(test / "b" / "2.png")

    after_steps(1, kill)
    with pytest.raises(KilledError):
        train_observer(config)
    is_refused("was begun")
    after_steps(100, kill)
    result = train_observer(resumed)
    is_refused("was trained")

    weights, metadata = read_weights(out)
    training = json.loads(metadata["training"])
    del training["settings"]["held_out"], training["settings"]["test_fingerprint"]
    out.unlink()
    model = build_model("convnet1-w4", num_classes=2, side=8)
    model.load_state_dict(weights)
    save_weights(model, out, {**metadata, "training": json.dumps(training)})  # by an older version
    assert train_observer(resumed).top1 == result.top1
    test.rename(tmp_path / "away")
    with pytest.raises(PydreamError, match="held_out"):
        train_observer(resumed)


def test_a_second_ctrl_c_does_not_wait() -> None:
    with interrupt_between_steps() as pressed:
        press_ctrl_c()
        assert pressed()
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_checkpoint_that_memory_does_not_hold_is_not_called_unreadable(
    tmp_path: Path, after_steps: AfterSteps, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The advice to remove it would cost what was trained."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error("out of memory")

    source, out = images_of(8), tmp_path / "w.safetensors"
    interrupted(out, source, after_steps, monkeypatch)
    monkeypatch.setattr(torch.optim.Optimizer, "load_state_dict", fail)
    with pytest.raises(error):
        train_observer(settings(out, resume=True), source=source)


def test_a_checkpoint_on_a_broken_disk_is_named(
    tmp_path: Path, after_steps: AfterSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path) -> NoReturn:
        raise OSError(5, "Input/output error")

    source, out = images_of(8), tmp_path / "w.safetensors"
    interrupted(out, source, after_steps, monkeypatch)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(PydreamError, match=r"checkpoint\.pt cannot be read: Input/output error; "):
        train_observer(settings(out, resume=True), source=source)
