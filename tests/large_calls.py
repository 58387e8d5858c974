"""Calls of every op that are large enough for several threads, and a program that races them.

`python large_calls.py` makes them all from several threads at once and compares the results;
`python large_calls.py --into-one` lets two threads write to the same tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from pydream import _C, ops

Calls = dict[str, Callable[[], list[Tensor]]]

ON_ONE_THREAD = {"random_augment"}
"""The ops that never share their work."""


def _with_derivatives(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return a value, and its first and second derivatives."""
    first = torch.autograd.grad(value.square().sum(), inputs, create_graph=True)
    total = torch.stack([each.square().sum() for each in first]).sum()
    second = torch.autograd.grad(total, inputs)
    return [each.detach() for each in (value, *first, *second)]


def calls(*, derivatives: bool = True) -> Calls:
    """Return a function for each public op, which makes its result from the same inputs.

    Parameters
    ----------
    derivatives
        Whether the results of differentiable ops are followed by their derivatives, which need
        large operations of PyTorch, too.
    """
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    patches = normal(16, 4, 3, 32, 32)
    photographs = torch.randint(0, 256, (8, 40, 48, 3), dtype=torch.uint8, generator=random)
    sizes = torch.tensor([[40, 48]]).expand(8, 2)
    boxes = ops.random_crop_boxes(sizes, 3, seed=1).flatten(0, 1)
    images, weight, bias = normal(24, 3, 64, 64), normal(3), normal(3)
    # As the kernels read them, so that no operation of PyTorch copies them.
    channels_last = images.contiguous(memory_format=torch.channels_last)
    changes = ops.random_augment(24, 64, "color_crop_cutout", seed=2)
    logits, rows = normal(400, 500), torch.arange(400) % 500
    scores, labels = normal(30_000, 5), torch.arange(30_000) % 7
    samples, centroids = normal(3000, 16), normal(200, 16)
    real, synthetic = [normal(200, 500), normal(70_000)], [normal(200, 500), normal(70_000)]
    identities = torch.arange(5000)
    many = torch.tensor([[40, 48], [33, 70]]).repeat(400, 1)
    problems = [0, 1000, 1500, 3000]

    def differentiable(op: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
        if not derivatives:
            return [op(*inputs)]
        own = [each.detach().requires_grad_() for each in inputs]
        return _with_derivatives(op(*own), *own)

    def distance(metric: str) -> list[Tensor]:
        if not derivatives:
            return [ops.gradient_distance(synthetic, real, metric=metric)]
        own = [each.detach().requires_grad_() for each in synthetic]
        value = ops.gradient_distance(own, real, metric=metric)
        return [value.detach(), *torch.autograd.grad(value, own)]

    def pooled(statistics: Literal["instance", "batch"]) -> list[Tensor]:
        def op(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return ops.norm_relu_pool(images, weight, bias, statistics=statistics, eps=1e-5)

        return differentiable(op, channels_last, weight, bias)

    return {
        "collage": lambda: [ops.collage(patches, 2, 64)],
        "crop_resize": lambda: [ops.crop_resize(photographs, boxes, 24)],
        "diff_augment": lambda: differentiable(lambda x: ops.diff_augment(x, changes), images),
        "gradient_distance": lambda: [*chain(*map(distance, ("cos", "mse", "l2")))],
        "key_patches": lambda: [*ops.key_patches(logits, rows[:80], 5, 2, 500)],
        "kmeans": lambda: [
            *chain(ops.kmeans(samples, 20, seed=1), ops.kmeans(samples, 9, offsets=problems))
        ],
        "matched_cells": lambda: [
            ops.matched_cells(photographs, boxes, 24, 48, inside=(24, 24), dtype=torch.float32)
        ],
        "multi_formation": lambda: differentiable(lambda x: ops.multi_formation(x, 2, 64), images),
        "nearest_samples": lambda: [ops.nearest_samples(samples, centroids, 2)],
        "norm_relu_pool": lambda: [*pooled("instance"), *pooled("batch")],
        "random_augment": lambda: [ops.random_augment(300, 32, "color_crop_cutout", seed=2)],
        "random_crop_boxes": lambda: [ops.random_crop_boxes(many, 5, seed=3)],
        "random_keys": lambda: [ops.random_keys(identities, seed=4)],
        "realism_scores": lambda: [ops.realism_scores(logits, rows)],
        "representatives": lambda: [ops.representatives(samples, 9, per_cluster=3, seed=1)],
        "select_key_patches": lambda: [*ops.select_key_patches(scores, labels, 3, 7)],
    }


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Return whether all tensors have the same bits."""
    return len(found) == len(expected) and all(
        one.shape == other.shape and bytes(one.numpy()) == bytes(other.numpy())
        for one, other in zip(found, expected, strict=True)
    )


def differing(each: Calls, expected: dict[str, list[Tensor]]) -> list[str]:
    """Make every call, and return the names of those that give other bits than expected."""
    return [name for name, call in each.items() if not same(call(), expected[name])]


def race(callers: int, rounds: int) -> None:
    """Make every call from several threads at once, under every instruction set.

    The main thread makes none: it would share the threads of PyTorch's OpenMP, whose barriers
    ThreadSanitizer does not see, since GCC's OpenMP is not compiled for it.
    """
    each = calls()
    for name in _C.available_isas():
        _C.set_isa(name)
        with ThreadPoolExecutor(callers) as pool:
            expected = pool.submit(lambda: {op: call() for op, call in each.items()}).result()
            jobs = [pool.submit(differing, each, expected) for _ in range(callers * rounds)]
            if wrong := sorted({*chain(*(job.result() for job in jobs))}):
                sys.exit(f"other results in threads, with {name}: {', '.join(wrong)}")
    print("the same results in all threads")


def race_into_one() -> None:
    """Let two threads write the results of different boxes to the same tensor."""
    photographs = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 60, 60]]).expand(400, 4).contiguous()
    out = torch.empty(400, 3, 32, 32)
    index = torch.zeros(400, dtype=torch.int64)
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(ops.crop_resize, photographs, boxes, 32, image_index=index, out=out)
            for _ in range(20)
        ]
    for job in jobs:
        job.result()


if __name__ == "__main__":
    torch.set_num_threads(3)
    if "--into-one" in sys.argv:
        race_into_one()
    else:
        race(callers=3, rounds=2)
