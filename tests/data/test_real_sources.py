"""The real images that lie beside the project, where they do."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pydream.data import decode_ahead, has_split, open_source

# Pillow's libjpeg-turbo and torchvision's may round the inverse DCT and the colours apart.
JPEG_STEPS = 2


def check_against_pillow(image: torch.Tensor, data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    assert image.shape == expected.shape
    assert np.abs(image.numpy() - expected).max() <= JPEG_STEPS


def test_cifar10_in_its_zip(data_root: Path) -> None:
    path = data_root / "cifar10.zip"
    assert has_split(path, "test")
    train, test = open_source(path), open_source(path, "test")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        first = archive.read("cifar10/train/airplane/0000.jpg")
    for source, count in ((train, 50_000), (test, 5_000)):
        prefix = f"cifar10/{source.split}/"
        expected = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        assert list(source.keys) == expected
        assert len(source) == count
        assert source.class_names == (
            "airplane", "automobile", "bird", "cat", "deer",
            "dog", "frog", "horse", "ship", "truck",
        )  # fmt: skip
        assert (np.bincount(source.labels) == count // 10).all()
        assert source.ignored == 0
    assert train.keys[0] == "airplane/0000.jpg"
    check_against_pillow(train.image(0), first)


def test_photographs_decoded_ahead(data_root: Path) -> None:
    path = data_root / "imagenet-sample-200.zip"
    source = open_source(path)
    assert len(source) == 200
    indices = range(0, 200, 8)
    images = decode_ahead(source, indices, workers=2, budget=2**22)
    with zipfile.ZipFile(path) as archive:
        for index, image in zip(indices, images, strict=True):
            assert isinstance(image, torch.Tensor)
            check_against_pillow(image, archive.read(f"imagenet-sample/{source.keys[index][16:]}"))
