"""Top-1 and top-5 of a student on real test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pydream.data.resized import LabelledImages
from pydream.data_parallel import ALONE, DataParallel
from pydream.models import load_observer

_TOP = 5


@dataclass(frozen=True)
class Accuracy:
    """Shares of images, in [0, 1].

    Attributes
    ----------
    top1
        Share of images whose right class has the highest logit.
    top5
        Share of images whose right class is among the five highest, or among all if there are
        fewer than five classes.
    """

    top1: float
    top5: float


@torch.no_grad()
def measure_accuracy(
    student: nn.Module,
    test: LabelledImages,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    precision: str,
    parallel: DataParallel = ALONE,
) -> Accuracy:
    """Classify the test images with a copy of the student prepared for inference.

    Parameters
    ----------
    student
        Network for (B, 3, S, S) normalised images; its mode does not matter and does not change.
    test
        Test images, on the student's device. Floating-point ones are whitened, and are shown to the
        student as they are.
    mean, std
        Mean and standard deviation to normalise with, three numbers each, for pixels in [0, 1].
    precision
        Arithmetic, as for `load_observer`.
    parallel
        The ranks, each of which classifies a part of the images.
    """
    side = test.images.shape[1]
    device = test.images.device
    network = load_observer(
        student, side=side, mean=mean, std=std, precision=precision, device=device
    )
    right = torch.zeros(min(_TOP, network.num_classes), dtype=torch.int64, device=device)
    part = parallel.part(len(test))
    images, labels = test.images[part], test.labels[part]
    for start in range(0, len(images), network.tile):
        rows = images[start : start + network.tile]
        views = network.views(rows) if rows.dtype == torch.uint8 else rows.movedim(-1, 1)
        ranked = network.logits(views).topk(len(right)).indices
        right += (ranked == labels[start : start + network.tile, None]).sum(dim=0)
    right = parallel.sum(right)
    return Accuracy(int(right[0]) / len(test), int(right.sum()) / len(test))
