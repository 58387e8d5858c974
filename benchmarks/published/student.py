"""Training a student on a distilled set as RDED's authors do (arXiv 2312.03526), in plain PyTorch.

Images are read by a loader, whose transforms shuffle the patches, crop, mirror and normalise one
image at a time; every batch is mixed, and labelled by the observer in float32. The student is
tested every ten epochs in the last fifth, and at the end. Here the test images are normalised and
in memory, where the authors read their files anew for every test.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

TEST_BATCH = 100


@dataclass(frozen=True)
class Settings:
    epochs: int
    batch_size: int
    factor: int
    side: int
    mean: Sequence[float]
    std: Sequence[float]
    learning_rate: float = 0.001
    weight_decay: float = 0.01
    temperature: float = 20.0
    workers: int = 0


class ShufflePatches(nn.Module):
    """Shuffles rows of patches, then columns."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: Tensor) -> Tensor:
        for dim in (1, 2):
            strips = image.tensor_split(self.factor, dim)
            image = torch.cat([strips[i] for i in torch.randperm(self.factor)], dim)
        return image


def cutmix(images: Tensor) -> Tensor:
    share = float(np.random.beta(1.0, 1.0))
    order = torch.randperm(len(images))
    height, width = images.shape[2:]
    half = [int(side * math.sqrt(1 - share)) // 2 for side in (height, width)]
    middle = [np.random.randint(side) for side in (height, width)]
    rows, columns = (
        slice(max(at - by, 0), min(at + by, side))
        for at, by, side in zip(middle, half, (height, width), strict=True)
    )
    images[:, :, rows, columns] = images[order][:, :, rows, columns]
    return images


def tested_after(epoch: int, epochs: int) -> bool:
    """Return whether there is a test after an epoch, counted from 0."""
    return epoch == epochs - 1 or (epoch % 10 == 9 and epoch > 0.8 * epochs)


@torch.no_grad()
def accuracy(student: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of normalised images that the student classifies rightly."""
    student.eval()
    right = 0
    for rows, wanted in zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
        right += int((student(rows).argmax(1) == wanted).sum())
    student.train()
    return right / len(images)


def train(
    folder: Path,
    student: nn.Module,
    observer: nn.Module,
    settings: Settings,
    test: tuple[Tensor, Tensor],
) -> dict[str, float]:
    """Train the student on a folder of class folders.

    Returns
    -------
    dict
        Seconds of the training and of the tests, and the last and the best accuracy.
    """
    crop = v2.RandomResizedCrop(settings.side, scale=(1 / settings.factor, 1.0), antialias=True)
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            ShufflePatches(settings.factor),
            crop,
            v2.RandomHorizontalFlip(),
            v2.Normalize(settings.mean, settings.std),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder, transform),
        batch_size=settings.batch_size,
        shuffle=True,
        num_workers=settings.workers,
    )
    decayed = [parameter for parameter in student.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in student.parameters() if parameter.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs / 2))
    )
    observer.eval()
    student.train()
    accuracies: list[float] = []
    test_seconds, begun = 0.0, time.perf_counter()
    for epoch in range(settings.epochs):
        for images, _labels in loader:
            mixed = cutmix(images)
            with torch.no_grad():
                soft = F.softmax(observer(mixed) / settings.temperature, dim=1)
            answer = F.log_softmax(student(mixed) / settings.temperature, dim=1)
            loss = F.kl_div(answer, soft, reduction="batchmean")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
        if tested_after(epoch, settings.epochs):
            paused = time.perf_counter()
            accuracies.append(accuracy(student, *test))
            test_seconds += time.perf_counter() - paused
    return {
        "seconds": time.perf_counter() - begun,
        "test_seconds": test_seconds,
        "top1": accuracies[-1],
        "best": max(accuracies),
    }
