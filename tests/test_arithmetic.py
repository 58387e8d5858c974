"""The switches for TF32 and for repeatable convolutions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.backends import cudnn

from pydream.arithmetic import arithmetic_of, ieee_float32, repeatable_float32
from pydream.data import Source, open_source
from pydream.data.resized import LabelledImages
from pydream.dream import DreamConfig, distill
from pydream.models import ObserverConfig, build_model, load_observer, train_observer
from pydream.models.registry import construct
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import RDED
from pydream.students.train import train_student

matmul = torch.backends.cuda.matmul
needs_new_switches = pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="needs PyTorch 2.9")


def switches() -> dict[str, Any]:
    """Return everything that decides how float32 is multiplied; None where PyTorch is at a loss."""
    found: dict[str, Any] = dict.fromkeys(("convolutions", "products"))
    with suppress(RuntimeError):
        found["convolutions"] = cudnn.allow_tf32
    with suppress(RuntimeError):
        found["products"] = torch.get_float32_matmul_precision()
    if hasattr(cudnn, "conv"):
        found["new"] = (cudnn.conv.fp32_precision, matmul.fp32_precision)
    chosen = (cudnn.enabled, cudnn.deterministic, cudnn.benchmark)
    return {**found, "chosen": chosen}


def takes_tf32() -> bool:
    if hasattr(cudnn, "conv"):
        return "tf32" in (cudnn.conv.fp32_precision, matmul.fp32_precision)
    return cudnn.allow_tf32 or matmul.allow_tf32


def set_precisions(everywhere: str, convolutions: str, products: str) -> None:
    """Use the switches of PyTorch 2.9, which the oldest supported one does not have."""
    backends: Any = torch.backends
    backends.fp32_precision = everywhere
    backends.cudnn.conv.fp32_precision = convolutions
    backends.cuda.matmul.fp32_precision = products


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = switches()
    yield
    torch.set_float32_matmul_precision(before["products"])
    cudnn.allow_tf32 = before["convolutions"]
    if "new" in before:
        set_precisions("none", *before["new"])
    cudnn.enabled, cudnn.deterministic, cudnn.benchmark = before["chosen"]
    assert switches() == before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_tf32_is_off_in_the_block_and_as_before_behind_it(
    precision: str, convolutions: bool
) -> None:
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32 = convolutions
    before = switches()
    with ieee_float32():
        assert not takes_tf32()
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
        with ieee_float32():
            assert not takes_tf32()
        assert not takes_tf32()
    assert switches() == before


@needs_new_switches
@pytest.mark.parametrize("everywhere", ["none", "tf32", "ieee"])
@pytest.mark.parametrize("convolutions", ["tf32", "ieee"])
@pytest.mark.parametrize("products", ["tf32", "ieee"])
def test_a_program_that_uses_the_switches_of_pytorch_2_9_is_served_too(
    everywhere: str, convolutions: str, products: str
) -> None:
    set_precisions(everywhere, convolutions, products)
    before = switches()
    with repeatable_float32():
        assert not takes_tf32()
    assert switches() == before


def test_an_error_in_the_block_leaves_nothing_switched() -> None:
    before = switches()
    with pytest.raises(KeyError), repeatable_float32():
        raise KeyError
    assert switches() == before


def test_repeatable_convolutions_still_come_from_cudnn() -> None:
    cudnn.benchmark = True
    with repeatable_float32():
        assert cudnn.enabled
        assert cudnn.deterministic
        assert not cudnn.benchmark
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions_leave_the_switches_alone(precision: str) -> None:
    before = switches()
    with arithmetic_of(precision):
        assert switches() == before
    with arithmetic_of("float32"):
        assert not takes_tf32()


class Convolution(NamedTuple):
    """How a convolution was called: what it may do."""

    training: bool
    tf32: bool
    cudnn: bool
    repeatable: bool


@pytest.fixture
def convolutions() -> Iterator[list[Convolution]]:
    """Every call of a convolution, in a process that allows TF32 and times algorithms."""
    seen: list[Convolution] = []

    def note(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Conv2d):
            repeatable = cudnn.deterministic and not cudnn.benchmark
            seen.append(Convolution(module.training, takes_tf32(), cudnn.enabled, repeatable))

    torch.set_float32_matmul_precision("high")
    cudnn.allow_tf32 = cudnn.benchmark = True
    before = switches()
    handle = nn.modules.module.register_module_forward_pre_hook(note)
    yield seen
    handle.remove()
    assert switches() == before


def some_images() -> Source:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    return open_source((pixels, np.arange(20) % 2))


@pytest.mark.parametrize("passes", ["logits", "features"])
def test_an_observer_in_float32_takes_no_tf32(convolutions: list[Convolution], passes: str) -> None:
    model = build_model("convnet2-w8", num_classes=2, side=8)
    load = functools.partial(load_observer, model, side=8)
    images = torch.zeros(3, 3, 8, 8)
    observer = load(precision="float32")
    convolutions.clear()
    getattr(observer, passes)(images)
    assert {(call.tf32, call.cudnn) for call in convolutions} == {(False, True)}
    observer = load(precision="bfloat16")
    convolutions.clear()
    getattr(observer, passes)(images)
    assert {(call.tf32, call.cudnn) for call in convolutions} == {(True, True)}  # left as it was


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_observers_and_students_are_trained_repeatably_and_in_float32_without_tf32(
    convolutions: list[Convolution], precision: str, tmp_path: Path
) -> None:
    train_observer(
        ObserverConfig(
            source="noise",
            arch="convnet2-w8",
            epochs=1,
            precision=precision,
            out=tmp_path / "observer.safetensors",
        ),
        source=some_images(),
    )
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    recipe = resolve(
        RDED, student="convnet2-w8", num_images=4, num_classes=2, side=8, factor=1, overrides={}
    )
    train_student(
        images,
        lambda batch: torch.full((len(batch.rows), 2), 0.5),
        LabelledImages(images, torch.arange(4) % 2),
        dataclasses.replace(recipe, epochs=1),
        student="convnet2-w8",
        num_classes=2,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        seed=0,
        eval_every=1,
        precision=precision,
    )
    found = {call[1:] for call in convolutions if call.training}
    assert found == {(precision != "float32", True, True)}


def test_distilling_by_matching_takes_no_tf32_and_is_repeatable(
    convolutions: list[Convolution], tmp_path: Path
) -> None:
    def network() -> nn.Module:
        convolutions.clear()  # of networks made before, to try whether they can be used
        return construct("convnet2-w8", num_classes=2, side=8)

    config = DreamConfig(
        "noise",
        out=tmp_path / "set",
        ipc=1,
        arch="convnet2-w8",
        iterations=1,
        inner_loop=1,
        batch_real=4,
        network_images=8,
        eval_every=1,
        eval_epochs=1,
    )
    distill(config, source=some_images(), test=some_images(), make_network=network)
    assert {call[1:] for call in convolutions} == {(False, True, True)}
    assert {call.training for call in convolutions} == {True, False}  # students measured, too
