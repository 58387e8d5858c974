"""The ops on a GPU, beside PyTorch and the limit of the memory.

    python -m benchmarks.cuda_ops [--device cuda] [--out FOLDER]

The limit is the bandwidth of a copy on that card in the same run. `benchmarks.cuda_events` says how
time is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from benchmarks import bench_augment, bench_block
from benchmarks.bench_multi_formation import OPERATIONS as FORMATION_OPERATIONS
from benchmarks.bench_score import OPERATIONS as SCORE_OPERATIONS
from benchmarks.comparison import Case, Rival, Setting, compared, measure
from benchmarks.cuda_events import copies, read_rate
from benchmarks.published.dsa import augment
from benchmarks.timing import Work
from pydream import ops
from pydream.ops.block import Statistics

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, CANVAS = 112, 224
# Of torchvision's antialiased resize in float32, and of the cast to bfloat16 at values up to 3.
SAME_PIXELS = 0.02
SAME_SCORES = 1e-5
# Of weights that PyTorch rounds in float32, and of sums of sixteen products.
SAME_FORMED = 1e-3
# torchvision makes about 18 calls a patch: a hundred patches take it as long as all of an input
# would take everybody else.
PATCHES_OF_TORCHVISION = 100
# Other croppers on GPUs. kornia's antialiasing blurs before it samples, which gives other pixels;
# equal work of DALI has not been set up.
UNTIMED = {
    "kornia": ("kornia",),
    "DALI": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
}


def compare(
    setting: Setting,
    ours: Callable[[Any], Any],
    rivals: Mapping[str, Rival],
    inputs: list[Any],
    agree: Callable[[Any, Any], None],
    *,
    items: int,
    work: Work,
    captured: bool = True,
) -> Case:
    """Compare with the limit of the memory."""
    return compared(
        Rival(ours, captured),
        rivals,
        inputs,
        setting.device,
        agree=agree,
        items=items,
        work=work,
        limit=work.nbytes / setting.limits.copy_bytes,
        least=setting.least,
    )


def within(atol: float) -> Callable[[Any, Any], None]:
    """Return an agreement of tensors, or tuples of them, to a tolerance."""
    return partial(torch.testing.assert_close, rtol=0.0, atol=atol, check_dtype=False)


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


def by_torchvision(images: list[Tensor], boxes: Tensor, count: int) -> Tensor:
    """Make the first patches, one by one on the device, as the published transform does."""
    patches = torch.zeros(count, 3, CANVAS, CANVAS, dtype=torch.bfloat16, device=boxes.device)
    patches = patches.to(memory_format=torch.channels_last)
    margin = (CANVAS - SIDE) // 2
    for place, box in enumerate(boxes[:count].tolist()):
        image = images[place * len(images) // len(boxes)].permute(2, 0, 1)
        part = tv.resized_crop(image.float() / 255, *box, [SIDE, SIDE], antialias=True)
        patches[place, :, margin:-margin, margin:-margin] = tv.normalize(part, MEAN, STD)
    return patches


def crop_case(setting: Setting, images: int, *, alike: bool) -> Case:
    """Photographs in a list or, if they are alike, in one batch, as a CUDA graph takes them."""

    def ours(given: tuple[list[Tensor], Tensor]) -> Tensor:
        return ops.crop_resize(
            *given, SIDE, canvas=CANVAS, mean=MEAN, std=STD, dtype=torch.bfloat16,
            channels_last=True,
        )  # fmt: skip

    inputs, areas, device = [], [], setting.device
    for seed in range(copies(images * 400 * 400 * 3, device)):
        pictures: list[Tensor] | Tensor
        if alike:
            shape = (images, 400, 400, 3)
            pictures = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        else:
            pictures = photographs(images, device, seed)
        sizes = torch.tensor([picture.shape[:2] for picture in pictures])
        boxes = ops.random_crop_boxes(sizes, 5, seed=seed).flatten(0, 1)
        areas.append(int((boxes[:, 2].long() * boxes[:, 3]).sum()))
        inputs.append((pictures, boxes.to(device)))
    patches = len(inputs[0][1])
    count = min(PATCHES_OF_TORCHVISION, patches)
    theirs = Rival(
        lambda given: by_torchvision(given[0], given[1], count), captured=False, items=count
    )
    return compare(
        setting,
        ours,
        {"torchvision, a patch at a time": theirs},
        inputs,
        lambda mine, other: within(SAME_PIXELS)(mine[:count], other),
        items=patches,
        work=Work(3 * sum(areas) // len(areas) + patches * 3 * CANVAS**2 * 2),
        captured=alike,
    )


def by_products(given: tuple[Tensor, Tensor]) -> Tensor:
    """Crop at the enlarged side, then multiply by the pseudo-inverse of the enlargement."""
    unit = F.interpolate(torch.eye(SIDE)[:, None], CANVAS, mode="linear")[:, 0].T
    inverse: Tensor = torch.linalg.pinv(unit).to(given[1].device)
    anchors = ops.crop_resize(*given, CANVAS)
    return (inverse @ anchors @ inverse.T).mul_(255).round_().clamp_(0, 255).byte()


def cells_case(setting: Setting, images: int) -> Case:
    """Cells of crops of photographs, one of each, as a step of RDED assembles them."""
    inputs, area, device = [], 0, setting.device
    for seed in range(copies(images * 400 * 400 * 3, device)):
        shape = (images, 400, 400, 3)
        pictures = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        boxes = ops.random_crop_boxes(torch.full((images, 2), 400), 1, seed=seed)[:, 0]
        area = int((boxes[:, 2].long() * boxes[:, 3]).sum())
        inputs.append((pictures, boxes.to(device)))
    return compare(
        setting,
        lambda given: ops.matched_cells(given[0], given[1], SIDE, CANVAS),
        {"crop_resize, then products with the pseudo-inverse": Rival(by_products, captured=False)},
        inputs,
        within(1),  # two ways to sum in float32 put few values on the other side of a byte's edge
        items=images,
        work=Work(3 * area + images * 3 * SIDE**2),
    )


def eager_scores(given: tuple[Tensor, Tensor]) -> Tensor:
    logits, labels = given
    return torch.log_softmax(logits, 1, dtype=torch.float32).gather(1, labels[:, None])[:, 0]


def score_case(setting: Setting, rows: int, dtype: torch.dtype) -> Case:
    columns = 1000
    inputs = [
        (
            (torch.randn(rows, columns, device=setting.device) * 3).to(dtype),
            torch.randint(columns, (rows,), device=setting.device),
        )
        for _ in range(copies(rows * columns * dtype.itemsize, setting.device))
    ]
    return compare(
        setting,
        lambda given: ops.realism_scores(*given),
        {"log_softmax and gather": Rival(eager_scores)},
        inputs,
        within(SAME_SCORES),
        items=rows,
        work=Work(rows * (columns * dtype.itemsize + 12), SCORE_OPERATIONS * rows * columns),
    )


def eager_key_patches(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    own = eager_scores((logits, labels.repeat_interleave(5)))
    best, crop = own.view(-1, 5).max(1)
    return best.topk(40).indices, crop


def key_patches_case(setting: Setting) -> Case:
    """One class, as a step of RDED on ImageNet-1K at 10 images a class and factor 2."""
    rows, columns, device = 1500, 1000, setting.device
    inputs = [
        (torch.randn(rows, columns, device=device) * 3, torch.zeros(300, device=device).long())
        for _ in range(copies(rows * columns * 4, device))
    ]
    return compare(
        setting,
        lambda given: ops.key_patches(given[0], given[1], 5, 40, 1),
        {"log_softmax, gather, max, topk": Rival(lambda given: eager_key_patches(*given))},
        inputs,
        lambda mine, other: within(0)(mine.image[0], other[0]),
        items=rows,
        work=Work(rows * columns * 4, SCORE_OPERATIONS * rows * columns),
    )


def eager_collage(patches: Tensor) -> Tensor:
    classes, ranked, channels, side, _ = patches.shape
    grid = patches.view(classes, 2, 2, ranked // 4, channels, side, side)
    return grid.permute(0, 3, 4, 1, 5, 2, 6).reshape(
        classes, ranked // 4, channels, 2 * side, 2 * side
    )


def collage_case(setting: Setting, classes: int) -> Case:
    shape = (classes, 40, 3, SIDE, SIDE)
    size = classes * 40 * 3 * SIDE**2
    inputs = [
        torch.randint(0, 256, shape, dtype=torch.uint8, device=setting.device)
        for _ in range(copies(size, setting.device))
    ]
    return compare(
        setting,
        lambda patches: ops.collage(patches, 2, CANVAS),
        {"view, permute, reshape": Rival(eager_collage)},
        inputs,
        within(0),
        items=classes * 10,
        work=Work(2 * size),
    )


def eager_formation(images: Tensor) -> Tensor:
    rows = images.chunk(2, -2)
    cells = [cell for row in rows for cell in row.chunk(2, -1)]
    size = list(images.shape[-2:])
    return torch.cat([F.interpolate(cell, size, mode="bilinear") for cell in cells])


def formation_case(setting: Setting, count: int, side: int, *, backward: bool) -> Case:
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
            torch.rand(count, 3, side, side, device=setting.device),
            torch.randn(4 * count, 3, side, side, device=setting.device),
        )
        for _ in range(copies(size, setting.device))
    ]
    passes = 2 if backward else 1
    return compare(
        setting,
        with_slope(lambda images: ops.multi_formation(images, 2, side)),
        {"chunk, interpolate, cat": Rival(with_slope(eager_formation))},
        inputs,
        within(SAME_FORMED),
        items=4 * count,
        work=Work(passes * size, passes * FORMATION_OPERATIONS * 4 * count * 3 * side**2),
    )


def augment_case(setting: Setting, kind: str) -> Case:
    """Forward and backward at a step's batch, beside the published chain with its draws given."""
    shape, size, device = (256, 3, 32, 32), 256 * 3 * 32**2 * 4, setting.device
    parameters = ops.random_augment(256, 32, bench_augment.CASES[kind]).to(device)
    inputs = [
        (torch.randn(shape, device=device).requires_grad_(), torch.randn(shape, device=device))
        for _ in range(copies(2 * size, device))
    ]

    def both_ways(augmented_by: Callable[[Tensor], Tensor]) -> Callable[[Any], tuple[Tensor, ...]]:
        def run(given: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            augmented = augmented_by(given[0])
            return (augmented.detach(), *torch.autograd.grad(augmented, *given))

        return run

    chain = both_ways(lambda x: augment(x, parameters, kind))
    return compare(
        setting,
        both_ways(lambda x: ops.diff_augment(x, parameters)),
        {"published chain of operations": Rival(chain)},
        inputs,
        within(bench_augment.SAME_PIXELS),
        items=len(parameters),
        work=Work(4 * size, bench_augment.OPERATIONS * inputs[0][0].numel()),
    )


def block_case(
    setting: Setting, count: int, side: int, statistics: Statistics, passes: str
) -> Case:
    """A block of a ConvNet behind its convolution, at a step's batch."""
    size = count * bench_block.WIDTH * side**2
    moved = size * bench_block.MOVED[passes]  # float32, in quarters
    ours = bench_block.by_pydream(statistics)
    theirs = bench_block.by_pytorch(statistics)
    return compare(
        setting,
        lambda given: bench_block.run(ours, given, passes),
        {
            "norm, ReLU and pool of PyTorch": Rival(
                lambda given: bench_block.run(theirs, given, passes)
            )
        },
        [
            bench_block.drawn(count, side, setting.device, seed)
            for seed in range(copies(3 * size * 4, setting.device))
        ],
        bench_block.agree,
        items=count,
        work=Work(moved, bench_block.OPERATIONS[passes] * size),
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


def cases(setting: Setting) -> dict[str, Callable[[], Case]]:
    """Return every case by its name: small ones for a rehearsal."""
    small = setting.small
    images, rows, classes = (4, 2_000, 2) if small else (300, 30_000, 100)
    found: dict[str, Callable[[], Case]] = {
        "copy": lambda: {"bytes_per_second": setting.limits.copy_bytes},
        "read": lambda: {"bytes_per_second": read_rate(setting.device, setting.least)},
        "peers": peers,
    }
    for alike, kind in ((True, "one batch of 400 x 400"), (False, "a list of photographs")):
        found[f"crop_resize, {kind}, 5 of each to 112 in 224, bfloat16"] = partial(
            crop_case, setting, images, alike=alike
        )
    found["matched_cells, a batch of 400 x 400, to 112 for 224"] = partial(
        cells_case, setting, images
    )
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        found[f"realism_scores, ({rows}, 1000) {name}"] = partial(score_case, setting, rows, dtype)
    found["key_patches, (1500, 1000) float32, one class"] = partial(key_patches_case, setting)
    found["collage, 2 x 2 of 112, uint8"] = partial(collage_case, setting, classes)
    for count, side in ((10, 32),) if small else ((100, 32), (40, 224)):
        for backward in (False, True):
            name = f"multi_formation, {count} of {side}, factor 2" + ", backward too" * backward
            found[name] = partial(formation_case, setting, count, side, backward=backward)
    for kind in ("crop", "rotate"):
        name = f"diff_augment, (256, 3, 32, 32) float32, {kind}"
        found[name] = partial(augment_case, setting, kind)
    batch = 4 if small else 256
    blocks: list[tuple[int, Statistics, str]] = [
        *((32, "instance", passes) for passes in bench_block.PASSES),
        (8, "instance", bench_block.PASSES[2]),
        (32, "batch", bench_block.PASSES[1]),
    ]
    for side, statistics, passes in blocks:
        name = f"norm_relu_pool, {batch} x 128 x {side} x {side}, {statistics}, {passes}"
        found[name] = partial(block_case, setting, batch, side, statistics, passes)
    return found


if __name__ == "__main__":
    measure("cuda-ops", __doc__.splitlines()[0], cases, least=0.5)
