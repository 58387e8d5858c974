# ruff: noqa: N999
from collections.abc import Sequence
from typing import Protocol, type_check_only

from pydream.ops._dispatch import Launch
from pydream.ops._view import View

compiler: str
cuda_architectures: str
dtypes: tuple[str, ...]
cuda: CudaKernels  # only in a build with CUDA: `cuda_architectures` is not empty

class MisalignedError(ValueError): ...

# build
def available_isas() -> list[str]: ...
def active_isa() -> str: ...
def set_isa(name: str) -> None: ...
def native_bfloat16() -> bool: ...

# files
def read_files(paths: Sequence[bytes], most: int) -> list[bytes | int]: ...
def file_sizes(paths: Sequence[bytes]) -> list[int]: ...

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

# cells
def matched_cells_cpu(
    images: Sequence[View],
    boxes: View,
    image_index: View | None,
    size: tuple[int, int],
    enlarged: tuple[int, int],
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
class KmeansSettings:
    def __init__(
        self, init: str, max_iter: int, tol: float, spherical: bool, seed: int
    ) -> None: ...

def kmeans_cpu(
    x: View,
    offsets: Sequence[int],
    k: Sequence[int],
    settings: KmeansSettings,
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
    second: Sequence[View | None],
    over_batch: bool,
    results: Sequence[View],
    threads: int,
) -> None: ...

# The submodule `cuda`: its entries take a Launch where those above take threads.
@type_check_only
class CudaKernels(Protocol):
    fault_kinds: int
    tile_rows: int
    centres_together: int
    KmeansRun: type[CudaKmeansRun]
    LayerList: type[CudaLayerList]

    # device
    def any_fault(self, faults: int) -> bool: ...
    def take_faults(self, taken: int, launch: Launch) -> None: ...
    def device_count(self) -> int: ...
    def has_code_for(self, device: int) -> bool: ...
    def driver_version(self) -> int: ...
    def runtime_version(self) -> int: ...

    # crop
    def crop_resize(
        self,
        images: View,
        boxes: View,
        image_index: View | None,
        flip: View | None,
        size: tuple[int, int],
        scaling: tuple[Sequence[float], Sequence[float]],
        out: View,
        launch: Launch,
    ) -> None: ...

    # cells
    def match_cells(
        self,
        anchors: View,
        size: tuple[int, int],
        turned: View,
        tables: View,
        out: View,
        launch: Launch,
    ) -> None: ...

    # score
    def realism_scores(
        self,
        logits: View,
        labels: View,
        score: View | None,
        best: View | None,
        crop: View | None,
        launch: Launch,
    ) -> None: ...
    def best_crops(self, scores: View, best: View, crop: View, launch: Launch) -> None: ...
    def grouping_words(self, images: int, classes: int) -> int: ...
    def top_images(
        self,
        best: View,
        crop: View,
        labels: View,
        scratch: View,
        grouping: View,
        image: View,
        out_crop: View,
        score: View,
        launch: Launch,
    ) -> None: ...

    # collage
    def collage(self, patches: View, factor: int, images: View, launch: Launch) -> None: ...

    # kmeans
    def nearest_samples(
        self,
        x: View,
        table: View,
        groups: int,
        centroids: View,
        distance: View,
        found: View,
        nearest: View,
        launch: Launch,
    ) -> None: ...

    # matching
    def gradient_distance(
        self,
        layers: CudaLayerList,
        metric: str,
        workspace: View,
        launch: Launch,
    ) -> None: ...

    # formation
    def multi_formation(
        self, images: View, factor: int, padding: float, result: View, launch: Launch
    ) -> None: ...
    def multi_formation_backward(
        self, gradient: View, factor: int, images: View, launch: Launch
    ) -> None: ...

    # augment
    def diff_augment(
        self, x: View, parameters: View, result: View, adjoint: bool, launch: Launch
    ) -> None: ...

    # block
    def norm_relu_pool(
        self,
        images: View,
        weight: View,
        bias: View,
        over_batch: bool,
        eps: float,
        pooled: View,
        mean: View,
        rstd: View,
        workspace: View,
        launch: Launch,
    ) -> None: ...
    def norm_relu_pool_backward(
        self,
        kept: Sequence[View],
        over_batch: bool,
        results: Sequence[View],
        workspace: View,
        launch: Launch,
    ) -> None: ...
    def norm_relu_pool_second_backward(
        self,
        kept: Sequence[View],
        second: Sequence[View | None],
        over_batch: bool,
        results: Sequence[View],
        workspace: View,
        launch: Launch,
    ) -> None: ...

@type_check_only
class CudaKmeansRun:
    def __init__(
        self, x: View, table: View, centres: int, most_centres: int, tiles: int, fast: bool
    ) -> None: ...
    def workspace_bytes(self) -> int: ...
    def seeding_bytes(self) -> int: ...
    def give(
        self,
        workspace: View,
        centroids: View,
        labels: View,
        inertia: View,
        n_iter: View,
        unfinished: View,
    ) -> None: ...
    def begin(self, launch: Launch) -> None: ...
    def seed(self, workspace: View, seed: int, launch: Launch) -> None: ...
    def start(self, launch: Launch) -> None: ...
    def iterate(self, tol: float, spherical: bool, launch: Launch) -> None: ...
    def finish(self, launch: Launch) -> None: ...

@type_check_only
class CudaLayerList:
    def __init__(
        self, synthetic: Sequence[View], real: Sequence[int], gradients: Sequence[int]
    ) -> None: ...
    def words(self, metric: str) -> int: ...
