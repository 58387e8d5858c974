"""Encoding of PNG."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pydream.sets import writer


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 1), (17, 31), (64, 64)])
def test_pixels_come_back(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(height)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    picture = Image.open(io.BytesIO(writer.png(image)))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    assert np.array_equal(np.array(picture), image.permute(1, 2, 0).numpy())


def test_a_view_of_other_strides() -> None:
    image = torch.arange(5 * 7 * 3, dtype=torch.uint8).reshape(5, 7, 3).permute(2, 0, 1)
    assert np.array_equal(
        np.array(Image.open(io.BytesIO(writer.png(image)))), image.permute(1, 2, 0).numpy()
    )
