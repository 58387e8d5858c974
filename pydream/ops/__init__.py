"""The kernels: one public function per op, on CPU and CUDA."""

from __future__ import annotations

from pydream.ops._dispatch import check_values
from pydream.ops.augment import diff_augment, random_augment
from pydream.ops.block import norm_relu_pool
from pydream.ops.boxes import random_crop_boxes, random_keys
from pydream.ops.cells import matched_cells
from pydream.ops.collage import collage
from pydream.ops.crop import crop_resize
from pydream.ops.formation import multi_formation
from pydream.ops.kmeans import KMeansResult, kmeans, nearest_samples, representatives
from pydream.ops.matching import gradient_distance
from pydream.ops.score import KeyPatches, key_patches, realism_scores, select_key_patches

__all__ = [
    "KMeansResult",
    "KeyPatches",
    "check_values",
    "collage",
    "crop_resize",
    "diff_augment",
    "gradient_distance",
    "key_patches",
    "kmeans",
    "matched_cells",
    "multi_formation",
    "nearest_samples",
    "norm_relu_pool",
    "random_augment",
    "random_crop_boxes",
    "random_keys",
    "realism_scores",
    "representatives",
    "select_key_patches",
]
