from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_digits import MEAN, STD, Digits
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pydream.models import ObserverConfig, train_observer
from pydream.models.first_layer import first_layer_in_float32
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import RDED
from pydream.students.train import train_student

CPU = torch.device("cpu")


class WeightGradients(TorchDispatchMode):
    """Notes the channels and the arithmetic of every gradient of a convolution."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[tuple[int, torch.dtype]] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.found.add((args[1].shape[1], args[1].dtype))
        return func(*args, **(kwargs or {}))


EXPECTED = {(3, torch.float32), (32, torch.bfloat16)}  # of ConvNets of width 32


def test_an_observer_in_bfloat16_has_its_first_gradient_in_float32(tmp_path: Path) -> None:
    with WeightGradients() as gradients:
        train_observer(
            ObserverConfig(
                source="digits",
                arch="convnet2-w32",
                epochs=1,
                batch_size=512,
                precision="bfloat16",
                out=tmp_path / "observer.safetensors",
            )
        )
    assert gradients.found == EXPECTED


def test_a_student_in_bfloat16_has_its_first_gradient_in_float32(digits: Digits) -> None:
    few = type(digits.train)(digits.train.images[:40], digits.train.labels[:40])
    recipe = resolve(
        RDED,
        student="convnet2-w32",
        num_images=len(few),
        num_classes=10,
        side=8,
        factor=1,
        overrides={"epochs": 1, "batch_size": 20},
    )
    with WeightGradients() as gradients:
        train_student(
            few.images,
            lambda batch: torch.eye(10)[few.labels[batch.rows]],
            few,
            recipe,
            student="convnet2-w32",
            num_classes=10,
            mean=MEAN,
            std=STD,
            seed=0,
            eval_every=1,
            precision="bfloat16",
        )
    assert gradients.found == EXPECTED


@pytest.mark.parametrize("autocast", [True, False])
def test_the_layer_is_that_of_float32_rounded_once(autocast: bool) -> None:
    layer = nn.Conv2d(3, 8, 3)
    images = torch.randn(4, 3, 9, 9)
    whole = layer(images)
    with first_layer_in_float32(nn.Sequential(layer), CPU):
        twin = copy.deepcopy(layer)
        nn.init.zeros_(twin.weight)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert torch.equal(layer(images), whole.bfloat16() if autocast else whole)
            # The copy has weights of its own.
            assert twin.bias is not None
            assert (twin(images) == twin.bias[:, None, None].to(layer(images).dtype)).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(layer(images), whole.bfloat16())  # as before the block


def test_nothing_changes_on_a_gpu_and_in_other_layers() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), nn.Linear(3, 3))
    with first_layer_in_float32(layers, torch.device("cuda")):
        assert not any("forward" in vars(layer) for layer in layers)
    with first_layer_in_float32(layers, CPU):
        assert ["forward" in vars(layer) for layer in layers] == [True, False, False]
    assert not any("forward" in vars(layer) for layer in layers)
