"""The fused convolutions that a benchmark of the observer tries, played on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from benchmarks.cuda_observer import with_fused_convolutions
from pydream.models import build_model, load_observer


def test_every_convolution_and_its_relu_become_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fused(images: Any, weight: Any, bias: Any, *shape: Any) -> torch.Tensor:
        calls.append("relu")
        return functional.conv2d(images, weight, bias, *shape).relu_()

    def fused_with_sum(
        images: Any, weight: Any, other: Any, alpha: float, bias: Any, *shape: Any
    ) -> torch.Tensor:
        calls.append("add_relu")
        return functional.conv2d(images, weight, bias, *shape).add_(other, alpha=alpha).relu_()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", fused)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", fused_with_sum)
    torch.manual_seed(0)
    network = build_model("resnet18-modified", num_classes=10, side=16)
    observer = load_observer(network, arch="resnet18-modified", side=16, precision="float32")
    images = torch.randn(3, 3, 16, 16)
    logits = with_fused_convolutions(observer).logits(images)
    # One convolution before the blocks; in each of eight blocks one, and one with the sum.
    assert sorted(calls) == ["add_relu"] * 8 + ["relu"] * 9
    # The sum has its terms in another order in some blocks: the same but for a rounding each.
    torch.testing.assert_close(logits, observer.logits(images), rtol=1e-4, atol=1e-5)
