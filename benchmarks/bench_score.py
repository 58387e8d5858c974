"""Key patches from logits: ours beside PyTorch's operations, at the size of one step of RDED."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.timing import Work, compare, report, table
from pydream import ops

IMAGES, CROPS, COLUMNS = 300, 5, 1000
PER_CLASS = {1: 40, 10: 10}
ROUNDS = 15
# One call takes a fraction of a millisecond: timed alone, it would pay for the threads of the
# rival before it, which spin for a while after their work.
CALLS = 20
# Each logit: a comparison with the highest, a difference, an exponential, a sum.
OPERATIONS = 4
# The rivals round probabilities and logarithms to float32: at a score of -10, by 1e-6 and more.
SAME_SCORES = 1e-5

KeyPatches = tuple[Tensor, Tensor, Tensor]


def eager_softmax(logits: Tensor, labels: Tensor, per_class: int, num_classes: int) -> KeyPatches:
    """Softmax, gather, argmin of the loss over the crops, argsort within each class."""
    probabilities = torch.softmax(logits, 1, dtype=torch.float32)
    own = probabilities.gather(1, labels.repeat_interleave(CROPS)[:, None])
    loss = -own.log().view(-1, CROPS)
    crop = loss.argmin(1)
    best = loss.gather(1, crop[:, None])[:, 0]
    chosen = []
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[best[members].argsort()[:per_class]])
    image = torch.stack(chosen)
    return image, crop[image], -best[image]


def eager_log_softmax(
    logits: Tensor, labels: Tensor, per_class: int, num_classes: int
) -> KeyPatches:
    """Log-softmax, gather, max over the crops, topk within each class."""
    log_probabilities = torch.log_softmax(logits, 1, dtype=torch.float32)
    own = log_probabilities.gather(1, labels.repeat_interleave(CROPS)[:, None])
    best, crop = own.view(-1, CROPS).max(1)
    chosen = []
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[best[members].topk(per_class).indices])
    image = torch.stack(chosen)
    return image, crop[image], best[image]


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            call()

    return run


def measure(logits: Tensor, labels: Tensor, num_classes: int, rounds: int) -> dict[str, Any]:
    per_class = PER_CLASS[num_classes]
    rivals: dict[str, Callable[[], KeyPatches]] = {
        "pydream": lambda: ops.key_patches(logits, labels, CROPS, per_class, num_classes),
        "softmax, gather, argmin, argsort": lambda: eager_softmax(
            logits, labels, per_class, num_classes
        ),
        "log_softmax, gather, max, topk": lambda: eager_log_softmax(
            logits, labels, per_class, num_classes
        ),
    }
    expected = rivals["pydream"]()
    for name, rival in rivals.items():
        image, crop, score = rival()
        assert image.equal(expected[0]), f"{name} chooses other images"
        assert crop.equal(expected[1]), f"{name} chooses other crops"
        torch.testing.assert_close(score, expected[2], atol=SAME_SCORES, rtol=0.0)
    limit = "one read of the logits, the limit"
    words = logits.view(torch.int32)  # the maximum of integers: what PyTorch reads fastest
    timed: dict[str, Callable[[], object]] = {**rivals, limit: lambda: words.max()}
    timings = compare(
        {name: repeated(call) for name, call in timed.items()},
        rounds=rounds,
        threads=2,
    )
    work = Work(CALLS * logits.nbytes, CALLS * OPERATIONS * logits.numel())
    return report(
        timings, ours="pydream", limit=limit, items=CALLS * len(logits), unit="row", work=work
    )


@pytest.mark.parametrize("num_classes", PER_CLASS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_key_patches(
    benchmark: Any, record: dict[str, Any], dtype: torch.dtype, num_classes: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(IMAGES * CROPS, COLUMNS, generator=generator) * 3).to(dtype)
    labels = torch.arange(IMAGES) % num_classes
    result = measure(logits, labels, num_classes, ROUNDS if benchmark.enabled else 1)
    if benchmark.enabled:
        name = f"{num_classes} classes, {str(dtype).removeprefix('torch.')}"
        record[name] = result
        print("\n" + table(f"{name}; a row", result))
    benchmark(ops.key_patches, logits, labels, CROPS, PER_CLASS[num_classes], num_classes)
