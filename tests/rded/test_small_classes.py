"""Classes with fewer images than key patches, of which several crops are taken."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rded_runs import hashes, settings
from torchvision.transforms.v2 import functional as tvf

from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.rded import distill
from pydream.rded.patches import select
from pydream.rded.small_classes import overlap, select_with_reuse
from pydream.sets.distilled import load_set
from pydream.sets.writer import SetWriter


def pixels_of(box: Any, side: int = 24) -> np.ndarray:
    """Mark the pixels of a box in an image."""
    top, left, height, width = (int(value) for value in box)
    image = np.zeros((side, side), dtype=bool)
    image[top : top + height, left : left + width] = True
    return image


def shares_more_than_half(one: Any, other: Any) -> bool:
    first, second = pixels_of(one), pixels_of(other)
    return bool((first & second).sum() / (first | second).sum() > 0.5)


def random_boxes(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 13, (*shape, 2))
    return np.concatenate([rng.integers(0, 24 - sizes + 1), sizes], axis=-1)


def plain_choice(scores: np.ndarray, boxes: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Walk through rounds, images and crops, one at a time; images and crops of the patches."""
    taken: dict[int, list[int]] = {image: [] for image in range(len(scores))}
    chosen: list[tuple[int, int]] = []
    while True:
        found = []
        for image, own in taken.items():
            free = [
                crop
                for crop in range(scores.shape[1])
                if np.isfinite(scores[image, crop])
                and not any(shares_more_than_half(boxes[image, crop], boxes[image, o]) for o in own)
            ]
            if free:
                found.append((image, max(free, key=lambda crop: (scores[image, crop], -crop))))
        if not found:
            return chosen[:count]
        for image, crop in found:
            taken[image].append(crop)
        chosen += sorted(found, key=lambda pair: (-scores[pair], pair))


def test_boxes_overlap_by_the_pixels_they_share() -> None:
    one, other = random_boxes(0, 500), random_boxes(1, 500)
    other[:200] = one[:200] + random_boxes(2, 200) // 6 * [1, 1, 0, 0]
    other[:100, 2:] = np.maximum(one[:100, 2:] - 2, 1)
    other[:, :2] = np.minimum(other[:, :2], 24 - other[:, 2:])
    wanted = [shares_more_than_half(*pair) for pair in zip(one, other, strict=True)]
    assert overlap(one, other).tolist() == wanted
    assert 50 < sum(wanted) < 450
    assert overlap(one[:, None], other[None])[3, 4] == shares_more_than_half(one[3], other[4])


def test_half_is_not_more_than_half() -> None:
    box = np.array([0, 0, 4, 6])
    assert not overlap(box, np.array([0, 2, 4, 6]))  # 16 of 32 pixels
    assert overlap(box, np.array([0, 1, 4, 6]))
    assert not overlap(box, np.array([1, 1, 1, 1]))  # a detail
    assert not overlap(box, np.array([0, 0, 2, 6]))
    assert overlap(box, np.array([0, 0, 3, 6]))
    assert overlap(box, box)


@pytest.mark.parametrize("seed", range(12))
def test_patches_are_chosen_as_one_at_a_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, crops = int(rng.integers(1, 7)), int(rng.integers(1, 9))
    # Few different values: many ties, within an image and between images.
    scores = rng.integers(-4, 0, (images, crops)).astype(np.float32)
    scores[rng.random(images) < 0.2] = -np.inf  # images that could not be used
    boxes = random_boxes(seed, images, crops)
    for count in (1, images, 2 * images + 1, images * crops):
        found = select_with_reuse(torch.from_numpy(scores), torch.from_numpy(boxes), 5, count)
        pairs = [(key.candidate - 5, key.crop) for key in found]
        assert pairs == plain_choice(scores, boxes, count)
        assert [key.score for key in found] == [scores[pair] for pair in pairs]


def test_without_need_the_choice_is_the_published_one() -> None:
    scores = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    boxes = torch.from_numpy(random_boxes(0, 9, 5))
    assert select_with_reuse(scores, boxes, 3, 8) == select(scores, 3, 8)


def leave(folder: Path, count: dict[str, int]) -> Path:
    """Delete all but the first pictures of some classes."""
    for name, left in count.items():
        for file in sorted((folder / name).iterdir())[left:]:
            file.unlink()
    return folder


@pytest.fixture
def tail(folder: Path) -> Path:
    """The pictures of `folder`, with three left of the second class and two of the last."""
    return leave(folder, {"bee": 3, "dog": 2})


REUSE: dict[str, Any] = {"small_classes": "reuse", "crops": 60, "ipc": 1}


def test_a_small_class_gives_several_crops_of_its_images(
    tail: Path, random_observer: Path, tmp_path: Path
) -> None:
    result = distill(settings(tail, random_observer, tmp_path / "set", **REUSE))
    rows = pq.read_table(result.path / "provenance.parquet").to_pylist()
    assert [len([row for row in rows if row["class"] == label]) for label in range(4)] == [4] * 4
    for label, sources in enumerate((4, 3, 4, 2)):  # every image of a small class
        assert len({row["source"] for row in rows if row["class"] == label}) == sources
    dog = [row for row in rows if row["class"] == 3]
    side = ("top", "left", "height", "width")
    pairs = [pair for pair in combinations(dog, 2) if pair[0]["source"] == pair[1]["source"]]
    assert pairs
    for one, other in pairs:
        first, second = (pixels_of([row[name] for name in side], 64) for row in (one, other))
        assert (first & second).sum() <= (first | second).sum() / 2
    source, images = open_source(tail), load_set(result.path).images
    for row in dog:  # a cell shows the crop that its row names
        image = source.image(list(source.keys).index(row["source"])).permute(2, 0, 1)
        box = [row[name] for name in side]
        crop = tvf.resized_crop(image, *box, [16, 16], antialias=True).permute(1, 2, 0)
        top, left = row["cell"] // 2 * 16, row["cell"] % 2 * 16
        cell = images[3, top : top + 16, left : left + 16]
        assert (cell.int() - crop.int()).abs().max() <= 1  # torchvision's rounding of uint8
    assert "several crops of an image" in (result.path / "report.html").read_text()


@pytest.mark.parametrize(("cells", "factor"), [("shrunk", 2), ("matched", 3)])
def test_reused_images_give_the_same_bytes_however_the_run_is_organised(
    folder: Path, random_observer: Path, tmp_path: Path, cells: str, factor: int
) -> None:
    small = leave(folder, {"bee": factor**2 - 1, "dog": factor**2 - 2})
    given = {**REUSE, "cells": cells, "factor": factor, "preselect": 9}
    first = hashes(distill(settings(small, random_observer, tmp_path / "first", **given)).path)
    others = {"batch_size": 1, "workers": 5, "memory_budget": 1}
    again = settings(small, random_observer, tmp_path / "again", **given, **others)
    assert hashes(distill(again).path) == first


def stopped_at(write: Callable[..., None], label: int) -> Callable[..., None]:
    """Press Ctrl-C before a class is written."""

    def writing(self: SetWriter, of: int, *args: Any, **options: Any) -> None:
        if of == label:
            raise KeyboardInterrupt
        write(self, of, *args, **options)

    return writing


def test_a_run_that_reuses_images_resumes_to_the_same_bytes(
    tail: Path, random_observer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = hashes(distill(settings(tail, random_observer, tmp_path / "whole", **REUSE)).path)
    given: dict[str, Any] = {**REUSE, "batch_size": 1}
    with monkeypatch.context() as patch:
        patch.setattr(SetWriter, "write_class", stopped_at(SetWriter.write_class, label=2))
        with pytest.raises(KeyboardInterrupt):
            distill(settings(tail, random_observer, tmp_path / "set", **given))
    written = tmp_path / "set.partial" / "set" / "images" / "00001" / "00000.png"
    time = written.stat().st_mtime_ns
    resumed = distill(settings(tail, random_observer, tmp_path / "set", **given, resume=True))
    assert (resumed.path / "images" / "00001" / "00000.png").stat().st_mtime_ns == time
    assert hashes(resumed.path) == whole


def test_an_unreadable_image_makes_a_class_small(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"ipc": 11, "factor": 1, "crops": 20, "allow_skipped": 1.0}
    (folder / "bee" / "00.jpg").write_bytes(b"broken")
    with pytest.raises(
        PydreamError, match=r"has 10 readable .* 11 needed; .*--small-classes reuse"
    ):
        distill(settings(folder, random_observer, tmp_path / "refused", **given))
    given["small_classes"] = "reuse"
    result = distill(settings(folder, random_observer, tmp_path / "set", **given))
    rows = pq.read_table(result.path / "provenance.parquet").to_pylist()
    bees = [row["source"] for row in rows if row["class"] == 1]
    assert (len(bees), len({*bees})) == (11, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"small_classes": "refuse"}, "class dog has 2 images, .* or --small-classes reuse"),
        ({"ipc": 2, "crops": 3}, "dog has 2 images of 3 crops, fewer than the 8 .*; raise --crops"),
        ({"preselect": 3}, "3 looks at fewer images of class ant than the 4 .* --preselect 4"),
        (
            {"ipc": 2, "crops": 4},
            "dog has 2 readable images; 4 crops .* the 8 needed; raise --crops",
        ),
    ],
    ids=str,
)
def test_too_few_images_are_refused_in_one_line(
    tail: Path, random_observer: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PydreamError, match=message) as caught:
        distill(settings(tail, random_observer, tmp_path / "set", **{**REUSE, **changes}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()
