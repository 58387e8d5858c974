"""RDED's Algorithm 1 (arXiv 2312.03526), step by step, on pydream.ops alone.

    python examples/rded_by_hand.py

Distils scikit-learn's digits by the most realistic patches in the eyes of a small network. The
images are those of `pydream.rded.distill` with the same settings and observer, byte for byte.
"""

from __future__ import annotations

import hashlib

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from pydream import ops

CLASSES, IPC, FACTOR, SIDE, PRESELECT, CROPS, SEED = 10, 2, 2, 16, 50, 5, 0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESELECTION = 1  # the draw of random keys that chooses the real images


def load() -> tuple[Tensor, Tensor, Tensor]:
    """Return images, uint8 (N, H, W, 3), their labels, and the ids of their random numbers."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels * 15, dtype=torch.uint8).view(-1, 8, 8, 1).expand(-1, -1, -1, 3)
    keys = [f"{label}/{number:08d}" for number, label in enumerate(labels)]
    hashes = [hashlib.blake2b(key.encode()).digest()[:8] for key in keys]
    ids = torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in hashes])
    return images.contiguous(), torch.tensor(labels), ids


def train_observer(images: Tensor, labels: Tensor, steps: int = 40) -> nn.Module:
    """Train a small network on random crops."""
    convolutions = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()
    head = nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(32 * 9, CLASSES)
    observer = nn.Sequential(*convolutions, *head)
    optimizer = torch.optim.AdamW(observer.parameters(), lr=3e-3)
    for step in range(steps):
        rows = torch.randperm(len(images))[:128]
        boxes = ops.random_crop_boxes(torch.full((128, 2), 8), 1, seed=step)
        crops = ops.crop_resize(images[rows], boxes[:, 0], SIDE, mean=MEAN, std=STD)
        optimizer.zero_grad()
        F.cross_entropy(observer(crops), labels[rows]).backward()
        optimizer.step()
    return observer.eval()


@torch.no_grad()
def distil(images: Tensor, labels: Tensor, ids: Tensor, observer: nn.Module, label: int) -> Tensor:
    """Return the distilled images of one class, uint8 (IPC, 3, S, S)."""
    # 1. Pre-select real images at random, without replacement.
    members = (labels == label).nonzero()[:, 0]
    order = ops.random_keys(ids[members], seed=SEED, draw=PRESELECTION).argsort(stable=True)
    chosen = members[order[:PRESELECT]].sort().values
    images, ids = images[chosen], ids[chosen]
    # 2. Draw random boxes in each, and make patches of them on a canvas of full side.
    sizes = torch.full((len(images), 2), 8)  # height and width
    boxes = ops.random_crop_boxes(sizes, CROPS, seed=SEED, ids=ids)
    side, views = SIDE // FACTOR, boxes.view(-1, 4)
    patches = ops.crop_resize(images, views, side, canvas=SIDE, mean=MEAN, std=STD)
    # 3. Score each patch: how sure the observer is of the class (equation 7).
    scores = ops.realism_scores(observer(patches), torch.full((len(patches),), label))
    # 4. Keep the best patch of each image, and the best of these.
    one_class = torch.zeros(len(images), dtype=torch.int64)
    best = ops.select_key_patches(scores.view(-1, CROPS), one_class, IPC * FACTOR**2, 1)
    # 5. Cut them as pixels, and tile them.
    rows, crops = best.image[0], best.crop[0]
    pixels = ops.crop_resize(images[rows], boxes[rows, crops], side, dtype=torch.uint8)
    return ops.collage(pixels[None], FACTOR, SIDE)[0]


if __name__ == "__main__":
    data = load()
    observer = train_observer(*data[:2])
    distilled = torch.cat([distil(*data, observer, label) for label in range(CLASSES)])
    print(f"{len(data[0])} images of {CLASSES} classes distilled to {len(distilled)}")
