"""The ops of RDED on a GPU, beside PyTorch, torch.compile, others, and the limit of the memory.

    python -m benchmarks.cuda_ops [--device cuda] [--out FOLDER]

The limit is the bandwidth of a copy on that card in the same run. `benchmarks.cuda_events` says how
time is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.bench_score import OPERATIONS as SCORE_OPERATIONS
from benchmarks.comparison import (
    Case,
    Rival,
    Setting,
    by_compile,
    compare_bytes,
    measure,
    within,
)
from benchmarks.croppers import CROPPERS, Cropper, Cropping
from benchmarks.cuda_events import copies, read_rate
from benchmarks.timing import Work
from pydream import ops

CROP = Cropping(side=112, canvas=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIDE, CANVAS = CROP.side, CROP.canvas
# torchvision's antialiased resize in float32, and the cast to bfloat16 at values up to 3.
SAME_PIXELS = 0.02
SAME_SCORES = 1e-5
PER_CLASS = 40
# Croppers without equal work: kornia's antialiasing blurs before it samples, which gives other
# pixels.
UNTIMED = {"kornia": ("kornia",)}


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


def crop_case(setting: Setting, images: int, *, alike: bool) -> Case:
    """Photographs in a list or, if they are alike, in one batch, as a CUDA graph takes them."""

    def ours(given: tuple[list[Tensor], Tensor]) -> Tensor:
        return ops.crop_resize(
            *given, SIDE, canvas=CANVAS, mean=CROP.mean, std=CROP.std, dtype=torch.bfloat16,
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

    def rival(cropper: Cropper) -> Rival:
        count = min(cropper.most or patches, patches)

        def agree(mine: Tensor, theirs: Tensor) -> None:
            pair = (cropper.compared(given, CROP) for given in (mine[:count], theirs))
            within(SAME_PIXELS)(*pair)

        return Rival(
            lambda given: cropper.crop(given[0], given[1], count, CROP), False, count, agree
        )

    return compare_bytes(
        setting,
        ours,
        {name: rival(cropper) for name, cropper in CROPPERS.items()},
        inputs,
        within(SAME_PIXELS),
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
    return compare_bytes(
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
    return compare_bytes(
        setting,
        lambda given: ops.realism_scores(*given),
        {
            "log_softmax and gather": Rival(eager_scores),
            "torch.compile": Rival(by_compile(setting, eager_scores)),
        },
        inputs,
        within(SAME_SCORES),
        items=rows,
        work=Work(rows * (columns * dtype.itemsize + 12), SCORE_OPERATIONS * rows * columns),
    )


def eager_key_patches(given: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    logits, labels = given
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
    return compare_bytes(
        setting,
        lambda given: ops.key_patches(given[0], given[1], 5, 40, 1),
        {
            "log_softmax, gather, max, topk": Rival(eager_key_patches),
            "torch.compile": Rival(by_compile(setting, eager_key_patches)),
        },
        inputs,
        lambda mine, other: within(0)(mine.image[0], other[0]),
        items=rows,
        work=Work(rows * columns * 4, SCORE_OPERATIONS * rows * columns),
    )


def eager_selection(given: tuple[Tensor, Tensor], classes: int) -> tuple[Tensor, Tensor]:
    """Sort by score, then by class; every class has as many images."""
    scores, labels = given
    best, crop = scores.max(1)
    order = best.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    image = order.view(classes, -1)[:, :PER_CLASS]
    return image, crop[image]


def selection_case(setting: Setting, classes: int, images: int) -> Case:
    """Key patches of many classes at once, from the scores of five crops of every image."""
    rows, device = classes * images, setting.device
    inputs = []
    for _ in range(copies(rows * 28, device)):
        labels = torch.randperm(rows, device=device) % classes
        inputs.append((torch.randn(rows, 5, device=device), labels))
    theirs = partial(eager_selection, classes=classes)
    return compare_bytes(
        setting,
        lambda given: ops.select_key_patches(given[0], given[1], PER_CLASS, classes)[:2],
        {"max and two sorts": Rival(theirs), "torch.compile": Rival(by_compile(setting, theirs))},
        inputs,
        within(0),
        items=rows,
        work=Work(rows * 28),
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
    return compare_bytes(
        setting,
        lambda patches: ops.collage(patches, 2, CANVAS),
        {
            "view, permute, reshape": Rival(eager_collage),
            "torch.compile": Rival(by_compile(setting, eager_collage)),
        },
        inputs,
        within(0),
        items=classes * 10,
        work=Work(2 * size),
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
    for classes_at_once, each in ((3, 50),) if small else ((100, 1300), (1000, 300)):
        name = f"select_key_patches, {classes_at_once} classes of {each} images, 5 crops each"
        found[name] = partial(selection_case, setting, classes_at_once, each)
    found["collage, 2 x 2 of 112, uint8"] = partial(collage_case, setting, classes)
    return found


if __name__ == "__main__":
    measure("cuda-ops", __doc__.splitlines()[0], cases, least=0.5)
