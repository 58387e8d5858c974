from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pydream.models import ObserverConfig, build_model, save_weights, train_observer

CLASSES = ("ant", "bee", "cat", "dog")
PER_CLASS = 11


def write_image(file: Path, rng: np.random.Generator, hue: int) -> None:
    """A noisy picture of odd size whose colour tells its class."""
    height, width = rng.integers(33, 61, size=2)
    pixels = rng.integers(0, 120, size=(height, width, 3))
    pixels[..., hue % 3] += 100 + 30 * (hue // 3)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of pictures: four classes of eleven, PNG and JPEG."""
    rng = np.random.default_rng(7)
    root = tmp_path / "pictures"
    for hue, name in enumerate(CLASSES):
        for number in range(PER_CLASS):
            suffix = ".png" if number % 2 else ".jpg"
            write_image(root / name / f"{number:02d}{suffix}", rng, hue)
    return root


@pytest.fixture
def random_observer(tmp_path: Path) -> Path:
    """A small observer of four classes with random weights, for 32 pixels a side."""
    torch.manual_seed(3)
    model = build_model("convnet2-w16", num_classes=len(CLASSES), side=32)
    file = tmp_path / "random.safetensors"
    save_weights(model, file, {"arch": "convnet2-w16", "side": "32"})
    return file


@pytest.fixture(scope="session")
def digits_observer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An observer that knows the digits."""
    out = tmp_path_factory.mktemp("observer") / "digits.safetensors"
    train_observer(
        ObserverConfig(
            source="digits", arch="convnet2-w16", epochs=6, horizontal_flip=False, out=out
        )
    )
    return out
