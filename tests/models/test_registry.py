from __future__ import annotations

import sys
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from pydream.errors import PydreamError
from pydream.models import ConvNet, build_model

# Two float32 runs of the same layers in the same order.
EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}


@pytest.mark.parametrize(
    ("arch", "depth", "width", "norm"),
    [
        ("convnet3", 3, 128, "batch"),
        ("convnet4-w64", 4, 64, "batch"),
        ("convnet3-instance", 3, 128, "instance"),
        ("convnet2-instance-w16", 2, 16, "instance"),
        ("convnet2-w16-none", 2, 16, "none"),
        ("convnet1-batch", 1, 128, "batch"),
    ],
)
def test_convnet_names(arch: str, depth: int, width: int, norm: str) -> None:
    model = build_model(arch, num_classes=6, side=16, channels=2)
    assert isinstance(model, ConvNet)
    assert (model.depth, model.width, model.norm) == (depth, width, norm)
    assert model.training
    assert model(torch.zeros(2, 2, 16, 16)).shape == (2, 6)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_modified_resnets_are_torchvisions_with_another_stem(name: str) -> None:
    ours = build_model(f"{name}-modified", num_classes=10, side=32).eval()
    theirs = torchvision.models.get_model(name, num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        stem = theirs.relu(theirs.bn1(theirs.conv1(images)))
        assert stem.shape[2:] == (32, 32)
        blocks = nn.Sequential(theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
        wanted = theirs.fc(theirs.avgpool(blocks(stem)).flatten(1))
        torch.testing.assert_close(ours(images), wanted, **EXACT)


@pytest.mark.parametrize(
    ("arch", "side"),
    [("resnet18", 32), ("shufflenet_v2_x0_5", 32), ("vit_b_32", 32), ("googlenet", 32)],
)
def test_torchvision_models_return_logits_even_in_training(arch: str, side: int) -> None:
    model = build_model(arch, num_classes=5, side=side)
    assert model.training
    assert model(torch.randn(2, 3, side, side)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "side", "channels"), [("resnet10t", 64, 1), ("vit_tiny_patch16_224", 32, 3)]
)
def test_timm_models(name: str, side: int, channels: int) -> None:
    model = build_model(f"timm/{name}", num_classes=5, side=side, channels=channels)
    reference = timm.create_model(name, num_classes=5, in_chans=channels)
    assert set(model.state_dict()) == set(reference.state_dict())
    assert model(torch.randn(2, channels, side, side)).shape == (2, 5)


def test_timm_absent_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PydreamError, match=r"pip install .*timm"):
        build_model("timm/resnet18", num_classes=5, side=32)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("resnet19", "did you mean resnet18"),
        ("convent3", "did you mean convnet3"),
        ("resnet18-modifed", "did you mean resnet18-modified"),
        ("convnet3-w", "unknown architecture 'convnet3-w'"),
        ("convnet3-w64-w32", "unknown architecture"),
        ("convnet3-batch-none", "unknown architecture"),
        ("convnetx", "did you mean convnet"),
        ("timm/resnet19", "did you mean timm/resnet18"),
        ("fcn_resnet50", "unknown architecture"),
        ("vgg11-modified", "for torchvision's ResNets"),
        ("xyzzy", r"unknown architecture 'xyzzy'\. Known: convnet3 .*torchvision.*timm/NAME"),
        ("alexnet", "alexnet cannot take 32×32 images with 3 channels"),
        ("vit_b_32-modified", "cannot|ResNets"),
        ("convnet6", "at least 64, got 32"),
    ],
)
def test_names_that_cannot_be_built(arch: str, words: str) -> None:
    with pytest.raises(PydreamError, match=words) as error:
        build_model(arch, num_classes=5, side=32)
    assert "\n" not in str(error.value)


def test_a_side_that_patches_do_not_divide() -> None:
    with pytest.raises(PydreamError, match="vit_b_16 cannot be built for 30×30 images"):
        build_model("vit_b_16", num_classes=5, side=30)
    with pytest.raises(PydreamError, match=r"cannot (be built for|take) 8×8"):
        build_model("timm/vit_tiny_patch16_224", num_classes=5, side=8)


def test_other_channels_name_the_models_that_take_them() -> None:
    with pytest.raises(PydreamError, match=r"3 channels, not 1; ConvNets .* timm"):
        build_model("resnet18", num_classes=5, side=32, channels=1)


def test_no_classes() -> None:
    with pytest.raises(PydreamError, match="at least 1 class, got 0"):
        build_model("resnet18", num_classes=0, side=32)


def test_weights_come_from_the_global_generator() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model: Any = build_model("convnet2-w8", num_classes=3, side=8)
        weights.append(model.classifier.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
