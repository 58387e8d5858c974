# ruff: noqa: N999
from collections.abc import Sequence
from typing import Any

from pydream.ops._view import View

compiler: str
cuda_architectures: str
dtypes: tuple[str, ...]
# The entries for CUDA devices take a pydream.ops._dispatch.Launch where those below take threads.
cuda: Any

# build
def available_isas() -> list[str]: ...
def active_isa() -> str: ...
def set_isa(name: str) -> None: ...
def native_bfloat16() -> bool: ...

# draws
def random_crop_boxes_cpu(
    sizes: View,
    ids: View,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    seed: int,
    boxes: View,
    threads: int,
) -> None: ...
def random_keys_cpu(ids: View, seed: int, draw: int, keys: View, threads: int) -> None: ...
def random_augment_cpu(
    color: bool,
    cutout: bool,
    spatial: Sequence[int],
    size: tuple[int, int],
    seed: int,
    rows: View,
) -> None: ...

# crop
def crop_resize_cpu(
    images: Sequence[View],
    boxes: View,
    image_index: View | None,
    flip: View | None,
    size: tuple[int, int],
    scaling: tuple[Sequence[float], Sequence[float]],
    out: View,
    threads: int,
) -> None: ...

# score
def realism_scores_cpu(logits: View, labels: View, scores: View, threads: int) -> None: ...
def select_key_patches_cpu(
    scores: View, labels: View, image: View, crop: View, score: View, threads: int
) -> None: ...
def key_patches_cpu(
    logits: View, labels: View, crops: int, image: View, crop: View, score: View, threads: int
) -> None: ...

# collage
def collage_cpu(patches: View, factor: int, images: View, threads: int) -> None: ...

# kmeans
def kmeans_cpu(
    x: View,
    offsets: Sequence[int],
    k: Sequence[int],
    init: str,
    max_iter: int,
    tol: float,
    spherical: bool,
    seed: int,
    centroids: View,
    labels: View,
    inertia: View,
    n_iter: View,
    threads: int,
) -> None: ...
def random_samples_cpu(count: int, seed: int, chosen: View) -> None: ...
def nearest_samples_cpu(
    x: View,
    offsets: Sequence[int],
    k: Sequence[int],
    centroids: View,
    nearest: View,
    threads: int,
) -> None: ...

# matching: addresses where a tensor is like that of the same place in `synthetic`
def gradient_distance_cpu(
    synthetic: Sequence[View],
    real: Sequence[int],
    gradients: Sequence[int],
    metric: str,
    threads: int,
) -> float: ...

# formation
def multi_formation_cpu(
    images: View, factor: int, padding: float, result: View, threads: int
) -> None: ...
def multi_formation_backward_cpu(
    gradient: View, factor: int, images: View, threads: int
) -> None: ...

# augment
def diff_augment_cpu(
    x: View, parameters: View, result: View, adjoint: bool, threads: int
) -> None: ...

# block
def norm_relu_pool_cpu(
    images: View,
    weight: View,
    bias: View,
    over_batch: bool,
    eps: float,
    pooled: View,
    mean: View,
    rstd: View,
    threads: int,
) -> None: ...
def norm_relu_pool_backward_cpu(
    kept: Sequence[View], over_batch: bool, results: Sequence[View], threads: int
) -> None: ...
def norm_relu_pool_second_backward_cpu(
    kept: Sequence[View],
    second: Sequence[View],
    over_batch: bool,
    results: Sequence[View],
    threads: int,
) -> None: ...
