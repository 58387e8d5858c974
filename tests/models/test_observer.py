from __future__ import annotations

import copy
import functools
import io
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch_states import default_dtype

from pydream import _C
from pydream.errors import PydreamError
from pydream.models import ConvNet, Observer, build_model, load_observer, save_weights
from pydream.models.checkpoint import hash_weights
from pydream.models.loading import _Undrawn, resolve_precision

# Folding moves the scale of a batch norm into the weights before it: the same sums of float32
# products, rounded elsewhere. Each layer adds some units of 6e-8 of its largest output; twenty to
# fifty layers stay within 1e-4 of the largest logit. A wrong fold (mean, variance or shift left
# out) is off by more than 1e-2.
FOLDED = 1e-4
# bfloat16 keeps 8 bits: each of the few layers here adds errors of 2^-8 of its largest output.
BFLOAT16 = 0.05
# A sample of n test images has a standard deviation of sqrt(p(1-p)/n): 1.3 points for 1000 at 77 %.
STANDARD_DEVIATIONS = 4


def trained_like(arch: str, num_classes: int, side: int) -> nn.Module:
    """A model whose batch norms have statistics that fit its activations, as after training."""
    torch.manual_seed(1)
    model = build_model(arch, num_classes=num_classes, side=side)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = None
    with torch.no_grad():
        model(torch.randn(8, 3, side, side))
    return model.eval()


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize(
    ("arch", "side"),
    [
        ("convnet3", 32),
        ("convnet2-w24-instance", 19),
        ("convnet2-w24-none", 8),
        ("resnet18-modified", 16),
        ("mobilenet_v2", 32),
        ("densenet121", 32),
        ("timm/resnet10t", 64),
        ("timm/vit_tiny_patch16_224", 32),
    ],
)
def test_it_computes_what_the_model_computes(arch: str, side: int) -> None:
    model = trained_like(arch, 11, side)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(5, 3, side, side)
    logits = load_observer(model, arch=arch, side=side, precision="float32").logits(images)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    with torch.no_grad():
        close(logits, model(images), FOLDED)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("arch", ["convnet3", "convnet2-w24-instance", "convnet2-w24-none"])
def test_bfloat16_is_near(arch: str) -> None:
    model = trained_like(arch, 11, 16)
    images = torch.randn(5, 3, 16, 16)
    observer = load_observer(model, precision="bfloat16")
    logits = observer.logits(images)
    assert torch.equal(observer.logits(images.bfloat16()), logits)
    assert (logits.dtype, observer.precision) == (torch.float32, "bfloat16")
    with torch.no_grad():
        close(logits, model(images), BFLOAT16)
    assert not torch.equal(logits, load_observer(model, precision="float32").logits(images))


def norms(observer: Observer) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in observer._model.modules())


@pytest.mark.parametrize("arch", ["convnet3", "resnet18", "mobilenet_v2"])
def test_batch_norms_after_convolutions_are_gone(arch: str) -> None:
    assert norms(load_observer(build_model(arch, num_classes=3, side=32), side=32)) == 0


class SharedLayers(nn.Module):
    """One convolution used twice, its first output used twice, a norm used twice, a shared ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(3, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        once = self.first(self.conv(images))
        both = self.relu(once) + once
        again = self.second(self.conv(both))
        mixed = self.relu(again) - self.relu(images + 1) + images
        logits: torch.Tensor = self.classifier(mixed.mean((2, 3)))
        return logits


class LooksAtValues(nn.Module):
    """Cannot be traced: what it computes depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen: torch.Tensor = self.norm(self.conv(images)).mean((2, 3))
        return seen if seen[0, 0] > 1e9 else -seen


@pytest.mark.parametrize("kind", [SharedLayers, LooksAtValues])
def test_models_that_do_not_fold_run_as_they_are(kind: Callable[[], nn.Module]) -> None:
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean)
    observer = load_observer(model, side=8, precision="float32")
    assert norms(observer) == norms_of(model)
    images = torch.randn(4, 3, 8, 8)
    kept = images.clone()
    with torch.no_grad():
        close(observer.logits(images), model(images), FOLDED)
    assert torch.equal(images, kept)
    assert observer.arch == kind.__name__


def norms_of(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("arch", "side", "precision"),
    [
        ("convnet3", 32, "float32"),
        ("convnet3", 32, "bfloat16"),
        ("resnet18-modified", 16, "float32"),
        ("resnet18-modified", 16, "bfloat16"),
        ("resnet18", 224, "float32"),  # in bfloat16 minutes, where the processor has none
    ],
)
def test_a_row_does_not_depend_on_its_tile(arch: str, side: int, precision: str) -> None:
    observer = load_observer(
        trained_like(arch, 10, side), arch=arch, side=side, precision=precision
    )
    image = torch.randn(3, side, side)
    alone = observer.logits(image[None])[0]
    images = torch.randn(observer.tile + 1, 3, side, side) * 3
    places = [1, observer.tile - 1, observer.tile]
    images[places] = image
    assert torch.equal(observer.logits(images)[places], alone.expand(3, -1))


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 130])
def test_any_number_of_rows_in_any_layout(rows: int) -> None:
    model = trained_like("convnet2-w8", 3, 8)
    observer = load_observer(model, precision="float32")
    assert observer.tile == 64
    images = torch.randn(rows, 3, 8, 8)
    logits = observer.logits(images)
    assert logits.shape == (rows, 3)
    if rows:
        with torch.no_grad():
            close(logits, model(images), FOLDED)
    channels_last = images.to(memory_format=torch.channels_last)
    strided = torch.randn(rows, 8, 8, 6)[..., ::2].permute(0, 3, 1, 2).copy_(images)
    assert torch.equal(observer.logits(channels_last), logits)
    assert torch.equal(observer.logits(strided), logits)


@pytest.mark.parametrize(("arch", "side"), [("convnet3", 32), ("resnet18", 224), ("convnet1", 256)])
def test_tiles_keep_the_biggest_activation_below_32_mb(arch: str, side: int) -> None:
    observer = load_observer(build_model(arch, num_classes=2, side=side), side=side)
    widest = {"convnet3": 128 * 32**2, "resnet18": 64 * 112**2, "convnet1": 128 * 256**2}[arch]
    size = widest * (2 if observer.precision == "bfloat16" else 4)
    assert observer.tile == 1 or observer.tile * size < 2**25
    assert observer.tile == 64 or 2 * observer.tile * size >= 2**25


def test_logits_can_be_targets_of_a_loss() -> None:
    observer = load_observer(trained_like("convnet2-w8", 3, 8))
    student = torch.randn(4, 3, requires_grad=True)
    targets = observer.logits(torch.randn(4, 3, 8, 8)).softmax(1)
    nn.functional.kl_div(student.log_softmax(1), targets, reduction="batchmean").backward()
    assert student.grad is not None


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.zeros(2, 3, 8, 9), ValueError, r"\(B, 3, 8, 8\), got \(2, 3, 8, 9\)"),
        (torch.zeros(2, 1, 8, 8), ValueError, r"got \(2, 1, 8, 8\)"),
        (torch.zeros(3, 8, 8), ValueError, r"got \(3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "got uint8"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.float64), TypeError, "got float64"),
    ],
)
def test_images_of_another_kind(images: torch.Tensor, error: type[Exception], words: str) -> None:
    observer = load_observer(build_model("convnet2-w8", num_classes=3, side=8))
    with pytest.raises(error, match=words):
        observer.logits(images)


def test_another_side_where_the_architecture_takes_it() -> None:
    model = trained_like("resnet18-modified", 3, 16)
    observer = load_observer(model, side=32, precision="float32")
    smaller = observer.with_side(16)
    assert (smaller.side, observer.side) == (16, 32)
    assert smaller.tile >= observer.tile
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        close(smaller.logits(images), model(images), FOLDED)


@pytest.mark.parametrize("arch", ["convnet2-w8", "timm/vit_tiny_patch16_224"])
def test_another_side_where_the_architecture_does_not_take_it(arch: str) -> None:
    observer = load_observer(build_model(arch, num_classes=3, side=64), side=64)
    with pytest.raises(PydreamError, match="images of 64 pixels a side only, not of 32"):
        observer.with_side(32)
    assert observer.logits(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_class_order(tmp_path: Path) -> None:
    save_weights(
        trained_like("convnet2-w8", 4, 8),
        tmp_path / "w.safetensors",
        {"arch": "convnet2-w8", "classes": '["a", "b", "c", "d"]'},
    )
    observer = load_observer(tmp_path / "w.safetensors")
    images = torch.randn(3, 3, 8, 8)
    logits = observer.logits(images)
    turned = observer.with_class_order([2, 0, 3, 1])
    assert torch.equal(turned.logits(images), logits[:, [2, 0, 3, 1]])
    assert turned.class_names == ("c", "a", "d", "b")
    twice = turned.with_class_order(np.array([1, 2]))  # type: ignore[arg-type]
    assert torch.equal(twice.logits(images), logits[:, [0, 3]])
    assert (twice.class_names, twice.num_classes) == (("a", "d"), 2)
    assert torch.equal(observer.logits(images), logits)
    assert (observer.class_names, observer.num_classes) == (("a", "b", "c", "d"), 4)


@pytest.mark.parametrize("order", [[], [0, 0], [0, 4], [-1, 2]])
def test_class_orders_that_are_none(order: list[int]) -> None:
    observer = load_observer(build_model("convnet2-w8", num_classes=4, side=8))
    with pytest.raises(ValueError, match="order must hold"):
        observer.with_class_order(order)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_all_is_taken_from_the_file(tmp_path: Path, suffix: str) -> None:
    model = trained_like("convnet2-w8-instance", 5, 24)
    path = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        metadata = {
            "arch": "convnet2-w8",
            "norm": "instance",
            "mean": "0.1,0.2,0.3",
            "std": "0.4, 0.5, 0.6",
            "classes": "5, sorted",
        }
        save_weights(model, path, metadata)
        observer = load_observer(path, precision="float32")
        assert observer.mean == (0.1, 0.2, 0.3)
        assert observer.std == (0.4, 0.5, 0.6)
    else:
        torch.save(model.state_dict(), path)
        observer = load_observer(path, arch="convnet2-w8-instance", precision="float32")
        assert observer.mean == (0.485, 0.456, 0.406)
        assert observer.std == (0.229, 0.224, 0.225)
    assert (observer.arch, observer.side, observer.num_classes) == ("convnet2-w8-instance", 24, 5)
    assert observer.class_names is None
    assert observer.weights_sha256 == hash_weights(model.state_dict())
    assert observer.weights_sha256 == load_observer(model).weights_sha256
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        close(observer.logits(images), model(images), FOLDED)


@pytest.mark.parametrize("arch", ["squeezenet1_1", "timm/resnet10t"])
def test_classes_are_counted_whatever_the_classifier_is_called(tmp_path: Path, arch: str) -> None:
    model = build_model(arch, num_classes=6, side=64)
    save_weights(model, tmp_path / "w.safetensors", {"arch": arch, "side": "64"})
    observer = load_observer(tmp_path / "w.safetensors")
    assert (observer.num_classes, observer.side) == (6, 64)


def test_what_is_given_goes_before_what_is_in_the_file(tmp_path: Path) -> None:
    model = build_model("resnet18-modified", num_classes=4, side=32)
    metadata = {"arch": "resnet18", "side": "64", "mean": "0,0,0", "std": "1,1,1"}
    save_weights(model, tmp_path / "w.safetensors", metadata)
    observer = load_observer(
        tmp_path / "w.safetensors",
        arch="resnet18-modified",
        num_classes=4,
        side=40,
        mean=[0.5, 0.5, 0.5],
        std=(0.2, 0.2, 0.2),
    )
    assert (observer.arch, observer.side) == ("resnet18-modified", 40)
    assert (observer.mean, observer.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    ("metadata", "options", "words"),
    [
        ({"arch": "convnet2"}, {}, "those of convnet2-w8; give --observer-arch convnet2-w8"),
        ({}, {"arch": "convnet2-w8", "num_classes": 9}, "trained for 4 classes"),
        ({}, {"arch": "convnet2-w8", "side": 16}, r"\(4, 32\) in .* but \(4, 128\) .* 16×16"),
        (
            {},
            {"arch": "mobilenet_v2"},
            "not hold weights for mobilenet_v2: .* those of convnet2-w8; give --observer-arch",
        ),
        ({}, {"arch": "resnet81"}, "did you mean resnet18"),
        ({"arch": "convnet2-w8", "side": "big"}, {}, "image side 'big'; give --observer-side"),
        ({"arch": "convnet2-w8", "mean": "0.5"}, {}, "mean of .* three numbers, got '0.5'"),
        (
            {"arch": "convnet2-w8", "std": "1,x,1"},
            {},
            "std of .* three numbers above 0, got '1,x,1'",
        ),
        ({"arch": "convnet2-w8", "std": "1,0,1"}, {}, "std of .* got '1,0,1'; give --observer-std"),
        (
            {"arch": "convnet2-w8"},
            {"mean": (1, float("nan"), 1)},
            "mean of .* give --observer-mean",
        ),
        ({"arch": "convnet2-w8", "classes": '["a"]'}, {}, "names 1 classes but its model has 4"),
        ({"arch": "convnet2-w8"}, {"precision": "half"}, "auto or one of float32, .* got 'half'"),
        ({"arch": "convnet2-w8"}, {"precision": "float16"}, "float16 is for GPUs"),
        ({"arch": "convnet2-w8"}, {"device": "nowhere"}, "device 'nowhere' cannot be used"),
    ],
)
def test_checkpoints_that_do_not_fit(
    tmp_path: Path, metadata: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    save_weights(build_model("convnet2-w8", num_classes=4, side=8), tmp_path / "w", metadata)
    with pytest.raises(PydreamError, match=words) as error:
        load_observer(tmp_path / "w", **options)
    assert "\n" not in str(error.value)


def test_modules_that_do_not_fit() -> None:
    model = build_model("convnet2-w8", num_classes=4, side=8)
    with pytest.raises(PydreamError, match="has 4 classes, not 5"):
        load_observer(model, num_classes=5)
    with pytest.raises(PydreamError, match="ConvNet cannot take 32×32 images"):
        load_observer(model, side=32)
    with pytest.raises(PydreamError, match=r"Conv2d is not a classifier.*\(2, 2, 6, 6\)"):
        load_observer(nn.Conv2d(3, 2, 3), side=8)


def test_the_global_generator_is_left_as_it_was(tmp_path: Path) -> None:
    save_weights(
        build_model("convnet2-w8", num_classes=4, side=8),
        tmp_path / "w",
        {"arch": "convnet2-w8"},
    )
    before = torch.get_rng_state()
    load_observer(tmp_path / "w")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_identity_tells_whatever_changes_the_logits() -> None:
    torch.manual_seed(0)
    network = build_model("convnet2-w8-batch", num_classes=4, side=8)
    usual = load_observer(network, precision="float32")
    images = torch.rand(3, 3, 8, 8)
    for other in (
        usual.with_class_order([1, 0, 2, 3]),
        load_observer(network, precision="bfloat16"),
    ):
        assert other.identity() != usual.identity()
        assert not torch.equal(other.logits(images), usual.logits(images))
    assert usual.resizing_from(16).identity() != usual.identity()
    assert usual.with_normalisation((0.5,) * 3, usual.std).identity() != usual.identity()
    assert usual.with_class_order([0, 1, 2, 3]).identity() == usual.identity()


@pytest.mark.parametrize(("native", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, native: bool, wanted: str
) -> None:
    monkeypatch.setattr(_C, "native_bfloat16", lambda: native)
    observer = load_observer(build_model("convnet2-w8", num_classes=4, side=8))
    assert observer.precision == wanted


@pytest.mark.parametrize(("native", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_follows_the_gpu_in_use(
    monkeypatch: pytest.MonkeyPatch, native: bool, wanted: str
) -> None:
    asked: list[torch.device] = []

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    def entered(device: torch.device) -> nullcontext[None]:
        asked.append(device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device", entered)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", torch.device("cuda", 1)) == wanted
    assert asked == [torch.device("cuda", 1)]


def test_observers_can_be_copied_and_moved_between_threads() -> None:
    observer = load_observer(trained_like("convnet2-w8", 4, 8))
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(copy.deepcopy(observer).logits(images), observer.logits(images))


def test_the_real_checkpoint_reaches_its_stated_accuracy(data_root: Path) -> None:
    observer = load_observer(data_root / "observers" / "cifar10_convnet3_batchnorm.safetensors")
    assert (observer.arch, observer.side, observer.num_classes) == ("convnet3", 32, 10)
    images, labels = [], []
    with zipfile.ZipFile(data_root / "cifar10.zip") as archive:
        names = sorted(name for name in archive.namelist() if "/test/" in name and name[-1] != "/")
        classes = sorted({name.split("/")[2] for name in names})
        for name in names[::5]:
            image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            images.append(np.asarray(image, np.float32) / 255)
            labels.append(classes.index(name.split("/")[2]))
    normalised = (np.stack(images) - observer.mean) / observer.std
    logits = observer.logits(torch.tensor(normalised, dtype=torch.float32).permute(0, 3, 1, 2))
    accuracy = (logits.argmax(1) == torch.tensor(labels)).double().mean().item()
    deviation = (0.7723 * (1 - 0.7723) / len(labels)) ** 0.5
    assert abs(accuracy - 0.7723) < STANDARD_DEVIATIONS * deviation


def test_no_weights_are_drawn_that_will_be_loaded() -> None:
    with _Undrawn():
        state = torch.get_rng_state()
        for arch in ("convnet3", "resnetap10", "resnet18", "mobilenet_v2", "timm/resnet10t"):
            build_model(arch, num_classes=7, side=32)
        assert torch.equal(torch.get_rng_state(), state)
    build_model("convnet3", num_classes=7, side=32)
    assert not torch.equal(torch.get_rng_state(), state)


def test_a_compiled_observer_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # As for the ops: traced, but not made into kernels, which PyTorch would take 20 seconds for.
    traced = functools.partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", traced)
    model = trained_like("convnet2-w8", 5, 8)
    images = torch.randn(70, 3, 8, 8)
    options: dict[str, Any] = {"arch": "convnet2-w8", "side": 8, "precision": "float32"}
    observer = load_observer(model, compiled=True, **options)
    close(observer.logits(images), load_observer(model, **options).logits(images), FOLDED)
    assert observer.with_side(8).tile == observer.tile


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: nn.Module, **options: Any) -> None:
        self._compiled_call_impl = lambda *arguments: (_ for _ in ()).throw(OSError("no g++"))

    monkeypatch.setattr(nn.Module, "compile", broken)
    with pytest.raises(
        PydreamError, match=r"torch\.compile cannot .* convnet2-w8 on cpu: no g\+\+"
    ):
        load_observer(
            build_model("convnet2-w8", num_classes=4, side=8), arch="convnet2-w8", compiled=True
        )


@pytest.mark.parametrize("count", [0, 1, 70])
def test_features_are_what_enters_the_last_linear_layer(count: int) -> None:
    torch.manual_seed(0)
    model = ConvNet(5, 8, depth=2, width=6, norm="instance").eval()
    observer = load_observer(copy.deepcopy(model), side=8, precision="float32")
    images = torch.randn(count, 3, 8, 8)
    with torch.no_grad():
        expected = model.features(images)
    torch.testing.assert_close(observer.features(images), expected, rtol=1e-4, atol=1e-5)


def test_features_where_the_input_of_the_last_layer_is_named() -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.nn.Linear(3, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.last(input=images.mean((2, 3)))
            return logits

    images = torch.randn(2, 3, 8, 8)
    found = load_observer(Network(), side=8, precision="float32").features(images)
    torch.testing.assert_close(found, images.mean((2, 3)))


def test_features_of_a_network_without_linear_layers_are_its_logits() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8), torch.nn.Flatten()).eval()
    observer = load_observer(model, side=8)
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(observer.features(images), observer.logits(images))


def test_an_observer_answers_in_float32_whatever_the_default_dtype_is(tmp_path: Path) -> None:
    model = trained_like("convnet2-w8", 4, 8)
    save_weights(model, tmp_path / "w.safetensors", {"arch": "convnet2-w8", "side": "8"})
    images = torch.randn(3, 3, 8, 8)
    expected = load_observer(tmp_path / "w.safetensors", precision="float32", device="cpu")
    wanted_answers = expected.logits(images), expected.features(images)
    with default_dtype():
        observer = load_observer(tmp_path / "w.safetensors", precision="float32", device="cpu")
        answers = observer.logits(images), observer.features(images)
    for got, wanted in zip(answers, wanted_answers, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"arch": "c\x7fnvnet2-w8", "side": "8"}, "unknown architecture"),
        ({"arch": "convnet2-w8", "side": "2"}, "the side must be at least 4"),
    ],
)
def test_what_a_file_says_wrongly_is_named_with_it(
    tmp_path: Path, facts: dict[str, str], words: str
) -> None:
    file = tmp_path / "w.safetensors"
    save_weights(build_model("convnet2-w8", num_classes=4, side=8), file, facts)
    with pytest.raises(PydreamError, match=words) as caught:
        load_observer(file, device="cpu")
    assert str(file) in str(caught.value)
