from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torchvision.models import get_model_weights

from pydream.errors import PydreamError
from pydream.models import Observer, ObserverSettings, build_model, load_observer, save_weights
from pydream.models import checkpoint as checkpoints
from pydream.models.inputs import IMAGENET_MEAN, Inputs, find_inputs
from pydream.models.loading import load_configured_observer
from pydream.sets.manifest import Manifest
from pydream.sets.opening import load_set_observer

# float32 sums of 3·8² products, in another order.
ROUNDING = 1e-5


def found(arch: str, metadata: dict[str, str] | None = None, **options: Any) -> Inputs:
    return find_inputs(arch, {}, metadata or {}, "FILE", **options)


def test_what_is_given_comes_before_the_file_and_that_before_the_library() -> None:
    metadata = {"side": "96", "mean": "0.1,0.2,0.3"}
    own = get_model_weights("inception_v3").DEFAULT.transforms()
    inputs = found("inception_v3", metadata, side=64)
    assert (inputs.side, inputs.mean) == (64, (0.1, 0.2, 0.3))
    assert inputs.std == tuple(own.std)
    assert inputs.origins == {
        "side": "given",
        "mean": "from the checkpoint",
        "std": "of the architecture",
    }
    assert found("inception_v3", metadata).side == 96
    assert found("inception_v3").side == own.crop_size[0] == 299


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224.augreg_in21k_ft_in1k", "inception_v3.tf_in1k", "resnet10t"]
)
def test_timm_says_what_its_networks_take(name: str) -> None:
    timm = importlib.import_module("timm")
    own = timm.get_pretrained_cfg(name)
    inputs = found(f"timm/{name}")
    assert (inputs.side, inputs.mean, inputs.std) == (own.input_size[-1], own.mean, own.std)


def test_without_timm_its_networks_have_imagenets_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    inputs = found("timm/vit_tiny_patch16_224")
    assert (inputs.side, inputs.mean) == (224, (0.485, 0.456, 0.406))
    assert {*inputs.origins.values()} == {"ImageNet's"}


@pytest.mark.parametrize(("likely", "side"), [(None, 32), (28, 28), (64, 64), (224, 32)])
def test_a_small_stem_takes_the_side_of_small_images(likely: int | None, side: int) -> None:
    assert found("resnet18-modified", likely_side=likely).side == side
    assert found("resnet18-modified", {"side": "48"}, likely_side=likely).side == 48
    assert found("resnet18", likely_side=likely).side == 224


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"observer_side": 0}, "observer_side must be at least 1, got 0"),
        ({"observer_mean": (0.5,)}, "observer_mean must be three numbers, got 0.5"),
        ({"observer_std": (1.0, 0.0, 1.0)}, "observer_std must be three numbers above 0"),
        ({"observer_mean": (float("nan"), 0, 0)}, "observer_mean must be three numbers"),
    ],
)
def test_settings_that_are_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PydreamError, match=words):
        ObserverSettings(**options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(build_model("convnet2-w8", num_classes=4, side=8), path, {"arch": "convnet2-w8"})
    return path


def opened(path: Path, side: int = 8, **settings: Any) -> Observer:
    return load_configured_observer(
        path,
        ObserverSettings(**settings),
        arch=None,
        side=side,
        precision="float32",
        device="cpu",
    )


def test_what_was_taken_is_said_in_a_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observer = opened(checkpoint, observer_mean=(0.5, 0.4, 0.3))
    assert capsys.readouterr().err == ""
    observer.announce()
    assert capsys.readouterr().err == (
        "observer: convnet2-w8 (from the checkpoint); side 8 (that of the distilled images); "
        "mean 0.5 0.4 0.3 (given); std 0.229 0.224 0.225 (ImageNet's)\n"
    )
    assert observer.input_facts() == {
        "side": 8,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.229, 0.224, 0.225],
        "origins": observer.origins,
    }


def test_images_of_another_side_are_resized_for_the_network(checkpoint: Path) -> None:
    plain = opened(checkpoint)
    observer = opened(checkpoint, side=20, observer_side=8)
    assert (observer.side, observer.network_side) == (20, 8)
    images = torch.randn(70, 3, 20, 20)
    resized = torch.nn.functional.interpolate(images, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(
        observer.logits(images), plain.logits(resized), rtol=0, atol=ROUNDING
    )
    assert observer.features(images).shape == plain.features(resized).shape
    assert observer.facts()["resized_to"] == "8"
    assert "resized_to" not in plain.facts()
    smaller = observer.with_side(10)
    assert (smaller.side, smaller.network_side) == (10, 8)
    assert smaller.logits(torch.zeros(1, 3, 10, 10)).shape == (1, 4)


def test_what_a_set_says_of_its_observer_comes_after_what_is_given(checkpoint: Path) -> None:
    observer = load_configured_observer(
        checkpoint,
        ObserverSettings(observer_std=(0.5, 0.5, 0.5)),
        arch=None,
        side=8,
        kept=lambda sha256: {"mean": (0.1, 0.1, 0.1), "std": (0.2, 0.2, 0.2)},
        precision="float32",
        device="cpu",
    )
    assert (observer.mean, observer.std) == ((0.1, 0.1, 0.1), (0.5, 0.5, 0.5))
    assert (observer.origins["mean"], observer.origins["std"]) == ("from the set", "given")


@pytest.mark.parametrize(("made_it", "mean"), [(True, (0.1, 0.2, 0.3)), (False, IMAGENET_MEAN)])
def test_the_file_of_a_sets_observer_is_read_and_hashed_once(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    made_it: bool,
    mean: tuple[float, float, float],
) -> None:
    sha256 = load_observer(checkpoint).weights_sha256
    made_by = {"weights_sha256": sha256 if made_it else "", "mean": [0.1, 0.2, 0.3]}
    manifest = Manifest(
        format=1, method="rded", class_names=("a",), images_per_class=1, side=8, observer=made_by
    )
    distilled: Any = SimpleNamespace(manifest=manifest)
    read, begin = Mock(wraps=checkpoints._read_safetensors), Mock(wraps=hashlib.sha256)
    monkeypatch.setattr(checkpoints, "_read_safetensors", read)
    monkeypatch.setattr(checkpoints, "hashlib", SimpleNamespace(sha256=begin))
    observer = load_set_observer(
        str(checkpoint), distilled, ObserverSettings(), arch=None, precision="float32", device="cpu"
    )
    assert (read.call_count, begin.call_count) == (1, 1)
    assert observer.mean == mean
    assert observer.weights_sha256 == sha256
