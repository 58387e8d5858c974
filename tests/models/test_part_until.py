from __future__ import annotations

import pytest
import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.models import load_observer
from pydream.models.layers import LayerFeatures, block_names
from pydream.models.registry import construct

# Folded batch norms round in another order; a wrong layer differs by its whole size.
FOLDED = 1e-4
ROUNDED = 1e-6  # of values near 1, in another memory layout


class Untraceable(nn.Module):
    """A network with Python control flow, which torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)])
        self.fc = nn.Linear(5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            images = block(images) if bool(images.isfinite().all()) else images
        logits: torch.Tensor = self.fc(images.mean((2, 3)))
        return logits


class OneNumber(nn.Module):
    """A network one of whose layers gives one number for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.fc = Whole(), nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(images.mean((2, 3)) + self.whole(images))
        return logits


class Whole(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean()


def network(arch: str, side: int) -> nn.Module:
    torch.manual_seed(0)
    model = construct(arch, num_classes=4, side=side).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after some training
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return model


def features_of(model: nn.Module, arch: str, side: int, wanted: str | None) -> LayerFeatures:
    observer = load_observer(model, arch=arch, side=side, precision="float32", device="cpu")
    return LayerFeatures(observer, wanted)


@pytest.mark.parametrize(
    ("arch", "side", "wanted", "layer"),
    [
        ("convnet3-w16", 16, None, "layers.pool.1"),
        ("convnet3-w16", 16, "3", "layers.pool.2"),
        ("convnet3-w16", 16, "layers.relu.1", "layers.relu.1"),
        ("convnet4-w16-instance", 16, None, "layers.pool.1"),
        ("resnet18", 32, None, "layer2.1"),
        ("resnet18", 32, "layer1", "layer1"),
        ("resnet18-modified", 8, "5", "layer3.0"),
        ("resnetap10", 16, None, "layer2.0"),
    ],
)
def test_a_part_gives_what_the_whole_network_has_at_the_layer(
    arch: str, side: int, wanted: str | None, layer: str
) -> None:
    """The oracle is a hook on the network before its batch norms were folded."""
    model, images = network(arch, side), torch.randn(3, 3, side, side)
    features = features_of(model, arch, side, wanted)
    assert features.layer == layer
    seen: list[torch.Tensor] = []
    model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: seen.append(output.clone())
    )
    with torch.no_grad():
        model(images)
    found = features(images)
    assert found.shape == seen[0].shape
    assert (found - seen[0]).abs().max() <= FOLDED * seen[0].abs().max()


def test_features_are_differentiable_in_the_images_and_not_in_the_weights() -> None:
    features = features_of(network("convnet3-w16", 16), "convnet3-w16", 16, None)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(features(images).square().sum(), images)
    step = 1e-3 * torch.randn_like(images)
    with torch.no_grad():
        change = (features(images + step).square() - features(images - step).square()).sum()
    # A difference quotient: ReLUs that switch within the step make it differ by some percent.
    assert float((slope * 2 * step).sum()) == pytest.approx(float(change), rel=0.05)
    assert not any(weight.requires_grad for weight in features._part.parameters())


def test_images_of_another_side_are_resized() -> None:
    observer = load_observer(
        network("convnet3-w16", 16), arch="convnet3-w16", side=16, precision="float32", device="cpu"
    )
    images = torch.rand(2, 3, 40, 40)
    resized = nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    larger = LayerFeatures(observer.resizing_from(40))
    assert torch.equal(larger(images), LayerFeatures(observer)(resized))


def test_a_network_that_cannot_be_traced() -> None:
    model = Untraceable()
    features = features_of(model, "mine", 8, "2")
    images = torch.randn(2, 3, 8, 8)
    assert features.layer == "blocks.1"
    expected = model.blocks[1](model.blocks[0](images))
    assert torch.allclose(features(images), expected, atol=ROUNDED)
    assert not model.blocks[1]._forward_hooks


def test_blocks_are_counted_from_the_outside() -> None:
    assert block_names(network("resnet18", 32))[:4] == [
        "layer1.0",
        "layer1.1",
        "layer2.0",
        "layer2.1",
    ]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("4", "has no layer 4; give --layer the number or name of one: 1 (layers.pool.0)"),
        ("0", "has no layer 0"),
        ("layers", "has no layer layers"),
        ("", "has no layer "),
    ],
)
def test_a_layer_that_does_not_exist_is_answered_by_those_that_do(wanted: str, words: str) -> None:
    with pytest.raises(PydreamError) as told:
        features_of(network("convnet3-w16", 16), "convnet3-w16", 16, wanted)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_layer_without_features_of_single_images_is_refused() -> None:
    with pytest.raises(PydreamError, match="whole of mine gives no features of single images"):
        features_of(OneNumber(), "mine", 8, "whole")


def test_a_network_without_blocks_asks_for_a_name() -> None:
    with pytest.raises(PydreamError, match="no numbered blocks; give --layer the name of one"):
        features_of(OneNumber(), "mine", 8, None)
