"""Key patches from logits: ours beside PyTorch, at the size of one step of RDED."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from pydream import ops

IMAGES = 300
CROPS = 5
COLUMNS = 1000
PER_CLASS = {1: 40, 10: 10}
# The peers round their probabilities and logarithms to float32; near a score of -10 that is 1e-6.
SCORE_ATOL = 1e-5


def eager_softmax(
    logits: torch.Tensor, labels: torch.Tensor, num_crops: int, per_class: int, num_classes: int
) -> ops.KeyPatches:
    """Softmax, gather, argmin of the loss over the crops, argsort within each class."""
    probabilities = torch.softmax(logits, 1, dtype=torch.float32)
    own = probabilities.gather(1, labels.repeat_interleave(num_crops)[:, None])
    loss = -own.log().view(-1, num_crops)
    crop = loss.argmin(1)
    best = loss.gather(1, crop[:, None])[:, 0]
    chosen = []
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[best[members].argsort()[:per_class]])
    image = torch.stack(chosen)
    return ops.KeyPatches(image, crop[image], -best[image])


def eager_log_softmax(
    logits: torch.Tensor, labels: torch.Tensor, num_crops: int, per_class: int, num_classes: int
) -> ops.KeyPatches:
    """The same with log_softmax, max and topk."""
    log_probabilities = torch.log_softmax(logits, 1, dtype=torch.float32)
    own = log_probabilities.gather(1, labels.repeat_interleave(num_crops)[:, None])
    best, crop = own.view(-1, num_crops).max(1)
    chosen = []
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[best[members].topk(per_class).indices])
    image = torch.stack(chosen)
    return ops.KeyPatches(image, crop[image], best[image])


RIVALS: dict[str, Callable[..., ops.KeyPatches]] = {
    "pydream": ops.key_patches,
    "torch softmax, gather, argmin, argsort": eager_softmax,
    "torch log_softmax, gather, max, topk": eager_log_softmax,
}


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_classes", PER_CLASS)
def test_key_patches(
    benchmark: BenchmarkFixture, num_classes: int, dtype: torch.dtype, rival: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(IMAGES * CROPS, COLUMNS, generator=generator) * 3).to(dtype)
    labels = torch.arange(IMAGES) % num_classes
    arguments = (logits, labels, CROPS, PER_CLASS[num_classes], num_classes)
    found, expected = RIVALS[rival](*arguments), ops.key_patches(*arguments)
    assert found.image.equal(expected.image)
    assert found.crop.equal(expected.crop)
    torch.testing.assert_close(found.score, expected.score, atol=SCORE_ATOL, rtol=0.0)
    benchmark.group = f"key_patches, {num_classes} classes, {dtype}"
    benchmark(RIVALS[rival], *arguments)
