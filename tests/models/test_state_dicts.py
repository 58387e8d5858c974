from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.models import build_model, load_into, load_observer, read_weights
from pydream.models.checkpoint import Checkpoint, hash_weights, open_checkpoint
from pydream.models.config import ObserverSettings
from pydream.models.loading import load_configured_observer
from pydream.models.recognise import recognise_arch, recognise_side
from pydream.models.registry import construct
from pydream.models.state_dicts import choose_reading, readings

ROUNDING = 1e-5  # of the largest logit: the same float32 sums in another order

Weights = dict[str, torch.Tensor]


def small(seed: int = 0) -> Weights:
    torch.manual_seed(seed)
    return build_model("convnet2-w8", num_classes=4, side=8).state_dict()


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def saved(path: Path, content: object) -> Checkpoint:
    torch.save(content, path)
    return open_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": prefixed(small(), "model."), "pytorch-lightning_version": "2.4.0"},
        {"state_dict": prefixed(small(), "net._orig_mod.")},
        {"net": prefixed(small(), "module."), "acc": 93.0, "epoch": 3},
        {"model": small(), "optimizer": {"state": {}}, "epoch": 3},
        {"module": prefixed(small(), "module."), "ds_version": "0.15"},
        prefixed(small(), "timm_model."),
        prefixed(small(), "backbone."),
    ],
)
def test_what_trainers_write_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    found = saved(tmp_path / "w.ckpt", content)
    assert same(found.weights, small())
    assert found.remark == ""


def test_weights_of_a_loss_beside_the_network_are_left_out_and_said(tmp_path: Path) -> None:
    content = {"state_dict": {**prefixed(small(), "model."), "criterion.weight": torch.ones(4)}}
    torch.save(content, tmp_path / "w.ckpt")
    observer = load_observer(tmp_path / "w.ckpt", precision="float32")
    assert observer.weights_sha256 == hash_weights(small())
    assert observer.origins["weights"] == "without criterion.weight, which is outside the network"
    known = {hash_weights(small()): {"mean": (0.1, 0.2, 0.3)}}
    observer = load_configured_observer(
        tmp_path / "w.ckpt",
        ObserverSettings(),
        arch=None,
        side=8,
        kept=lambda sha256: known.get(sha256, {}),
        precision="float32",
        device="cpu",
    )
    assert observer.mean == (0.1, 0.2, 0.3)
    model = build_model("convnet2-w8", num_classes=4, side=8)
    load_into(model, "w.ckpt", read_weights(tmp_path / "w.ckpt")[0], "convnet2-w8")
    assert same(model.state_dict(), small())


@pytest.mark.parametrize("prefixes", [(), ("module.",), ("net.", "_orig_mod."), ("model.",)])
def test_a_part_that_is_called_as_wrappers_are_keeps_its_name(
    tmp_path: Path, prefixes: tuple[str, ...]
) -> None:
    """timm's VOLO has most of its weights in a part called network; a loss may be beside it."""
    parts = {
        "stem": nn.Conv2d(3, 4, 3),
        "network": nn.ModuleList(nn.Linear(4, 4) for _ in range(3)),
    }
    model = nn.ModuleDict({**parts, "head": nn.Linear(4, 2)})
    weights = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    content = prefixed(weights, "".join(prefixes))
    if prefixes == ("model.",):
        content["criterion.weight"] = torch.ones(4)
    found = saved(tmp_path / "w.pt", content).weights
    place, _ = choose_reading(readings(found), weights)
    assert same(readings(found)[place], weights)
    load_into(model, "w.pt", found, "a network")
    assert same(model.state_dict(), weights)


def test_a_checkpoint_of_numbered_tensors_holds_no_state_dict(tmp_path: Path) -> None:
    torch.save({0: torch.ones(2), "step": 3}, tmp_path / "w.pt")
    with pytest.raises(PydreamError, match="it holds no state dict"):
        read_weights(tmp_path / "w.pt")


def test_averaged_weights_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    found = saved(tmp_path / "w.pth", {"state_dict_ema": prefixed(small(), "module.")})
    assert same(found.weights, small())
    assert found.remark == "the averaged weights in state_dict_ema"
    swa = {"n_averaged": torch.tensor(3), **prefixed(small(), "module.")}
    found = saved(tmp_path / "swa.pth", swa)
    assert same(found.weights, small())
    assert found.remark == "the averaged weights of SWA or EMA"


def test_trained_weights_come_before_averaged_ones_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = saved(tmp_path / "w.pth", {"model_ema": small(1), "model": small(0)})
    assert same(found.weights, small(0))
    assert found.remark == "the weights in model, not the averaged ones in model_ema"
    assert load_observer(tmp_path / "w.pth").origins["weights"] == found.remark


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    weights = small()
    weights["classifier.bias"][1] = value
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(PydreamError, match=r"w\.pth has weights .*NaN .*classifier\.bias.*earlier"):
        load_observer(tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in small().items() if tensor.dim()}
    torch.save(weights, tmp_path / "w.pth")
    observer = load_observer(tmp_path / "w.pth", precision="float32")
    reference = build_model("convnet2-w8", num_classes=4, side=8)
    reference.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        wanted = reference.eval()(images)
    torch.testing.assert_close(observer.logits(images), wanted, rtol=0, atol=1e-5)


def test_the_weights_of_a_cifar_resnet_are_read_under_other_names(tmp_path: Path) -> None:
    """As kuangliu/pytorch-cifar and DC name them; the network is torchvision's but for its stem."""
    torch.manual_seed(0)
    model = build_model("resnet18-modified", num_classes=4, side=32)
    weights = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save({"net": weights, "acc": 95.0, "epoch": 199}, tmp_path / "ckpt.pth")
    observer = load_observer(tmp_path / "ckpt.pth", precision="float32")
    assert (observer.arch, observer.side) == ("resnet18-modified", 32)
    assert observer.origins["arch"] == "by the shapes of the weights"
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model.eval()(images)
    assert (observer.logits(images) - wanted).abs().max() <= 10 * ROUNDING * wanted.abs().max()
    with pytest.raises(PydreamError, match="give --observer-arch resnet18-modified"):
        load_observer(tmp_path / "ckpt.pth", arch="resnet18", side=32)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_a_convnet_of_dcs_code_is_read(tmp_path: Path, norm: str) -> None:
    """Written down here as that code builds it: a sequence of layers and one linear layer."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (3, 6, 6):
        layers.append(nn.Conv2d(inputs, 6, 3, padding=1))
        if norm != "none":
            layers.append(nn.GroupNorm(6, 6) if norm == "instance" else nn.BatchNorm2d(6))
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
    model = nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Linear(6 * 16, 5)})
    torch.save(model.eval().state_dict(), tmp_path / "w.pt")
    observer = load_observer(tmp_path / "w.pt", precision="float32")
    suffix = {"instance": "-instance", "batch": "", "none": "-none"}[norm]
    assert (observer.arch, observer.side) == (f"convnet3-w6{suffix}", 32)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model["classifier"](model["features"](images).flatten(1))
    assert (observer.logits(images) - wanted).abs().max() <= ROUNDING * wanted.abs().max()


@pytest.mark.parametrize(
    ("arch", "side"),
    [
        ("convnet4-w16-instance", 64),
        ("convnet3", 32),
        ("resnet50", 224),
        ("resnext50_32x4d", 224),
        ("resnet34-modified", 32),
        ("resnetap10", 64),
        ("resnetap18-batch", 224),
    ],
)
def test_an_architecture_is_recognised_by_names_and_shapes(arch: str, side: int) -> None:
    with torch.device("meta"):
        weights = construct(arch, num_classes=7, side=side).state_dict()
    assert recognise_arch(weights) == arch


@pytest.mark.parametrize("arch", ["mobilenet_v2", "vgg11", "timm/vit_tiny_patch16_224"])
def test_other_architectures_are_not_guessed(arch: str) -> None:
    with torch.device("meta"):
        weights = construct(arch, num_classes=7, side=64).state_dict()
    assert recognise_arch(weights) is None


@pytest.mark.parametrize(
    ("arch", "side", "likely", "wanted"),
    [
        ("convnet3-w8", 28, None, 28),
        ("convnet3-w8", 32, None, 32),
        ("convnet3-w8", 24, None, 28),  # the same shapes; MNIST's side is the usual one
        ("convnet3-w8", 24, 24, 24),
        ("convnet3-w8", 24, 32, 28),  # images of another side tell nothing
        ("convnet2-w8", 8, None, 8),
        ("vit_b_16", 64, None, 64),
        ("timm/vit_tiny_patch16_224", 96, None, 96),
        ("timm/deit_tiny_distilled_patch16_224", 64, None, 64),
        ("resnet18", 64, None, None),
    ],
)
def test_the_side_is_recognised_by_shapes(
    arch: str, side: int, likely: int | None, wanted: int | None
) -> None:
    with torch.device("meta"):
        weights = construct(arch, num_classes=7, side=side).state_dict()
    assert recognise_side(weights, likely)[0] == wanted


def test_a_checkpoint_without_weights_lists_what_it_has(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(PydreamError, match=r"no state dict, .*; it has epoch, lr$"):
        read_weights(tmp_path / "w.pt")
