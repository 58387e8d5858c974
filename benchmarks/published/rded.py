"""RDED's synthesis as its authors run it (arXiv 2312.03526), in plain PyTorch.

One class after another: every image is decoded by Pillow, made a normalised float tensor and
cropped M times by `RandomResizedCrop`; the observer, float32 in NCHW, scores one crop of all
images of the class at a time; the float patches are kept until the best are known.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PublishedResult:
    images: torch.Tensor  # [C, IPC, 3, S, S] uint8
    patches: int
    seconds: float
    observer_seconds: float


class _Crops(Dataset[torch.Tensor]):
    def __init__(self, files: Sequence[Path], crops: int, side: int, patch_side: int) -> None:
        self.files = files
        self.crops = crops
        self.pad = (side - patch_side) // 2
        self.to_tensor = v2.Compose(
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        )
        self.crop = v2.RandomResizedCrop(patch_side, ratio=(1.0, 1.0), antialias=True)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = self.to_tensor(Image.open(self.files[index]).convert("RGB"))
        patches = [F.pad(self.crop(image), [self.pad] * 4) for _ in range(self.crops)]
        return torch.stack(patches)


def distill(
    classes: Sequence[Sequence[Path]],
    observer: nn.Module,
    *,
    ipc: int,
    factor: int,
    side: int,
    preselect: int = 300,
    crops: int = 5,
    workers: int = 0,
    seed: int = 0,
) -> PublishedResult:
    """Distil classes given as lists of files; returns the images and the seconds taken."""
    torch.manual_seed(seed)
    observer.eval()
    begun = time.perf_counter()
    observer_seconds = 0.0
    results = []
    patch_side = side // factor
    scored = 0
    for label, files in enumerate(classes):
        chosen = [files[index] for index in torch.randperm(len(files))[:preselect].tolist()]
        dataset = _Crops(chosen, crops, side, patch_side)
        loader = DataLoader(dataset, batch_size=preselect, num_workers=workers)
        kept, losses = [], []
        with torch.no_grad():
            for batch in loader:
                target = torch.full((len(batch),), label)
                of_crop = []
                for crop in range(crops):
                    tick = time.perf_counter()
                    of_crop.append(
                        F.cross_entropy(observer(batch[:, crop]), target, reduction="none")
                    )
                    observer_seconds += time.perf_counter() - tick
                    scored += len(batch)
                loss, best = torch.stack(of_crop).min(dim=0)
                kept.append(batch[torch.arange(len(batch)), best])
                losses.append(loss)
        ranked = torch.argsort(torch.cat(losses))[: ipc * factor**2]
        low = (side - patch_side) // 2
        patches = torch.cat(kept)[ranked, :, low : low + patch_side, low : low + patch_side]
        results.append(_collage(patches, ipc, factor, side))
    return PublishedResult(
        torch.stack(results), scored, time.perf_counter() - begun, observer_seconds
    )


def _collage(patches: torch.Tensor, ipc: int, factor: int, side: int) -> torch.Tensor:
    rows = patches.reshape(factor, factor, ipc, 3, *patches.shape[-2:])
    tiled = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
    if tiled.shape[-1] != side:
        tiled = F.interpolate(tiled, (side, side), mode="nearest")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((tiled * std + mean).clamp(0, 1) * 255).to(torch.uint8)
