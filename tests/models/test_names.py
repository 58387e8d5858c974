from __future__ import annotations

import sys

import pytest
import torchvision

from pydream.errors import PydreamError
from pydream.models.names import canonical_arch, unknown_arch
from pydream.models.registry import construct


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ResNet18", "resnet18"),
        ("resnet_18", "resnet18"),
        ("ResNet-18", "resnet18"),
        ("resnet18_modified", "resnet18-modified"),
        ("ResNet18_CIFAR", "resnet18-modified"),
        ("ResNet18ImageNet", "resnet18"),
        ("ResNet18BN", "resnet18-modified"),
        ("ResNet18AP", "resnetap18"),
        ("ResNet18BN_AP", "resnetap18-batch"),
        ("ResNet10_AP", "resnetap10"),
        ("MobileNetV2", "mobilenet_v2"),
        ("EfficientNet-B0", "efficientnet_b0"),
        ("EfficientNetB0", "efficientnet_b0"),
        ("ViT-B/16", "vit_b_16"),
        ("ConvNeXt-Tiny", "convnext_tiny"),
        ("VGG16_BN", "vgg16_bn"),
        ("wide_resnet_50_2", "wide_resnet50_2"),
        # DC, DM and MTT: instance norm by default. RDED's conv3: batch norm.
        ("ConvNet", "convnet3-instance"),
        ("ConvNetD3", "convnet3-instance"),
        ("ConvNetD4", "convnet4-instance"),
        ("ConvNetBN", "convnet3"),
        ("conv3", "convnet3"),
        ("Conv-4", "convnet4"),
        ("ConvNet3_W64_instance", "convnet3-w64-instance"),
    ],
)
def test_names_are_found_as_people_write_them(written: str, name: str) -> None:
    assert canonical_arch(written) == name


@pytest.mark.parametrize("name", [*torchvision.models.list_models(torchvision.models)[::7]])
def test_names_of_torchvision_stay_what_they_are(name: str) -> None:
    assert canonical_arch(name) == name
    assert canonical_arch(name.upper()) in (name, name.upper())


def test_a_name_that_two_architectures_share_is_refused_with_both() -> None:
    with pytest.raises(
        PydreamError, match=r"did you mean regnet_x_16gf or regnet_x_1_6gf"
    ) as error:
        construct("RegNetX16GF", num_classes=2, side=32)
    assert "\n" not in str(error.value)


def test_a_name_of_timm_without_its_prefix_is_said() -> None:
    message = str(unknown_arch("vit_tiny_patch16_224", ["resnet18"]))
    assert "did you mean timm/vit_tiny_patch16_224" in message


def test_unknown_names_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "did you mean resnet18" in str(unknown_arch("resnet81", ["resnet18"]))
