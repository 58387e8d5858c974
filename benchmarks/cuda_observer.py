"""The observer's pass over a tile on a GPU: replayed, launched, compiled, and not fused.

    python -m benchmarks.cuda_observer [--device cuda] [--out FOLDER]

The weights are random, which does not change the time. RDED replays the pass as a CUDA graph, with
convolutions that cuDNN fuses with the sum and the ReLU behind them ("pydream"). The others are the
same pass launched kernel by kernel; torch.compile; and, replayed too, a kernel for each operation.
The fused kernels round less often, so logits differ by roundings. The limit is the time of the
convolutions' products at the rate of a matrix product of the same type.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.comparison import Case, Rival, Setting, compared, measure
from benchmarks.cuda_events import measure_limits
from benchmarks.timing import Work
from pydream.models import Observer, build_model, load_observer

CLASSES = 1000
# Logits of random weights, in units of the largest: bfloat16 rounds each of 20 layers to 2^-8.
SAME = {"float32": 1e-3, "bfloat16": 0.1}


def not_fused(observer: Observer) -> Observer:
    """Return this observer with its convolutions, sums and ReLUs in kernels of their own."""
    other = copy.copy(observer)
    other._model = observer._differentiable
    return other


def observer_case(setting: Setting, arch: str, side: int, precision: str) -> Case:
    """Measure a pass of one tile."""
    torch.manual_seed(0)
    network = build_model(arch, num_classes=CLASSES, side=side)

    def opened(*, compiled: bool = False) -> Observer:
        return load_observer(
            copy.deepcopy(network),
            arch=arch,
            side=side,
            precision=precision,
            device=setting.device,
            compiled=compiled,
        )

    observer = opened()
    shape = (observer.tile, 3, side, side)
    inputs = [
        torch.randn(shape, device=setting.device, dtype=observer.dtype).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(2)
    ]
    with FlopCounterMode(display=False) as counted:
        observer.logits(inputs[0])
    made: dict[str, Observer] = {}

    def through(name: str, make: Callable[[], Observer], images: Tensor) -> Tensor:
        if name not in made:  # in the call, so that what fails is a rival's remark
            made[name] = make()
        return made[name].logits(images)

    def rival(name: str, make: Callable[[], Observer]) -> Rival:
        return Rival(partial(through, name, make), captured=False)

    def agree(mine: Tensor, theirs: Tensor) -> None:
        largest = mine.abs().max().item()
        torch.testing.assert_close(theirs, mine, rtol=0, atol=SAME[precision] * largest)

    limits = measure_limits(setting.device, observer.dtype, setting.least)
    operations = counted.get_total_flops()
    weights = sum(tensor.nbytes for tensor in observer._model.parameters())
    return compared(
        rival("pydream", observer.replayed),
        {
            "kernel by kernel": rival("kernel by kernel", lambda: observer),
            "torch.compile": rival("torch.compile", lambda: opened(compiled=True).replayed()),
            "not fused": rival("not fused", lambda: not_fused(observer).replayed()),
        },
        inputs,
        setting.device,
        agree=agree,
        items=observer.tile,
        work=Work(inputs[0].nbytes + weights, operations),
        limit=operations / limits.matrix_operations,
        least=setting.least,
        unit="patch",
        limits=limits,
    )


def cases(setting: Setting) -> dict[str, Callable[[], Case]]:
    """Return every case by its name: small ones for a rehearsal."""
    sizes = (
        [("resnet18-modified", 16)]
        if setting.small
        else [("resnet18", 224), ("convnet3", 32), ("resnet18-modified", 32)]
    )
    return {
        f"{arch} at {side} pixels, {precision}": partial(
            observer_case, setting, arch, side, precision
        )
        for arch, side in sizes
        for precision in ("bfloat16", "float32")
    }


if __name__ == "__main__":
    measure("cuda-observer", __doc__.splitlines()[0], cases, least=0.3)
