from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.models import build_model
from pydream.sets import label_robust_score
from pydream.sets.ddranking import as_teacher, dataset_name


def test_ends_of_the_score() -> None:
    # Nothing is lost to the real set, and everything gained over random images; the reverse.
    assert label_robust_score(0, 1, 1, 0) == pytest.approx(1)
    assert label_robust_score(1, 0, 0, 1) == pytest.approx(0, abs=1e-15)
    # As good as real and as random images: α = 0.
    assert label_robust_score(0.7, 0.7, 0.4, 0.4) == pytest.approx(0.2689414213699951)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_score_is_that_of_the_definition(weight: float) -> None:
    real, hard, soft, random = 0.8485, 0.2517, 0.613, 0.624
    alpha = weight * (soft - random) - (1 - weight) * (real - hard)
    expected = (math.e**alpha - 1 / math.e) / (math.e - 1 / math.e)
    assert label_robust_score(real, hard, soft, random, weight) == pytest.approx(expected)


def test_the_weight_chooses_what_counts() -> None:
    assert label_robust_score(0.9, 0.1, 0.6, 0.6, weight=1) == pytest.approx(0.2689414213699951)
    assert label_robust_score(0.5, 0.5, 0.9, 0.1, weight=0) == pytest.approx(0.2689414213699951)


@pytest.mark.parametrize(
    "name", ["hard_real", "hard_distilled", "any_distilled", "any_random", "weight"]
)
@pytest.mark.parametrize("value", [-0.01, 1.01, 61.3, math.nan])
def test_numbers_that_are_no_fractions(name: str, value: float) -> None:
    numbers = dict.fromkeys(("hard_real", "hard_distilled", "any_distilled", "any_random"), 0.5)
    with pytest.raises(PydreamError, match=f"{name} must be a fraction from 0 to 1, got"):
        label_robust_score(**{**numbers, name: value})


def sequence(depth: int, norm: str, num_classes: int, side: int) -> nn.Module:
    """The ConvNet of dataset condensation: its layers in one sequence, then the classifier."""
    layers: list[nn.Module] = []
    for block in range(depth):
        layers.append(nn.Conv2d(128 if block else 3, 128, 3, padding=1))
        layers.append(nn.BatchNorm2d(128) if norm == "batch" else nn.GroupNorm(128, 128))
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
    model = nn.Module()
    model.features = nn.Sequential(*layers)
    model.classifier = nn.Linear(128 * (side >> depth) ** 2, num_classes)
    return model.eval()


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("depth", [2, 3])
def test_a_convnet_is_the_same_network_there(depth: int, norm: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"convnet{depth}-{norm}", num_classes=4, side=8).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.rand_like(tensor) - 0.2 if tensor.dim() > 1 else torch.rand_like(tensor)
                )
    order = [2, 0, 3]
    teacher = as_teacher(model, f"convnet{depth}-{norm}", 8, order)
    assert teacher.model_name == f"ConvNet-{depth}" + ("-BN" if norm == "batch" else "")
    assert not teacher.use_torchvision
    theirs: Any = sequence(depth, norm, 3, 8)
    theirs.load_state_dict(teacher.weights)  # strict: all names and shapes are theirs
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        logits = theirs.classifier(theirs.features(images).flatten(1))
        torch.testing.assert_close(logits, model(images)[:, order])


@pytest.mark.parametrize(("arch", "side"), [("resnet18-modified", 32), ("resnet18", 224)])
def test_resnets_are_those_of_torchvision(arch: str, side: int) -> None:
    model: Any = build_model(arch, num_classes=5, side=side)
    teacher = as_teacher(model, arch, side, [4, 0])
    assert (teacher.model_name, teacher.use_torchvision) == ("ResNet-18-BN", True)
    assert torch.equal(teacher.weights["fc.weight"], model.fc.weight[[4, 0]])
    assert torch.equal(teacher.weights["conv1.weight"], model.conv1.weight)


@pytest.mark.parametrize(
    ("arch", "side"),
    [
        ("convnet2-w32", 8),
        ("convnet2-none", 8),
        ("resnetap10", 32),
        ("resnet18", 32),
        ("resnet18-modified", 16),
    ],
)
def test_networks_that_are_not_there(arch: str, side: int) -> None:
    model = build_model(arch, num_classes=2, side=side)
    with pytest.raises(PydreamError, match=f"no network like {arch} for images of side {side}"):
        as_teacher(model, arch, side, [0, 1])


def test_names_of_image_sets() -> None:
    assert dataset_name("cifar100:some/where") == "CIFAR100"
    assert dataset_name("../tiny imagenet") == "tiny-imagenet"
    assert dataset_name("/") == "images"
