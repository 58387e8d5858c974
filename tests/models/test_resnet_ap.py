from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torchvision
from torch.nn import functional

from pydream.errors import PydreamError
from pydream.models import ResNetAP, build_model, load_observer, save_weights
from pydream.models.convnet import Norm

# Ours and the formulas run in float64; they differ by the order of sums of some thousand terms.
ROUNDING = 1e-9
# The observer's pass in float32, folded and in another layout, relative to the largest logit.
SAME_LOGITS = 1e-4

Model = TypeVar("Model", bound=torch.nn.Module)


def randomised(model: Model) -> Model:
    """Draw every scale and shift, so that no norm is neutral by its initial values."""
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
    return model


def normalised(
    images: torch.Tensor, weights: dict[str, torch.Tensor], name: str, norm: Norm
) -> torch.Tensor:
    if norm == "none":
        return images
    over = (0, 2, 3) if norm == "batch" else (2, 3)
    mean = images.mean(over, keepdim=True)
    variance = ((images - mean) ** 2).mean(over, keepdim=True)
    scale, shift = (weights[f"{name}.{kind}"].view(1, -1, 1, 1) for kind in ("weight", "bias"))
    normed: torch.Tensor = (images - mean) / (variance + 1e-5).sqrt() * scale + shift
    return normed


def pooled(images: torch.Tensor, by: int) -> torch.Tensor:
    height, width = (length // by * by for length in images.shape[2:])
    whole = images[:, :, :height, :width]
    shifted = [whole[:, :, y::by, x::by] for y in range(by) for x in range(by)]
    return torch.stack(shifted).sum(0) / by**2


def block(
    images: torch.Tensor, weights: dict[str, torch.Tensor], name: str, norm: Norm, halve: bool
) -> torch.Tensor:
    """A basic block, layer by layer, from the state dict."""
    inner = functional.conv2d(images, weights[f"{name}.conv1.weight"], padding=1)
    inner = normalised(inner, weights, f"{name}.bn1", norm).clamp(min=0)
    if halve:
        inner = pooled(inner, 2)
    inner = functional.conv2d(inner, weights[f"{name}.conv2.weight"], padding=1)
    inner = normalised(inner, weights, f"{name}.bn2", norm)
    if halve:
        # A convolution of 1 × 1 is a product at every pixel.
        kernel = weights[f"{name}.downsample.0.weight"][:, :, 0, 0]
        images = torch.einsum("oi,bihw->bohw", kernel, images)
        images = normalised(pooled(images, 2), weights, f"{name}.downsample.2", norm)
    return (inner + images).clamp(min=0)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(("stage", "inputs", "side"), [(1, 64, 5), (2, 64, 7), (4, 256, 6)])
def test_a_block_computes_the_formula(norm: Norm, stage: int, inputs: int, side: int) -> None:
    model = randomised(ResNetAP(3, 32, norm=norm).double()).train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(2, inputs, side, side, dtype=torch.float64)
    expected = block(images, weights, f"layer{stage}.0", norm, stage > 1)
    found = getattr(model, f"layer{stage}")(images)
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(("side", "kernel", "pool"), [(16, 3, 1), (65, 3, 2), (129, 7, 4)])
def test_the_whole_computes_the_formula(side: int, kernel: int, pool: int) -> None:
    model = randomised(ResNetAP(3, side, channels=2).double())
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = torch.randn(2, 2, side, side, dtype=torch.float64)
    assert weights["layer0.conv1.weight"].shape == (64, 2, kernel, kernel)
    images = functional.conv2d(start, weights["layer0.conv1.weight"], padding=kernel // 2)
    images = normalised(images, weights, "layer0.bn1", "instance").clamp(min=0)
    images = pooled(images, pool)
    for stage in (1, 2, 3, 4):
        images = block(images, weights, f"layer{stage}.0", "instance", stage > 1)
    features = images.flatten(2).sum(2) / images[0, 0].numel()
    logits = features @ weights["fc.weight"].T + weights["fc.bias"]
    with torch.no_grad():
        torch.testing.assert_close(model.features(start), features, rtol=ROUNDING, atol=ROUNDING)
        torch.testing.assert_close(model(start), logits, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (32, [32, 32, 16, 8, 4]),
        (64, [64, 64, 32, 16, 8]),
        (96, [48, 48, 24, 12, 6]),
        (128, [64, 64, 32, 16, 8]),
        (160, [40, 40, 20, 10, 5]),
        (224, [56, 56, 28, 14, 7]),
    ],
)
def test_shapes(side: int, sides: list[int]) -> None:
    model: Any = build_model("resnetap10", num_classes=10, side=side)
    seen = []
    for number in range(5):
        getattr(model, f"layer{number}").register_forward_hook(
            lambda module, inputs, output: seen.append(tuple(output.shape[1:]))
        )
    with torch.no_grad():
        images = torch.randn(2, 3, side, side)
        assert model(images).shape == (2, 10)
        assert model.features(images).shape == (2, 512)
    widths = [64, 64, 128, 256, 512]
    assert seen[:5] == [(width, side, side) for width, side in zip(widths, sides, strict=True)]


def test_parameters_counted_by_hand() -> None:
    stem = 3 * 64 * 7 * 7 + 2 * 64
    first = 2 * 9 * 64 * 64 + 4 * 64
    # Two convolutions of 3 × 3, one of 1 × 1, three norms.
    halved = [9 * n * 2 * n + 9 * 2 * n * 2 * n + n * 2 * n + 6 * 2 * n for n in (64, 128, 256)]
    total = stem + first + sum(halved) + 512 * 10 + 10
    assert total == 4_910_922
    model = ResNetAP(10, 224)
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    small = ResNetAP(10, 32, channels=1)
    assert (
        sum(parameter.numel() for parameter in small.parameters()) == total - 3 * 64 * 49 + 64 * 9
    )


@pytest.mark.parametrize("depth", [18, 34])
def test_deeper_ones_have_the_parameters_of_resnets(depth: int) -> None:
    ours = build_model(f"resnetap{depth}-batch", num_classes=1000, side=224)
    theirs = torchvision.models.get_model(f"resnet{depth}")
    shapes = [
        sorted(tuple(parameter.shape) for parameter in m.parameters()) for m in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]


def test_convolutions_are_he_normal_by_their_outputs_and_have_no_bias() -> None:
    torch.manual_seed(0)
    model = ResNetAP(10, 224)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 1 + 8 + 3
    for convolution in convolutions:
        assert convolution.bias is None
        assert convolution.stride == (1, 1)
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        # Of a spread's estimate from 8192 and more values, five of its own.
        assert float(convolution.weight.detach().std()) == pytest.approx(
            (2 / fan_out) ** 0.5, rel=0.04
        )
    assert all(
        parameter.abs().max() == 0
        for name, parameter in model.named_parameters()
        if "bn1.b" in name
    )


@pytest.mark.parametrize(
    ("arch", "depth", "norm"),
    [
        ("resnetap10", 10, "instance"),
        ("resnetap10-instance", 10, "instance"),
        ("resnetap18-batch", 18, "batch"),
        ("resnetap34-none", 34, "none"),
    ],
)
def test_names(arch: str, depth: int, norm: Norm) -> None:
    model = build_model(arch, num_classes=6, side=16, channels=1)
    assert isinstance(model, ResNetAP)
    assert (model.depth, model.norm, model.side) == (depth, norm, 16)
    assert model.training
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 6)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("resnetap12", "unknown architecture 'resnetap12'; did you mean resnetap1"),
        ("resnetap50", "unknown architecture 'resnetap50'"),
        ("resnetap10-layer", "unknown architecture"),
        ("resnetap10-batch-none", "unknown architecture"),
        ("resnetap10-instnce", "did you mean resnetap10-instance"),
        ("resnetap", "did you mean resnetap"),
        ("resnet-ap10", "did you mean resnetap10"),
        ("xyzzy", "Known: .*resnetap10"),
    ],
)
def test_names_that_cannot_be_built(arch: str, words: str) -> None:
    with pytest.raises(PydreamError, match=words) as error:
        build_model(arch, num_classes=5, side=32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("norm", "least"), [("instance", 16), ("batch", 8), ("none", 8)])
def test_the_smallest_side_tells_images_apart_and_one_less_is_refused(
    norm: Norm, least: int
) -> None:
    model = ResNetAP(2, least, norm=norm)
    features = model.features(torch.randn(2, 3, least, least))
    assert not torch.allclose(features[0], features[1])
    with pytest.raises(
        PydreamError, match=rf"with {norm} norm .* at least {least}, got {least - 1}"
    ):
        ResNetAP(2, least - 1, norm=norm)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"depth": 50}, "depth must be one of 10, 18, 34, got 50"),
        ({"norm": "layer"}, "batch, instance, none, got 'layer'"),
    ],
)
def test_arguments_out_of_range_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(PydreamError, match=words):
        ResNetAP(**{"num_classes": 10, "side": 32, **change})


@pytest.mark.parametrize("arch", ["resnetap10", "resnetap10-batch"])
def test_an_observer_of_the_file_and_of_the_module_says_the_same(tmp_path: Path, arch: str) -> None:
    model = randomised(build_model(arch, num_classes=7, side=24)).eval()
    path = tmp_path / "weights.safetensors"
    save_weights(model, path, {"arch": arch, "side": "24"})
    images = torch.randn(5, 3, 24, 24)
    with torch.no_grad():
        expected = model(images)
    for given in (path, model):
        observer = load_observer(given, precision="float32")
        assert (observer.side, observer.num_classes) == (24, 7)
        found = observer.logits(images)
        assert (found - expected).abs().max() <= SAME_LOGITS * expected.abs().max()


def test_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = build_model("resnetap10", num_classes=4, side=16)
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
