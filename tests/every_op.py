"""Each public op by its name, with small arguments that it takes."""

from __future__ import annotations

from typing import Any

import torch

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 3, generator=GENERATOR)
IMAGES = torch.randn(4, 3, 6, 6, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 1])
BOXES = torch.tensor([[0, 0, 4, 5], [1, 2, 3, 3]])

ARGUMENTS: dict[str, dict[str, Any]] = {
    "collage": {"patches": torch.randn(1, 4, 3, 4, 4, generator=GENERATOR), "factor": 2, "size": 9},
    "crop_resize": {
        "images": torch.arange(2 * 6 * 7 * 3).remainder(251).byte().view(2, 6, 7, 3),
        "boxes": BOXES,
        "size": 4,
        "image_index": torch.tensor([1, 0]),
        "flip": torch.tensor([True, False]),
        "canvas": 5,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.3),
        "dtype": torch.float32,
        "channels_last": False,
    },
    "diff_augment": {
        "x": IMAGES,
        "parameters": torch.tensor([[0.1, 1.2, 0.9, 1, 0.1, 0.2, 0, 1, 0.3, 1, 1, 2, 2]]),
    },
    "gradient_distance": {
        "synthetic": [X, X[0]],
        "real": [X.flip(0), X[1]],
        "metric": "cos",
    },
    "key_patches": {
        "logits": X[:6],
        "labels": LABELS,
        "num_crops": 2,
        "per_class": 1,
        "num_classes": 2,
    },
    "kmeans": {
        "x": X,
        "k": [2, 3],
        "offsets": [0, 5, 12],
        "init": "k-means++",
        "max_iter": 5,
        "tol": 1e-4,
        "metric": "euclidean",
        "seed": 1,
        "precision": "exact",
        "weights": torch.linspace(0.5, 2.0, 12),
    },
    "matched_cells": {
        "images": torch.arange(2 * 6 * 7 * 3).remainder(251).byte().view(2, 6, 7, 3),
        "boxes": BOXES,
        "size": 4,
        "enlarged": 8,
        "inside": (4, 3),
        "image_index": torch.tensor([1, 0]),
        "dtype": torch.float32,
    },
    "multi_formation": {"images": IMAGES, "factor": 2, "size": 7},
    "nearest_samples": {
        "x": X,
        "centroids": X[:5],
        "count": 2,
        "offsets": [0, 5, 12],
        "k": [2, 3],
    },
    "norm_relu_pool": {
        "images": IMAGES,
        "weight": torch.linspace(0.5, 1.5, 3),
        "bias": torch.linspace(-0.5, 0.5, 3),
        "statistics": "instance",
        "eps": 1e-5,
    },
    "random_augment": {"count": 3, "size": 8, "strategy": "color_crop_cutout", "seed": 2},
    "random_crop_boxes": {
        "sizes": torch.tensor([[20, 30], [40, 25]]),
        "num_crops": 3,
        "scale": (0.1, 1.0),
        "ratio": (0.8, 1.2),
        "seed": 3,
        "ids": torch.tensor([7, 9]),
    },
    "random_keys": {"ids": torch.tensor([7, 9, 11]), "seed": 4, "draw": 1},
    "realism_scores": {"logits": X[:6], "labels": torch.tensor([0, 1, 2, 0, 1, 2])},
    "representatives": {
        "x": X,
        "k": 2,
        "per_cluster": 2,
        "offsets": [0, 5, 12],
        "init": "k-means++",
        "max_iter": 5,
        "tol": 1e-4,
        "metric": "cosine",
        "seed": 1,
        "precision": "exact",
    },
    "select_key_patches": {
        "scores": X[:3, :2],
        "labels": LABELS,
        "per_class": 1,
        "num_classes": 2,
    },
}
DIFFERENTIABLE = {
    "diff_augment": "x",
    "gradient_distance": "synthetic",
    "multi_formation": "images",
    "norm_relu_pool": "images",
}


def tensors_of(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)
