"""crop_resize beside what people use: the same boxes out of the same images, threads equal."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from benchmarks.timing import Work, compare, report, table
from pydream import ops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROPS = 5
ROUNDS = 4

# After a division by a standard deviation: float32, and one and a half levels of 255.
SAME_PIXELS, SAME_LEVELS = 1e-4, 1.5 / 255 / min(STD)


@dataclass(frozen=True)
class Case:
    images: list[Tensor]  # uint8 (H, W, 3) each
    side: int

    def sizes(self) -> Tensor:
        return torch.tensor([image.shape[:2] for image in self.images])

    def boxes(self) -> list[list[list[int]]]:
        drawn: list[list[list[int]]] = ops.random_crop_boxes(self.sizes(), CROPS).tolist()
        return drawn

    def work(self) -> Work:
        """Count source under the boxes and output, each once; taps of a separable triangle."""
        boxes = [box for of_image in self.boxes() for box in of_image]
        area = sum(height * width for _, _, height, width in boxes)
        taps = sum(
            self.side * width * _taps(height, self.side) + self.side**2 * _taps(width, self.side)
            for _, _, height, width in boxes
        )
        return Work(3 * area + 12 * len(boxes) * self.side**2, int(2 * 3 * taps))


def _taps(source: int, target: int) -> float:
    """Return how many pixels an antialiased one is made of, on average."""
    return 2 * max(source / target, 1.0)


def each_crop(images: list[Any], case: Case, cut: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """Call `cut(image, top, left, height, width)` for one crop after another."""
    boxes = case.boxes()
    return lambda: torch.stack(
        [
            cut(image, *box)
            for image, of_image in zip(images, boxes, strict=True)
            for box in of_image
        ]
    )


def pydream_crops(case: Case) -> Callable[[], Tensor]:
    return lambda: ops.crop_resize(
        case.images,
        ops.random_crop_boxes(case.sizes(), CROPS).flatten(0, 1),
        case.side,
        mean=MEAN,
        std=STD,
    )


def torchvision_rivals(case: Case) -> dict[str, Callable[[], Tensor]]:
    size = [case.side, case.side]
    planes = [image.permute(2, 0, 1).contiguous() for image in case.images]
    prepared = [
        tv.normalize(tv.to_dtype(image, torch.float32, True), MEAN, STD) for image in planes
    ]
    transform = v2.RandomResizedCrop(size, ratio=(1.0, 1.0), antialias=True)

    def from_bytes(image: Any, *box: int) -> Tensor:
        crop = tv.to_image(tv.resized_crop(image, *box, size, antialias=True))
        shown = tv.normalize(tv.to_dtype(crop, torch.float32, True), MEAN, STD)
        plain: Tensor = shown.as_subclass(Tensor)
        return plain

    return {
        "published transform, drawing boxes": lambda: torch.stack(
            [transform(image) for image in prepared for _ in range(CROPS)]
        ),
        "published transform, boxes given": each_crop(
            prepared, case, lambda image, *box: tv.resized_crop(image, *box, size, antialias=True)
        ),
        "torchvision, Pillow images": each_crop(
            [Image.fromarray(image.numpy()) for image in case.images], case, from_bytes
        ),
        "torchvision, uint8 tensors": each_crop(planes, case, from_bytes),
    }


def opencv_rival(case: Case, threads: int) -> Callable[[], Tensor]:
    import cv2

    cv2.setNumThreads(threads)
    mean, std = (np.array(values, dtype=np.float32) for values in (MEAN, STD))
    factor, offset = 1 / (255 * std), mean / std

    def cut(image: Any, top: int, left: int, height: int, width: int) -> Tensor:
        crop = image[top : top + height, left : left + width]
        resized = cv2.resize(crop, (case.side, case.side), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(resized * factor - offset).permute(2, 0, 1)

    run = each_crop([image.numpy() for image in case.images], case, cut)
    return lambda: run().contiguous()


def kornia_rival(case: Case) -> Callable[[], Tensor]:
    from kornia.geometry.transform import crop_and_resize

    prepared = [
        tv.normalize(tv.to_dtype(image.permute(2, 0, 1), torch.float32, True), MEAN, STD)
        for image in case.images
    ]
    corners = [
        torch.tensor(
            [
                [[x, y], [x + w - 1, y], [x + w - 1, y + h - 1], [x, y + h - 1]]
                for y, x, h, w in of_image
            ],
            dtype=torch.float32,
        )
        for of_image in case.boxes()
    ]
    size = (case.side, case.side)
    return lambda: torch.cat(
        [
            crop_and_resize(image.expand(CROPS, -1, -1, -1), boxes, size)
            for image, boxes in zip(prepared, corners, strict=True)
        ]
    )


def memory_copy(case: Case) -> Callable[[], object]:
    """Read and write, together, as many bytes as the crops must."""
    source = torch.ones(case.work().nbytes // 2, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def measure(case: Case, threads: int, rounds: int) -> dict[str, Any]:
    ours = pydream_crops(case)
    rivals: dict[str, Callable[[], Any]] = {"pydream": ours, **torchvision_rivals(case)}
    absent = []
    filters: list[tuple[str, str, Callable[[], Callable[[], Tensor]]]] = [
        ("OpenCV INTER_AREA", "cv2", lambda: opencv_rival(case, threads)),
        ("kornia, no antialiasing", "kornia", lambda: kornia_rival(case)),
    ]
    for name, module, make in filters:
        if importlib.util.find_spec(module):
            rivals[name] = make()
        else:
            absent.append(name)
    exact = ours()
    difference = {}
    for name, tolerance in {
        "published transform, boxes given": SAME_PIXELS,
        "torchvision, Pillow images": SAME_LEVELS,
        "torchvision, uint8 tensors": SAME_LEVELS,
    }.items():
        difference[name] = float((exact - rivals[name]()).abs().max())
        assert difference[name] <= tolerance, f"{name} differs by {difference[name]}"
    for name in ("OpenCV INTER_AREA", "kornia, no antialiasing"):  # other filters by design
        if name in rivals:
            difference[name] = float((exact - rivals[name]()).abs().mean())
            assert difference[name] < 0.5, f"{name} shows other pictures"
    rivals["memory copy, the limit"] = memory_copy(case)
    result = report(
        compare(rivals, rounds=rounds, threads=threads),
        ours="pydream",
        limit="memory copy, the limit",
        items=len(case.images) * CROPS,
        unit="crop",
        work=case.work(),
    )
    return result | {"threads": threads, "difference": difference, "absent": absent}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["ImageNet to 112", "32 to 32"])
def test_crop_resize(
    benchmark: BenchmarkFixture,
    photographs: list[torch.Tensor],
    record: dict[str, Any],
    name: str,
    threads: int,
) -> None:
    if name == "32 to 32":
        generator = torch.Generator().manual_seed(0)
        batch = torch.randint(0, 256, (300, 32, 32, 3), dtype=torch.uint8, generator=generator)
        case = Case(list(batch), 32)
    else:
        case = Case(photographs, int(name.rpartition(" ")[2]))
    enabled = benchmark.enabled
    result = measure(case, threads, ROUNDS if enabled else 1)
    if enabled:
        record[f"{name}, {threads} threads"] = result
        print("\n" + table(f"{name}, {threads} threads", result))
    benchmark.pedantic(pydream_crops(case), rounds=ROUNDS)
