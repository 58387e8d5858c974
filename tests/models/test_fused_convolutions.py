"""Convolutions of an observer that cuDNN fuses with what follows, played on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from pydream.models import build_model, load_observer
from pydream.models.inference import fold, fuse_convolutions

# Sums have their terms in another order: a rounding of 6e-8 in each of some twenty layers.
SAME: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
# On a GPU in 16 bits, the unfused network rounds each of twenty layers two or three times to 2^-8.
NEAR_IN_16_BITS = 0.1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels called, by what they do behind the convolution."""
    found: list[str] = []

    def fused(images: Any, weight: Any, bias: Any, *shape: Any) -> torch.Tensor:
        found.append("relu")
        return functional.conv2d(images, weight, bias, *shape).relu_()

    def fused_with_sum(
        images: Any, weight: Any, other: Any, alpha: float, bias: Any, *shape: Any
    ) -> torch.Tensor:
        found.append("add_relu")
        return functional.conv2d(images, weight, bias, *shape).add_(other, alpha=alpha).relu_()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", fused)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", fused_with_sum)
    return found


def folded(network: nn.Module, images: torch.Tensor) -> nn.Module:
    network.eval()
    with torch.no_grad():
        return fold(network, images, network(images))


@pytest.mark.parametrize(
    ("arch", "side", "relus", "sums"),
    [
        # One convolution before the blocks; in each of eight blocks one, and one with the sum.
        ("resnet18-modified", 16, 9, 8),
        ("resnet50-modified", 16, 33, 16),
        ("convnet3", 17, 3, 0),
        ("vgg11", 32, 8, 0),
        # Another layer stands between the convolution and the ReLU.
        ("convnet2-w24-none", 8, 0, 0),
        ("convnet2-w24-instance", 8, 0, 0),
    ],
)
def test_every_convolution_with_a_relu_behind_it_becomes_one_call(
    calls: list[str], arch: str, side: int, relus: int, sums: int
) -> None:
    torch.manual_seed(0)
    network = build_model(arch, num_classes=10, side=side)
    images = torch.randn(3, 3, side, side)
    plain = folded(network, images)
    fused = fuse_convolutions(plain, images)
    calls.clear()
    torch.testing.assert_close(fused(images), network(images), **SAME)
    assert sorted(calls) == ["add_relu"] * sums + ["relu"] * relus
    calls.clear()
    torch.testing.assert_close(plain(images), network(images), **SAME)  # as it was
    assert not calls
    weights = {id(weight) for weight in plain.parameters()}
    assert all(id(weight) in weights for weight in fused.parameters())


class Network(nn.Module):
    """One convolution, and a second one, used as a function says."""

    def __init__(self, use: Callable[[Any, torch.Tensor], torch.Tensor], **options: Any) -> None:
        super().__init__()
        self.use = use
        self.conv = nn.Conv2d(3, 3, 3, **{"padding": 1, **options})
        self.other = nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.use(self, images).mean((2, 3))


@pytest.mark.parametrize(
    "network",
    [
        Network(lambda own, x: own.conv(own.conv(x).relu()).relu()),  # called twice
        Network(lambda own, x: functional.relu(y := own.conv(x)) + y),  # used twice
        Network(lambda own, x: functional.relu(2 + own.conv(x))),  # a number
        Network(lambda own, x: functional.relu(torch.add(x, own.conv(x), alpha=3))),
        Network(lambda own, x: functional.relu(own.conv(x)), padding_mode="reflect"),
        Network(lambda own, x: functional.relu(own.conv(x)), padding="same"),
        Network(lambda own, x: functional.relu(own.conv(x).flatten(1)).view(-1, 3, 9, 9)),
        Network(lambda own, x: own.conv(x).sigmoid()),
    ],
)
def test_other_convolutions_stay_as_they_are(calls: list[str], network: Network) -> None:
    images = torch.randn(2, 3, 9, 9)
    fused = fuse_convolutions(folded(network, images), images)
    torch.testing.assert_close(fused(images), network(images), **SAME)
    assert not calls


def test_either_term_of_a_sum_may_be_the_convolution(calls: list[str]) -> None:
    images = torch.randn(2, 3, 9, 9)
    for use in (
        lambda own, x: functional.relu(own.conv(x) + x),
        lambda own, x: functional.relu(x + own.conv(x)),
        lambda own, x: functional.relu(own.conv(x) + own.other(x)),
    ):
        network = Network(use)
        fused = fuse_convolutions(folded(network, images), images)
        calls.clear()
        torch.testing.assert_close(fused(images), network(images), **SAME)
        assert calls == ["add_relu"]


def test_inputs_of_layers_may_be_named(calls: list[str]) -> None:
    """As in ``self.norm(input=self.conv(input=images))``."""

    def use(own: Any, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(input=own.active(input=own.norm(input=own.conv(input=x))) + x)

    images = torch.randn(2, 3, 9, 9)
    network = Network(use)
    network.norm, network.active = nn.BatchNorm2d(3), nn.ReLU()
    network.train()(images)  # so that its statistics are not those of no change
    plain = folded(network, images)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules())
    fused = fuse_convolutions(plain, images)
    calls.clear()
    torch.testing.assert_close(fused(images), network(images), **SAME)
    assert calls == ["relu"]


@pytest.mark.parametrize("wrong", ["an error", "another result", "no number"])
def test_a_network_that_the_kernels_do_not_take_stays(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def kernel(images: Any, weight: Any, bias: Any, *shape: Any) -> torch.Tensor:
        if wrong == "an error":
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        found = functional.conv2d(images, weight, bias, *shape)
        return found if wrong == "another result" else found * torch.nan

    monkeypatch.setattr(torch, "cudnn_convolution_relu", kernel)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 9, 9)
    plain = folded(Network(lambda own, x: functional.relu(own.conv(x))), images)
    assert fuse_convolutions(plain, images) is plain


def test_a_network_that_is_not_traced_stays(calls: list[str]) -> None:
    network = build_model("convnet3", num_classes=10, side=16)
    assert fuse_convolutions(network, torch.randn(2, 3, 16, 16)) is network
    assert not calls


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("arch", ["resnet18-modified", "convnet3"])
def test_an_observer_on_a_gpu_is_fused_and_computes_the_same(arch: str, precision: str) -> None:
    torch.manual_seed(0)
    network = build_model(arch, num_classes=10, side=16)
    images = torch.randn(5, 3, 16, 16)
    wanted = load_observer(network, arch=arch, side=16, precision="float32").logits(images)
    observer = load_observer(network, arch=arch, side=16, precision=precision, device="cuda")
    assert observer._model is not observer._differentiable
    share = 1e-4 if precision == "float32" else NEAR_IN_16_BITS
    found = observer.logits(images).cpu()
    assert (found - wanted).abs().max() <= share * wanted.abs().max()
    assert torch.equal(observer.logits(images[:2]).cpu(), found[:2])
