"""Small pictures of four classes, an observer with random weights, and runs of RDED on them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from pydream.models import build_model, save_weights
from pydream.rded import RdedConfig
from pydream.sets.writer import SetWriter

CLASSES = ("ant", "bee", "cat", "dog")
PER_CLASS = 11


def write_image(file: Path, rng: np.random.Generator, hue: int) -> None:
    """A noisy picture of odd size whose colour tells its class."""
    height, width = rng.integers(33, 61, size=2)
    pixels = rng.integers(0, 120, size=(height, width, 3))
    pixels[..., hue % 3] += 100 + 30 * (hue // 3)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def write_pictures(root: Path) -> Path:
    """Write class folders of pictures: four classes of eleven, PNG and JPEG."""
    rng = np.random.default_rng(7)
    for hue, name in enumerate(CLASSES):
        for number in range(PER_CLASS):
            suffix = ".png" if number % 2 else ".jpg"
            write_image(root / name / f"{number:02d}{suffix}", rng, hue)
    return root


def write_random_observer(
    file: Path,
    num_classes: int = len(CLASSES),
    seed: int = 3,
    *,
    arch: str = "convnet2-w16",
    side: int = 32,
) -> Path:
    """Write a small observer with random weights."""
    torch.manual_seed(seed)
    model = build_model(arch, num_classes=num_classes, side=side)
    save_weights(model, file, {"arch": arch, "side": str(side)})
    return file


def settings(folder: Path, weights: Path, out: str | Path, **changes: Any) -> RdedConfig:
    given: dict[str, Any] = {
        "source": str(folder),
        "observer": str(weights),
        "out": out,
        "ipc": 2,
        "factor": 2,
        "allow_weak_observer": True,
        **changes,
    }
    return RdedConfig(**given)


def hashes(path: Path) -> dict[str, str]:
    """The bytes of a set, by file: all but run.json, which tells the seconds."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.json"
    }


def shuffled_observer(file: Path, digits_observer: Path, order: list[int]) -> None:
    """Write the digits' observer with its outputs in another order, and without their names."""
    weights = load_file(digits_observer)
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].contiguous()
    with safe_open(digits_observer, "pt") as handle:
        metadata = {key: value for key, value in handle.metadata().items() if key != "classes"}
    model = build_model(metadata["arch"], num_classes=10, side=int(metadata["side"]))
    model.load_state_dict(weights)
    save_weights(model, file, metadata)


def stopped_after(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    """Let a run write the images of some classes, and then be killed."""
    written, write = [0], SetWriter.write_class

    def write_and_stop(writer: SetWriter, *arguments: Any, **options: Any) -> None:
        if written[0] == classes:
            raise KeyboardInterrupt
        write(writer, *arguments, **options)
        written[0] += 1

    monkeypatch.setattr(SetWriter, "write_class", write_and_stop)
