from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from pictures import write_noise
from torchvision.transforms.v2 import functional

from pydream.data import open_source
from pydream.data.resized import load_split, whole_images
from pydream.data.unreadable import Unreadable
from pydream.errors import PydreamError

CPU = torch.device("cpu")
# A level of rounding between two ways to resize.
ONE_LEVEL = 1.01


def test_small_images_are_resized_whole(tmp_path: Path) -> None:
    root = write_noise(tmp_path, {"cat": [(40, 32), (17, 23)], "dog": [(33, 90)]}, "test")
    source = open_source(root, "test")
    test = load_split(source, 32, workers=2, device=CPU)
    assert test.images.dtype == torch.uint8
    assert test.labels.tolist() == [0, 0, 1]
    for index, got in enumerate(test.images):
        image = source.image(index).permute(2, 0, 1).float()
        wanted = functional.resize(image, [32, 32], antialias=True).permute(1, 2, 0)
        assert (got.float() - wanted).abs().max() <= ONE_LEVEL


def test_of_large_images_the_middle_is_taken(tmp_path: Path) -> None:
    # 256 pixels, resized to 128·256/224 and cropped to 128, is the middle 224, resized to 128.
    root = write_noise(tmp_path, {"cat": [(256, 400)], "dog": [(300, 256)]}, "test")
    source = open_source(root, "test")
    test = load_split(source, 128, workers=1, device=CPU)
    for index, got in enumerate(test.images):
        image = source.image(index).permute(2, 0, 1).float()
        wanted = functional.resize(
            functional.center_crop(image, [224, 224]), [128, 128], antialias=True
        ).permute(1, 2, 0)
        assert (got.float() - wanted).abs().max() <= ONE_LEVEL


def test_test_images_that_cannot_be_read_are_named_and_refused_above_the_share_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_noise(tmp_path, {"cat": [(9, 9)] * 3, "dog": [(9, 9)] * 5}, "test")
    for name in ("cat/1.png", "dog/0.png", "dog/2.png", "dog/3.png"):
        (root / "test" / name).write_bytes(b"")
    source = open_source(root, "test")
    names = r"cat/1\.png \(empty file\), dog/0\.png \(empty file\), dog/2\.png .* and 1 more"
    for share in (0.01, 0.49):
        with pytest.raises(PydreamError, match=rf"4 of 8 test images .*: {names}.*--allow-skipped"):
            load_split(source, 8, workers=2, device=CPU, allow_skipped=share)
    assert capsys.readouterr().err == ""
    read = load_split(source, 8, workers=2, device=CPU, allow_skipped=0.5)
    assert read.labels.tolist() == [0, 0, 1, 1]
    assert re.search(
        rf"4 of 8 test images cannot be read and are left out: {names}\n$", capsys.readouterr().err
    )
    for row, index in enumerate((0, 2, 4, 7)):
        [view], _ = next(
            whole_images(source, [index], 8, workers=1, unreadable=Unreadable(source, 1, 0.0))
        )
        assert torch.equal(read.images[row], view)
