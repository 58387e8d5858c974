"""Look-alikes of the field's image sets, each through every command with its defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pydream import dream, rded
from pydream.data import open_source
from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, relabel
from pydream.inspection import inspect_set
from pydream.inspection.realism import measure_set
from pydream.models import ObserverConfig, train_observer
from pydream.models.config import ObserverSettings
from pydream.sets.imported import open_distilled
from pydream.sets.opening import open_observer

PER_CLASS = 6


def picture(rng: np.random.Generator, label: int, height: int, width: int) -> np.ndarray:
    """A noisy picture whose mean colour tells its class: uint8 (height, width, 3)."""
    pixels = rng.integers(0, 80, (height, width, 3))
    pixels[..., label] += 120
    return pixels.astype(np.uint8)


def jpeg(file: Path, pixels: np.ndarray, mode: str = "RGB", kind: str = "JPEG") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(file, kind)


def imagenet(root: Path) -> Path:
    """Photographs of all sizes, the first 75 x 56; grey and CMYK ones, and a PNG named .JPEG."""
    rng = np.random.default_rng(0)
    sizes = [(56, 75), (130, 100), (150, 210), (240, 180), (225, 300), (117, 400)]
    modes = ["RGB", "L", "CMYK", "RGB", "RGB", "RGB"]
    for split in ("train", "val"):
        for label, name in enumerate(("n01440764", "n01443537")):
            for number, (size, mode) in enumerate(zip(sizes, modes, strict=True)):
                kind = "PNG" if number == 4 else "JPEG"
                file = root / split / name / f"{name}_{number}.JPEG"
                jpeg(file, picture(rng, label, *size), mode, kind)
    return root


def tiny_imagenet(root: Path) -> Path:
    """Photographs of 64 x 64, some of them grey."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("n01443537", "n01629819")):
            for number in range(PER_CLASS):
                file = root / split / name / "images" / f"{name}_{number}.JPEG"
                jpeg(file, picture(rng, label, 64, 64), "L" if number == 2 else "RGB")
    return root


def arrays(root: Path, side: int, grey: bool) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(2 * PER_CLASS) % 2
    images = np.stack([picture(rng, label, side, side) for label in labels.tolist()])
    if grey:
        images = images[..., 0]
    path = root.with_suffix(".npz")
    np.savez(path, images=images, labels=labels, test_images=images, test_labels=labels)
    return path


def cifar_and_svhn(root: Path) -> Path:
    return arrays(root, 32, grey=False)


def mnist(root: Path) -> Path:
    return arrays(root, 28, grey=True)


@pytest.mark.parametrize(
    ("make", "side", "enlarged"),
    [(imagenet, 224, 4), (tiny_imagenet, 64, 0), (cifar_and_svhn, 32, 0), (mnist, 28, 0)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_usual_set_passes_every_command(
    make: Callable[[Path], Path], side: int, enlarged: int, tmp_path: Path
) -> None:
    source = str(make(tmp_path / "set"))
    observer = train_observer(
        ObserverConfig(source, arch="convnet3-w8", epochs=1, out=tmp_path / "o.safetensors")
    )
    assert (observer.side, observer.skipped) == (side, 0)
    path = tmp_path / "patches"
    made = rded.distill(
        rded.RdedConfig(
            source, str(observer.path), out=path, ipc=1, crops=1, allow_weak_observer=True
        )
    )
    assert made.manifest.skipped == []
    # Up to 64 pixels a patch is a whole image; of the photographs it is a quarter, 112 pixels.
    assert made.manifest.enlarged == enlarged
    matched = dream.distill(
        dream.DreamConfig(
            source,
            out=tmp_path / "matched",
            ipc=1,
            arch="convnet3-w8-instance",
            iterations=1,
            inner_loop=1,
            batch_real=2,
            network_epochs=0,
            network_images=2,
        )
    )
    assert (matched.manifest.side, matched.manifest.skipped) == (side, [])
    relabel(RelabelConfig(set=path, observer=str(observer.path), epochs=1))
    result = evaluate_set(
        EvaluateConfig(
            set=path,
            observer=str(observer.path),
            epochs=1,
            labels=("stored",),
            baselines=("random",),
        )
    )
    assert len(result.rows) == 2
    distilled = open_distilled(path)
    network = open_observer(
        str(observer.path),
        distilled,
        ObserverSettings(),
        arch=None,
        precision="float32",
        device=torch.device("cpu"),
    )
    measures = measure_set(distilled, network, open_source(source))
    assert inspect_set(distilled, measures).enlarged == enlarged
