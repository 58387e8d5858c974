"""The ops on a GPU, beside PyTorch and the limit of the memory.

    python -m benchmarks.cuda_ops [--device cuda] [--out FOLDER]

The limit is the bandwidth of a copy on that card in the same run. Inputs go round, so that none is
found in the second-level cache. The device's time is that between events around replays of a CUDA
graph, which holds one call for each input; where a call cannot be captured, around the calls
themselves, which the host may then hold up. A call's time as its caller sees it, with all that the
host does, is a figure of its own.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer
from torchvision.transforms.v2 import functional as tv

from benchmarks import bench_augment
from benchmarks.bench_multi_formation import OPERATIONS as FORMATION_OPERATIONS
from benchmarks.bench_score import OPERATIONS as SCORE_OPERATIONS
from benchmarks.published.dsa import augment
from benchmarks.records import RESULTS, write_record
from benchmarks.timing import Timing, Work, timing
from pydream import ops
from pydream.profiling import measure_limits

# More than any second-level cache, so that no input is found there again.
_ROTATED_BYTES = 512 << 20
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, CANVAS = 112, 224
# Of torchvision's antialiased resize in float32, and of the cast to bfloat16 at values up to 3.
SAME_PIXELS = 0.02
SAME_SCORES = 1e-5
# Of weights that PyTorch rounds in float32, and of sums of sixteen products.
SAME_FORMED = 1e-3
LEAST_ROUNDS, MOST_ROUNDS = 5, 200
# Other croppers on GPUs. kornia's antialiasing blurs before it samples, which gives other pixels;
# equal work of DALI has not been set up.
UNTIMED = {
    "kornia": ("kornia",),
    "DALI": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
}

Case = dict[str, Any]


def call_seconds(call: Callable[[Any], object], inputs: Iterable[Any], least: float) -> float:
    """Seconds of one call, host and all, the median of blocks that take `least` seconds in all."""
    turn = itertools.cycle(list(inputs))
    timer = Timer("call(next(turn))", globals={"call": call, "turn": turn})
    return float(timer.blocked_autorange(min_run_time=least).median)


def device_seconds(
    call: Callable[[Any], object], inputs: list[Any], least: float, *, captured: bool = True
) -> Timing:
    """Seconds of the device for one call: of rounds that take `least` seconds in all."""

    def work() -> None:
        for each in inputs:
            call(each)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    run = work
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        run = graph.replay
    rounds = int(least / between_events(run, 1)[0]) + 1
    taken = between_events(run, min(max(rounds, LEAST_ROUNDS), MOST_ROUNDS))
    return timing([each / len(inputs) for each in taken])


def between_events(run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each of some rounds in a row; waits once, behind the last."""
    run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]


def copies(size: int) -> int:
    """How many inputs of this size to take turns with."""
    return max(2, -(-_ROTATED_BYTES // size))


def bandwidth(device: torch.device, least: float) -> float:
    """Bytes a second of a copy, read and written."""
    size = 1 << 30 if device.type == "cuda" else 1 << 26
    pairs = [(torch.ones(size // 4, device=device), torch.empty(size // 4, device=device))]

    def copy(pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[1].copy_(pair[0])

    if device.type == "cuda":
        return 2 * size / device_seconds(copy, pairs, least).median
    return 2 * size / call_seconds(copy, pairs, least)


def compared(
    rivals: dict[str, Callable[[Any], object]],
    inputs: list[Any],
    device: torch.device,
    *,
    items: int,
    work: Work,
    rate: float,
    least: float,
    uncaptured: Iterable[str] = (),
) -> Case:
    """Time the rivals on the same inputs; ours is the first, and `work` the least of one call.

    `uncaptured` are those that cannot be in a CUDA graph. On the CPU, where only the benchmark is
    tried, a call's time stands for that of the device.
    """
    calls = {name: call_seconds(call, inputs, least) for name, call in rivals.items()}
    taken = {name: timing([each]) for name, each in calls.items()}
    if device.type == "cuda":
        taken = {
            name: device_seconds(call, inputs, least, captured=name not in uncaptured)
            for name, call in rivals.items()
        }
    ours = next(iter(rivals))
    return {
        "items": items,
        "work": asdict(work),
        "device_seconds": {name: asdict(each) for name, each in taken.items()},
        "not_in_a_graph": [name for name in rivals if name in uncaptured],
        "microseconds_per_item": {name: each.median / items * 1e6 for name, each in taken.items()},
        "microseconds_per_call": {name: each * 1e6 for name, each in calls.items()},
        "times_as_fast": {
            name: each.median / taken[ours].median for name, each in taken.items() if name != ours
        },
        "times_as_fast_per_call": {
            name: each / calls[ours] for name, each in calls.items() if name != ours
        },
        "fraction_of_limit": work.nbytes / rate / taken[ours].median,
    }


def photographs(count: int, device: torch.device, seed: int) -> list[Tensor]:
    """Noise of the sizes that ImageNet's photographs have, in one packed buffer."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(300, 520, (count, 2), generator=generator).tolist()
    total = sum(height * width * 3 for height, width in sizes)
    packed = torch.randint(0, 256, (total,), dtype=torch.uint8, device=device)
    images, start = [], 0
    for height, width in sizes:
        images.append(packed[start : start + height * width * 3].view(height, width, 3))
        start += height * width * 3
    return images


def by_torchvision(images: list[Tensor], boxes: Tensor) -> Tensor:
    """Patch by patch on the device, as the published transform does."""
    patches = torch.zeros(len(boxes), 3, CANVAS, CANVAS, dtype=torch.bfloat16, device=boxes.device)
    patches = patches.to(memory_format=torch.channels_last)
    margin = (CANVAS - SIDE) // 2
    for place, box in enumerate(boxes.tolist()):
        image = images[place * len(images) // len(boxes)].permute(2, 0, 1)
        part = tv.resized_crop(image.float() / 255, *box, [SIDE, SIDE], antialias=True)
        patches[place, :, margin:-margin, margin:-margin] = tv.normalize(part, MEAN, STD)
    return patches


def crop_case(device: torch.device, rate: float, least: float, images: int, *, alike: bool) -> Case:
    """Photographs in a list or, if they are alike, in one batch, as a CUDA graph takes them."""

    def ours(given: tuple[list[Tensor], Tensor]) -> Tensor:
        return ops.crop_resize(
            *given, SIDE, canvas=CANVAS, mean=MEAN, std=STD, dtype=torch.bfloat16,
            channels_last=True,
        )  # fmt: skip

    inputs, areas = [], []
    for seed in range(copies(images * 400 * 400 * 3)):
        pictures = photographs(images, device, seed)
        if alike:
            shape = (images, 400, 400, 3)
            pictures = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        sizes = torch.tensor([picture.shape[:2] for picture in pictures])
        boxes = ops.random_crop_boxes(sizes, 5, seed=seed).flatten(0, 1)
        areas.append(int((boxes[:, 2].long() * boxes[:, 3]).sum()))
        inputs.append((pictures, boxes.to(device)))
    difference = (ours(inputs[0]).float() - by_torchvision(*inputs[0]).float()).abs().max()
    assert difference <= SAME_PIXELS, f"torchvision's pixels differ by {difference}"
    patches = len(inputs[0][1])
    theirs = "torchvision, a patch at a time"
    return compared(
        {"pydream": ours, theirs: lambda given: by_torchvision(*given)},
        inputs,
        device,
        items=patches,
        work=Work(3 * sum(areas) // len(areas) + patches * 3 * CANVAS**2 * 2),
        rate=rate,
        least=least,
        uncaptured=[theirs] if alike else ["pydream", theirs],
    )


def eager_scores(given: tuple[Tensor, Tensor]) -> Tensor:
    logits, labels = given
    return torch.log_softmax(logits, 1, dtype=torch.float32).gather(1, labels[:, None])[:, 0]


def score_case(
    device: torch.device, rate: float, least: float, rows: int, dtype: torch.dtype
) -> Case:
    columns = 1000
    inputs = [
        (
            (torch.randn(rows, columns, device=device) * 3).to(dtype),
            torch.randint(columns, (rows,), device=device),
        )
        for _ in range(copies(rows * columns * dtype.itemsize))
    ]
    torch.testing.assert_close(
        ops.realism_scores(*inputs[0]), eager_scores(inputs[0]), atol=SAME_SCORES, rtol=0.0
    )
    rivals = {
        "pydream": lambda given: ops.realism_scores(*given),
        "log_softmax and gather": eager_scores,
    }
    work = Work(rows * (columns * dtype.itemsize + 12), SCORE_OPERATIONS * rows * columns)
    return compared(rivals, inputs, device, items=rows, work=work, rate=rate, least=least)


def eager_key_patches(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    own = eager_scores((logits, labels.repeat_interleave(5)))
    best, crop = own.view(-1, 5).max(1)
    return best.topk(40).indices, crop


def key_patches_case(device: torch.device, rate: float, least: float) -> Case:
    """One class, as a step of RDED on ImageNet-1K at 10 images a class and factor 2."""
    rows, columns = 1500, 1000
    inputs = [
        (torch.randn(rows, columns, device=device) * 3, torch.zeros(300, device=device).long())
        for _ in range(copies(rows * columns * 4))
    ]
    image = ops.key_patches(*inputs[0], 5, 40, 1).image[0]
    assert image.equal(eager_key_patches(*inputs[0])[0]), "other images are chosen"
    rivals = {
        "pydream": lambda given: ops.key_patches(*given, 5, 40, 1),
        "log_softmax, gather, max, topk": lambda given: eager_key_patches(*given),
    }
    work = Work(rows * columns * 4, SCORE_OPERATIONS * rows * columns)
    return compared(rivals, inputs, device, items=rows, work=work, rate=rate, least=least)


def eager_collage(patches: Tensor) -> Tensor:
    classes, ranked, channels, side, _ = patches.shape
    grid = patches.view(classes, 2, 2, ranked // 4, channels, side, side)
    return grid.permute(0, 3, 4, 1, 5, 2, 6).reshape(
        classes, ranked // 4, channels, 2 * side, 2 * side
    )


def collage_case(device: torch.device, rate: float, least: float, classes: int) -> Case:
    shape = (classes, 40, 3, SIDE, SIDE)
    size = classes * 40 * 3 * SIDE**2
    inputs = [
        torch.randint(0, 256, shape, dtype=torch.uint8, device=device) for _ in range(copies(size))
    ]
    assert ops.collage(inputs[0], 2, CANVAS).equal(eager_collage(inputs[0])), "collages differ"
    rivals = {
        "pydream": lambda patches: ops.collage(patches, 2, CANVAS),
        "view, permute, reshape": eager_collage,
    }
    return compared(
        rivals, inputs, device, items=classes * 10, work=Work(2 * size), rate=rate, least=least
    )


def eager_formation(images: Tensor) -> Tensor:
    rows = images.chunk(2, -2)
    cells = [cell for row in rows for cell in row.chunk(2, -1)]
    size = list(images.shape[-2:])
    return torch.cat([F.interpolate(cell, size, mode="bilinear") for cell in cells])


def formation_case(
    device: torch.device, rate: float, least: float, count: int, side: int, *, backward: bool
) -> Case:
    """Images doubled by factor 2: the result, or that and the derivative by the images."""

    def with_slope(form: Callable[[Tensor], Tensor]) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
        def run(given: tuple[Tensor, Tensor]) -> Tensor:
            images, upstream = given
            if not backward:
                return form(images)
            images = images.detach().requires_grad_()
            return torch.autograd.grad(form(images), images, upstream)[0]

        return run

    size = 5 * count * 3 * side**2 * 4
    inputs = [
        (
            torch.rand(count, 3, side, side, device=device),
            torch.randn(4 * count, 3, side, side, device=device),
        )
        for _ in range(copies(size))
    ]
    rivals = {
        "pydream": with_slope(lambda images: ops.multi_formation(images, 2, side)),
        "chunk, interpolate, cat": with_slope(eager_formation),
    }
    ours, theirs = (run(inputs[0]) for run in rivals.values())
    torch.testing.assert_close(ours, theirs, atol=SAME_FORMED, rtol=0.0)
    passes = 2 if backward else 1
    work = Work(passes * size, passes * FORMATION_OPERATIONS * 4 * count * 3 * side**2)
    return compared(rivals, inputs, device, items=4 * count, work=work, rate=rate, least=least)


def augment_case(device: torch.device, rate: float, least: float, kind: str) -> Case:
    """Forward and backward at a step's batch, beside the published chain with its draws given."""
    shape, size = (256, 3, 32, 32), 256 * 3 * 32**2 * 4
    parameters = ops.random_augment(256, 32, bench_augment.CASES[kind]).to(device)
    inputs = [
        (torch.randn(shape, device=device).requires_grad_(), torch.randn(shape, device=device))
        for _ in range(copies(2 * size))
    ]

    def both_ways(augmented_by: Callable[[Tensor], Tensor]) -> Callable[[Any], tuple[Tensor, ...]]:
        def run(given: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            augmented = augmented_by(given[0])
            return (augmented.detach(), *torch.autograd.grad(augmented, *given))

        return run

    rivals = {
        "pydream": both_ways(lambda x: ops.diff_augment(x, parameters)),
        "published chain of operations": both_ways(lambda x: augment(x, parameters, kind)),
    }
    for mine, other in zip(*(run(inputs[0]) for run in rivals.values()), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.0, atol=bench_augment.SAME_PIXELS)
    work = Work(4 * size, bench_augment.OPERATIONS * inputs[0][0].numel())
    return compared(
        rivals, inputs, device, items=len(parameters), work=work, rate=rate, least=least
    )


def peers() -> dict[str, str]:
    """Return which other libraries are here."""
    found = {"torchvision": version("torchvision")}
    for name, packages in UNTIMED.items():
        here = [package for package in packages if find_version(package) is not None]
        found[name] = f"{find_version(here[0])}, not timed" if here else "absent"
    return found


def find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure(device: torch.device, *, small: bool) -> dict[str, Case]:
    """Run all cases; `small` for a try on a machine that is no GPU."""
    least = 0.05 if small else 0.5
    rate = bandwidth(device, least)
    rows = 2_000 if small else 30_000
    results: dict[str, Case] = {"copy": {"bytes_per_second": rate}}
    results["peers"] = peers()
    for alike, kind in ((True, "one batch of 400 x 400"), (False, "a list of photographs")):
        results[f"crop_resize, {kind}, 5 of each to 112 in 224, bfloat16"] = crop_case(
            device, rate, least, 4 if small else 300, alike=alike
        )
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        results[f"realism_scores, ({rows}, 1000) {name}"] = score_case(
            device, rate, least, rows, dtype
        )
    results["key_patches, (1500, 1000) float32, one class"] = key_patches_case(device, rate, least)
    results["collage, 2 x 2 of 112, uint8"] = collage_case(device, rate, least, 2 if small else 100)
    for count, side in ((10, 32),) if small else ((100, 32), (40, 224)):
        for backward in (False, True):
            name = f"multi_formation, {count} of {side}, factor 2" + ", backward too" * backward
            results[name] = formation_case(device, rate, least, count, side, backward=backward)
    for kind in ("crop", "rotate"):
        results[f"diff_augment, (256, 3, 32, 32) float32, {kind}"] = augment_case(
            device, rate, least, kind
        )
    return results


def show(results: dict[str, Case]) -> None:
    print(f"copy: {results['copy']['bytes_per_second'] / 1e9:.0f} GB/s")
    print("peers: " + ", ".join(f"{name} {found}" for name, found in results["peers"].items()))
    for name, case in results.items():
        if name in ("copy", "peers"):
            continue
        print(f"{name}: {case['fraction_of_limit']:.0%} of the limit")
        for rival, each in case["microseconds_per_item"].items():
            times = case["times_as_fast"].get(rival)
            more = f"   pydream is {times:.1f} times as fast" if times else ""
            host = " (calls, no graph)" if rival in case["not_in_a_graph"] else ""
            print(
                f"  {rival:34s} {each:10.3f} us an item{host}; "
                f"a call {case['microseconds_per_call'][rival]:,.0f} us{more}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here; pydream doctor says what it found")
    results = measure(device, small=device.type != "cuda")
    show(results)
    if device.type == "cuda":
        limits = measure_limits(device)
        print(write_record("cuda-ops", results, arguments.out, device, limits=limits))


if __name__ == "__main__":
    main()
