"""pydream's kernels from CuPy alone: crops of photographs, and how sure a linear model is of them.

    python examples/cupy_patches.py [IMAGE ...]

Needs a GPU, CuPy, and pydream built for CUDA. CuPy's arrays go into the ops as they lie in memory,
through DLPack, and what the ops return is taken over the same way: nothing is copied, and each
side's stream waits for the other's.
"""

from __future__ import annotations

import sys

import cupy as cp
import numpy as np
from PIL import Image

from pydream import ops

SIDE = 112
CROPS = 5
CLASSES = 10


def read_images(files: list[str]) -> list[cp.ndarray]:
    """Return (H, W, 3) uint8 images on the GPU: the files, or noise where none is given."""
    if files:
        return [cp.asarray(np.asarray(Image.open(file).convert("RGB"))) for file in files]
    sizes = [(375, 500), (333, 500), (480, 360)]
    return [cp.random.randint(0, 256, (*size, 3), dtype=cp.uint8) for size in sizes]


def make_patches(images: list[cp.ndarray]) -> cp.ndarray:
    """Cut random crops out of each image: (N * CROPS, 3, SIDE, SIDE) float32."""
    sizes = np.array([image.shape[:2] for image in images])
    boxes = cp.asarray(ops.random_crop_boxes(sizes, CROPS, seed=0).numpy()).reshape(-1, 4)
    return cp.from_dlpack(ops.crop_resize(images, boxes, SIDE, mean=(0.5,) * 3, std=(0.25,) * 3))


def score_patches(patches: cp.ndarray, labels: cp.ndarray) -> cp.ndarray:
    """Return the log-probability of its label for each patch, under a random linear model."""
    weights = cp.random.default_rng(0).standard_normal((3 * SIDE * SIDE, CLASSES), dtype=cp.float32)
    logits = patches.reshape(len(patches), -1) @ weights * 1e-2
    return cp.from_dlpack(ops.realism_scores(logits, labels))


def main() -> None:
    """Print the crop of each image that the model is surest of."""
    images = read_images(sys.argv[1:])
    labels = cp.repeat(cp.arange(len(images)) % CLASSES, CROPS)
    scores = score_patches(make_patches(images), labels).reshape(-1, CROPS)
    for number, (best, score) in enumerate(zip(scores.argmax(1), scores.max(1), strict=True)):
        print(f"image {number}: crop {int(best)} is the surest, log-probability {float(score):.3f}")


if __name__ == "__main__":
    main()
