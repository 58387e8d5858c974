"""Scikit-learn's digits as a small distilled set, and an observer of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from pydream.data import open_source
from pydream.data.resized import LabelledImages, load_split
from pydream.evaluate.baselines import Baselines
from pydream.models import save_weights
from pydream.sets.image_formats import hash_image_files
from pydream.sets.writer import save_image
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import RDED
from pydream.students.train import train_student
from pydream.students.views import MixedBatch

ARCH = "convnet2-w32"
SIDE = 8
MEAN, STD = (0.3, 0.3, 0.3), (0.3, 0.3, 0.3)
PER_CLASS = 5
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Digits:
    """A trained observer of scikit-learn's digits, and a small set of real images on disk."""

    observer: Path
    top1: float
    train: LabelledImages
    test: LabelledImages


def train_digits(folder: Path) -> Digits:
    """Train an observer with true labels, through the same loop as a student."""
    train = load_split(open_source("digits"), SIDE, workers=1, device=CPU)
    test = load_split(open_source("digits", "test"), SIDE, workers=1, device=CPU)

    def targets(batch: MixedBatch) -> torch.Tensor:
        own = torch.eye(10)[train.labels[batch.rows]]
        return batch.share * own + (1 - batch.share) * torch.eye(10)[train.labels[batch.partners]]

    recipe = resolve(
        RDED,
        student=ARCH,
        num_images=len(train),
        num_classes=10,
        side=SIDE,
        factor=1,
        overrides={"epochs": 8, "temperature": 1.0, "horizontal_flip": False, "batch_size": 64},
    )
    trained = train_student(
        train.images,
        targets,
        test,
        recipe,
        student=ARCH,
        num_classes=10,
        mean=MEAN,
        std=STD,
        seed=0,
        eval_every=8,
    )
    path = folder / "observer.safetensors"
    numbers = ",".join(map(str, MEAN))
    metadata = {
        "arch": ARCH,
        "side": str(SIDE),
        "classes": json.dumps([str(label) for label in range(10)]),
        "mean": numbers,
        "std": ",".join(map(str, STD)),
    }
    save_weights(trained.model, path, metadata)
    return Digits(path, trained.curve[-1].top1, train, test)


def write_digits(path: Path) -> Path:
    """Write real digits as a distilled set, five of each class."""
    drawn = Baselines(open_source("digits"), PER_CLASS, SIDE, workers=1).images("random", 9)
    return write_set(path, drawn.images, [str(label) for label in range(10)])


def write_set(path: Path, images: torch.Tensor, class_names: list[str]) -> Path:
    """Write class-major images as a distilled set."""
    per_class = len(images) // len(class_names)
    for number, image in enumerate(images):
        folder = path / "images" / f"{number // per_class:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        save_image(image.permute(2, 0, 1), folder / f"{number % per_class:05d}.png", 95)
    manifest = {
        "format": 1,
        "method": "rded",
        "source": {"description": "digits", "split": "train", "fingerprint": ""},
        "class_names": class_names,
        "images_per_class": per_class,
        "factor": 1,
        "side": images.shape[1],
        "images_bytes": 1,
        "images_sha256": hash_image_files(path),
        "mean": list(MEAN),
        "std": list(STD),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path
