"""The ops on a GPU, beside PyTorch and the limit of the memory.

    python -m benchmarks.cuda_ops [--device cuda] [--out FOLDER]

The limit is the bandwidth of a copy on that card in the same run. Inputs go round, so that none is
found in the second-level cache; a call's time is that of many in a row, over their number.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer
from torchvision.transforms.v2 import functional as tv

from benchmarks.timing import RESULTS, write_record
from pydream import ops

# More than any second-level cache, so that no input is found there again.
_ROTATED_BYTES = 512 << 20
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, CANVAS = 112, 224
# Of torchvision's antialiased resize in float32, and of the cast to bfloat16 at values up to 3.
SAME_PIXELS = 0.02
SAME_SCORES = 1e-5

Case = dict[str, Any]


def seconds(call: Callable[[Any], object], inputs: Iterable[Any], least: float) -> float:
    """Seconds of one call, the median of blocks that take `least` seconds in all."""
    turn = itertools.cycle(list(inputs))
    timer = Timer("call(next(turn))", globals={"call": call, "turn": turn})
    return float(timer.blocked_autorange(min_run_time=least).median)


def copies(size: int) -> int:
    """How many inputs of this size to take turns with."""
    return max(2, -(-_ROTATED_BYTES // size))


def bandwidth(device: torch.device, least: float) -> float:
    """Bytes a second of a copy, read and written."""
    size = 1 << 30 if device.type == "cuda" else 1 << 26
    pairs = [(torch.ones(size // 4, device=device), torch.empty(size // 4, device=device))]
    return 2 * size / seconds(lambda pair: pair[1].copy_(pair[0]), pairs, least)


def compared(
    rivals: dict[str, Callable[[Any], object]],
    inputs: list[Any],
    *,
    items: int,
    moved: int,
    rate: float,
    least: float,
) -> Case:
    """Time the rivals on the same inputs; ours is the first, and `moved` its least bytes."""
    taken = {name: seconds(call, inputs, least) for name, call in rivals.items()}
    ours = next(iter(taken.values()))
    return {
        "items": items,
        "bytes": moved,
        "microseconds_per_item": {name: each / items * 1e6 for name, each in taken.items()},
        "times_as_fast": {name: each / ours for name, each in list(taken.items())[1:]},
        "fraction_of_limit": moved / rate / ours,
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


def crop_case(device: torch.device, rate: float, least: float, images: int) -> Case:
    def ours(given: tuple[list[Tensor], Tensor]) -> Tensor:
        return ops.crop_resize(
            *given, SIDE, canvas=CANVAS, mean=MEAN, std=STD, dtype=torch.bfloat16,
            channels_last=True,
        )  # fmt: skip

    inputs = []
    for seed in range(copies(images * 400 * 400 * 3)):
        pictures = photographs(images, device, seed)
        sizes = torch.tensor([picture.shape[:2] for picture in pictures])
        inputs.append((pictures, ops.random_crop_boxes(sizes, 5, seed=seed).flatten(0, 1)))
    areas = [int((boxes[:, 2].long() * boxes[:, 3]).sum()) for _, boxes in inputs]
    inputs = [(pictures, boxes.to(device)) for pictures, boxes in inputs]
    difference = (ours(inputs[0]).float() - by_torchvision(*inputs[0]).float()).abs().max()
    assert difference <= SAME_PIXELS, f"torchvision's pixels differ by {difference}"
    patches = len(inputs[0][1])
    moved = 3 * sum(areas) // len(areas) + patches * 3 * CANVAS**2 * 2
    rivals = {
        "pydream": ours,
        "torchvision, a patch at a time": lambda given: by_torchvision(*given),
    }
    return compared(rivals, inputs, items=patches, moved=moved, rate=rate, least=least)


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
    moved = rows * (columns * dtype.itemsize + 12)
    return compared(rivals, inputs, items=rows, moved=moved, rate=rate, least=least)


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
    return compared(rivals, inputs, items=rows, moved=rows * columns * 4, rate=rate, least=least)


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
    return compared(rivals, inputs, items=classes * 10, moved=2 * size, rate=rate, least=least)


def measure(device: torch.device, *, small: bool) -> dict[str, Case]:
    """Run all cases; `small` for a try on a machine that is no GPU."""
    least = 0.05 if small else 0.5
    rate = bandwidth(device, least)
    rows = 2_000 if small else 30_000
    results: dict[str, Case] = {"copy": {"bytes_per_second": rate}}
    results["crop_resize, 5 of a photograph to 112 in 224, bfloat16"] = crop_case(
        device, rate, least, 4 if small else 300
    )
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        results[f"realism_scores, ({rows}, 1000) {name}"] = score_case(
            device, rate, least, rows, dtype
        )
    results["key_patches, (1500, 1000) float32, one class"] = key_patches_case(device, rate, least)
    results["collage, 2 x 2 of 112, uint8"] = collage_case(device, rate, least, 2 if small else 100)
    return results


def show(results: dict[str, Case]) -> None:
    print(f"copy: {results['copy']['bytes_per_second'] / 1e9:.0f} GB/s")
    for name, case in results.items():
        if name == "copy":
            continue
        print(f"{name}: {case['fraction_of_limit']:.0%} of the limit")
        for rival, each in case["microseconds_per_item"].items():
            times = case["times_as_fast"].get(rival)
            more = f"   pydream is {times:.1f} times as fast" if times else ""
            print(f"  {rival:34s} {each:10.3f} us an item{more}")


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
        print(write_record("cuda-ops", results, arguments.out, device))


if __name__ == "__main__":
    main()
