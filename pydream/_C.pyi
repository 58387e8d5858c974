# ruff: noqa: N999
from collections.abc import Sequence
from typing import Any

compiler: str
cuda_architectures: str
cuda: Any

# build
def available_isas() -> list[str]: ...
def active_isa() -> str: ...
def set_isa(name: str) -> None: ...
def native_bfloat16() -> bool: ...

# crop
def random_crop_boxes_cpu(
    sizes: int,
    ids: int,
    count: int,
    num_crops: int,
    scale_low: float,
    scale_high: float,
    ratio_low: float,
    ratio_high: float,
    seed: int,
    out: int,
    threads: int,
) -> None: ...
def random_keys_cpu(ids: int, count: int, seed: int, draw: int, out: int, threads: int) -> None: ...
def crop_resize_cpu(
    images: int,
    num_images: int,
    boxes: int,
    image_index: int,
    flip: int,
    num_patches: int,
    channels: int,
    size: Sequence[int],
    canvas: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: str,
    channels_last: bool,
    out: int,
    threads: int,
) -> None: ...

# score
def realism_scores_cpu(
    logits: int,
    type: str,
    rows: int,
    classes: int,
    stride: int,
    labels: int,
    scores: int,
    threads: int,
) -> None: ...
def select_key_patches_cpu(
    scores: int,
    stride: int,
    images: int,
    crops: int,
    labels: int,
    per_class: int,
    classes: int,
    image: int,
    crop: int,
    score: int,
    threads: int,
) -> None: ...
def key_patches_cpu(
    logits: int,
    type: str,
    images: int,
    crops: int,
    logit_classes: int,
    stride: int,
    labels: int,
    per_class: int,
    classes: int,
    image: int,
    crop: int,
    score: int,
    threads: int,
) -> None: ...

# kmeans
def kmeans_cpu(
    x: int,
    type: str,
    dim: int,
    offsets: Sequence[int],
    k: Sequence[int],
    seeding: str,
    max_iter: int,
    tol: float,
    spherical: bool,
    seed: int,
    centroids: int,
    labels: int,
    inertia: int,
    n_iter: int,
    threads: int,
) -> None: ...
def random_samples_cpu(count: int, k: int, seed: int, chosen: int) -> None: ...
def nearest_samples_cpu(
    x: int,
    type: str,
    dim: int,
    offsets: Sequence[int],
    k: Sequence[int],
    centroids: int,
    count: int,
    nearest: int,
    threads: int,
) -> None: ...

# matching
def gradient_distance_cpu(
    synthetic: Sequence[int],
    real: Sequence[int],
    gradients: Sequence[int],
    types: Sequence[str],
    rows: Sequence[int],
    columns: Sequence[int],
    metric: str,
    threads: int,
) -> float: ...

# augment
def random_augment_cpu(
    color: bool,
    cutout: bool,
    spatial: Sequence[int],
    height: int,
    width: int,
    count: int,
    seed: int,
    rows: int,
) -> None: ...
def diff_augment_cpu(
    x: int,
    parameters: int,
    result: int,
    type: str,
    shape: Sequence[int],
    together: int,
    adjoint: bool,
    threads: int,
) -> None: ...

# collage
def collage_cpu(
    patches: int,
    classes: int,
    images: int,
    factor: int,
    channels: int,
    height: int,
    width: int,
    size: int,
    element: int,
    result: int,
    threads: int,
) -> None: ...

# formation
def multi_formation_cpu(
    images: int,
    type: str,
    shape: Sequence[int],
    factor: int,
    size: int,
    padding: float,
    result: int,
    threads: int,
) -> None: ...
def multi_formation_backward_cpu(
    gradient: int,
    type: str,
    shape: Sequence[int],
    factor: int,
    size: int,
    images: int,
    threads: int,
) -> None: ...

# block
def norm_relu_pool_cpu(
    images: int,
    shape: Sequence[int],
    over_batch: bool,
    eps: float,
    norm: Sequence[int],
    pooled: int,
    threads: int,
) -> None: ...
def norm_relu_pool_backward_cpu(
    images: int,
    shape: Sequence[int],
    over_batch: bool,
    norm: Sequence[int],
    pooled_slope: int,
    results: Sequence[int],
    threads: int,
) -> None: ...
def norm_relu_pool_second_backward_cpu(
    images: int,
    shape: Sequence[int],
    over_batch: bool,
    norm: Sequence[int],
    pooled_slope: int,
    second: Sequence[int],
    results: Sequence[int],
    threads: int,
) -> None: ...
