from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from pictures import write_noise

from pydream.data import Source, open_source
from pydream.errors import PydreamError
from pydream.evaluate.baselines import Baselines
from pydream.models import build_model, load_observer


def sizes_of_three_classes(count: int) -> dict[str, list[tuple[int, int]]]:
    return {name: [(9, 9)] * count for name in "abc"}


def random_keys_of(source: Source, images: torch.Tensor) -> list[str]:
    """Find the key of each image by its pixels."""
    known = {source.image(index).numpy().tobytes(): key for index, key in enumerate(source.keys)}
    return [known[image.numpy().tobytes()] for image in images]


def test_unreadable_images_count_in_the_progress_of_a_coreset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_noise(tmp_path, {"a": [(8, 8)] * 3, "b": [(8, 8)] * 3})
    (root / "train" / "b" / "2.png").write_bytes(b"")
    model = build_model("convnet1-w4", num_classes=2, side=8)
    images = Baselines(
        open_source(root),
        3,
        8,
        observer=load_observer(model, precision="float32"),
        workers=1,
        allow_skipped=0.5,
    ).images("herding", seed=0)
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert re.search(r"features for coresets: 6 of 6 images, .* taken\n", capsys.readouterr().err)


def test_random_images_are_drawn_from_every_class_without_replacement(tmp_path: Path) -> None:
    source = open_source(write_noise(tmp_path, sizes_of_three_classes(8)))
    drawn = Baselines(source, 3, 9, workers=2).images("random", 1)
    keys = random_keys_of(source, drawn.images)
    assert len(set(keys)) == 9
    assert [key[0] for key in keys] == list("aaabbbccc")
    assert drawn.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    again = Baselines(source, 3, 9, workers=1).images("random", 1)
    assert torch.equal(drawn.images, again.images)


def test_random_images_are_any_of_the_class(tmp_path: Path) -> None:
    source = open_source(write_noise(tmp_path, {"a": [(5, 5)] * 6}))
    drawn = [
        Baselines(source, 1, 5, workers=1).images("random", seed).images for seed in range(120)
    ]
    counts = Counter(random_keys_of(source, torch.cat(drawn)))
    # 20 of each expected; less than 4 or more than 45 has a chance below one in a million.
    assert len(counts) == 6
    assert 4 <= min(counts.values()) <= max(counts.values()) <= 45


def test_a_class_with_fewer_images_gives_all_of_them(tmp_path: Path) -> None:
    root = write_noise(tmp_path, {"a": [(9, 9)] * 2, "b": [(9, 9)] * 7})
    drawn = Baselines(open_source(root), 5, 9, workers=1).images("random", 0)
    assert drawn.labels.tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_unreadable_images_are_replaced_by_the_next(tmp_path: Path) -> None:
    root = write_noise(tmp_path, sizes_of_three_classes(6))
    first = Baselines(open_source(root), 2, 9, workers=1).images("random", 4)
    keys = random_keys_of(open_source(root), first.images)
    (root / "train" / keys[0]).write_bytes(b"no picture")
    (root / "train" / keys[1]).write_bytes(b"no picture")
    source = open_source(root)
    replaced = Baselines(source, 2, 9, workers=1).images("random", 4)
    assert torch.equal(replaced.images[2:], first.images[2:])
    assert replaced.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert not torch.equal(replaced.images[:2], first.images[:2])


def test_a_class_without_a_readable_image_is_named(tmp_path: Path) -> None:
    root = write_noise(tmp_path, {"good": [(9, 9)], "bad": [(9, 9)]})
    (root / "train" / "bad" / "0.png").write_bytes(b"no picture")
    with pytest.raises(PydreamError, match="class bad has no readable image"):
        Baselines(open_source(root), 1, 9, workers=1).images("random", 0)
