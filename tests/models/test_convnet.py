from __future__ import annotations

from typing import Any, TypeVar

import pytest
import torch
from torch.nn import functional

from pydream.errors import PydreamError
from pydream.models import ConvNet
from pydream.models.convnet import Norm

# Ours and the formulas run in float64; they differ by the order of sums of at most 9·width terms.
ROUNDING = 1e-10

Model = TypeVar("Model", bound=torch.nn.Module)


def randomised(model: Model, seed: int = 0) -> Model:
    """Draw every parameter and statistic, so that no layer is neutral by its initial values."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values * 0.3)
    return model


def functional_convnet(
    weights: dict[str, torch.Tensor], images: torch.Tensor, depth: int, norm: Norm, training: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a ConvNet computes, from its state dict."""
    for block in range(depth):
        images = functional.conv2d(
            images,
            weights[f"layers.conv.{block}.weight"],
            weights[f"layers.conv.{block}.bias"],
            padding=1,
        )
        if norm != "none":
            scale = weights[f"layers.norm.{block}.weight"].view(1, -1, 1, 1)
            shift = weights[f"layers.norm.{block}.bias"].view(1, -1, 1, 1)
            if norm == "batch" and not training:
                mean = weights[f"layers.norm.{block}.running_mean"].view(1, -1, 1, 1)
                variance = weights[f"layers.norm.{block}.running_var"].view(1, -1, 1, 1)
            else:
                over = (0, 2, 3) if norm == "batch" else (2, 3)
                mean = images.mean(over, keepdim=True)
                variance = images.var(over, keepdim=True, unbiased=False)
            images = (images - mean) / (variance + 1e-5).sqrt() * scale + shift
        images = images.clamp(min=0)
        height, width = images.shape[2] // 2 * 2, images.shape[3] // 2 * 2
        even, odd = slice(0, height, 2), slice(1, height, 2)
        images = images[:, :, :height, :width]
        corners = [images[:, :, y][..., x] for y in (even, odd) for x in (even, odd)]
        images = torch.stack(corners).sum(0) / 4
    features = images.reshape(len(images), -1)
    return features, features @ weights["classifier.weight"].T + weights["classifier.bias"]


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("depth", "side", "channels"), [(1, 2, 3), (2, 11, 1), (3, 19, 3)])
def test_it_computes_the_formula(
    norm: Norm, training: bool, depth: int, side: int, channels: int
) -> None:
    model = randomised(ConvNet(7, side, channels, depth, 5, norm).double()).train(training)
    images = torch.randn(3, channels, side, side, dtype=torch.float64)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    features, logits = functional_convnet(weights, images, depth, norm, training)
    torch.testing.assert_close(model.features(images), features, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(model(images), logits, rtol=ROUNDING, atol=ROUNDING)


def test_keys_are_those_of_the_published_checkpoints() -> None:
    names = set(ConvNet(10, 32, depth=2).state_dict())
    assert names == {
        f"layers.{layer}.{block}.{name}"
        for block in range(2)
        for layer, parts in (
            ("conv", ("weight", "bias")),
            ("norm", ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        )
        for name in parts
    } | {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_norms_without_statistics_treat_each_image_alone(norm: Norm) -> None:
    model = ConvNet(4, 8, depth=2, width=6, norm=norm).double()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_the_smallest_side_works_and_one_less_is_refused(depth: int) -> None:
    least = 2**depth
    assert ConvNet(2, least, depth=depth, width=4)(torch.zeros(2, 3, least, least)).shape == (2, 2)
    with pytest.raises(PydreamError, match=rf"at least {least}, got {least - 1}"):
        ConvNet(2, least - 1, depth=depth)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"width": -1}, "width must be at least 1, got -1"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"norm": "layer"}, "batch, instance, none, got 'layer'"),
    ],
)
def test_arguments_out_of_range_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(PydreamError, match=words):
        ConvNet(**{"num_classes": 10, "side": 32, **change})
