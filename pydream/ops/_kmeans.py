"""k-means on each device, the implementation of pydream.ops.kmeans."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from pydream import _C
from pydream.ops import _dispatch
from pydream.ops._problems import check_weight_values, send_sizes
from pydream.ops._view import view
from pydream.ops.reference import kmeans as reference
from pydream.streams import capturing, to_device

_MOST_CENTROIDS = 1_000_000
_LOOK = 4
"""Number of iterations between the host's checks whether all problems on a GPU have converged."""
_BLOCKS = 2048
"""Number of blocks that fill any GPU a few times."""


def _empty_result(
    x: Tensor, offsets: list[int], k: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty((sum(k), x.shape[1]), dtype=torch.float32),
        x.new_empty(x.shape[0], dtype=torch.int64),
        x.new_empty(len(k), dtype=torch.float64),
        x.new_empty(len(k), dtype=torch.int64),
    )


def _cpu_kmeans(
    x: Tensor,
    offsets: list[int],
    k: list[int],
    init: str,
    given: Tensor | None,
    max_iter: int,
    tol: float,
    spherical: bool,
    seed: int,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    centroids, labels, inertia, n_iter = _empty_result(x, offsets, k)
    if given is not None:
        centroids.copy_(given)
    _C.kmeans_cpu(
        view(x),
        offsets,
        k,
        _C.KmeansSettings(init, max_iter, tol, spherical, seed),
        view(centroids),
        view(labels),
        view(inertia),
        view(n_iter),
        torch.get_num_threads(),
    )
    return centroids, labels, inertia, n_iter


def _weighted(
    x: Tensor, offsets: list[int], k: list[int], *settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the reference in float64 on every device: no kernel takes weights, the last setting."""
    if capturing(x.device):
        raise ValueError(
            "weights are looked at on the CPU, which cannot be done within a CUDA graph: "
            "call kmeans with weights outside of it"
        )
    check_weight_values(settings[-1], "weights", offsets)
    centroids, *found = reference.kmeans(x.double(), offsets, k, *settings)
    return centroids.float(), found[0], found[1], found[2]


def _cpu_nearest_samples(
    x: Tensor, offsets: list[int], k: list[int], centroids: Tensor, count: int
) -> Tensor:
    nearest = x.new_empty((sum(k), count), dtype=torch.int64)
    threads = torch.get_num_threads()
    _C.nearest_samples_cpu(view(x), offsets, k, view(centroids), view(nearest), threads)
    return nearest


def _cuda_kmeans(
    launch: _dispatch.Launch,
    x: Tensor,
    offsets: list[int],
    k: list[int],
    init: str,
    given: Tensor | None,
    max_iter: int,
    tol: float,
    spherical: bool,
    seed: int,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    result = _empty_result(x, offsets, k)
    if k and max(k) > _MOST_CENTROIDS:
        raise ValueError(f"k must be at most {_MOST_CENTROIDS} on a GPU, got {max(k)}")
    centroids, labels, inertia, n_iter = result
    if given is not None:
        centroids.copy_(given)
    if x.shape[0] == 0:
        inertia.zero_()
        n_iter.zero_()
        return result
    if init == "random":
        centroids.copy_(_random_start(x, offsets, k, seed))
    table, tiles = _table(offsets, k, launch.module.tile_rows, x.device, rows=True)
    run = launch.module.KmeansRun(view(x), view(table), sum(k), max(k), tiles, precision == "fast")
    workspace = x.new_empty(run.workspace_bytes(), dtype=torch.uint8)
    unfinished = x.new_empty(1, dtype=torch.int32)
    run.give(
        view(workspace),
        view(centroids),
        view(labels),
        view(inertia),
        view(n_iter),
        view(unfinished),
    )
    run.begin(launch)
    if init == "k-means++":
        seeding = x.new_empty(run.seeding_bytes(), dtype=torch.uint8)
        run.seed(view(seeding), seed, launch)
        del seeding  # the allocator reuses it in the order of the stream
    run.start(launch)
    captured = capturing(x.device)
    for iteration in range(1, max_iter + 1):
        run.iterate(tol, spherical, launch)
        if iteration % _LOOK == 0 and not captured and int(unfinished) == 0:
            break
    run.finish(launch)
    return result


def _cuda_nearest_samples(
    launch: _dispatch.Launch,
    x: Tensor,
    offsets: list[int],
    k: list[int],
    centroids: Tensor,
    count: int,
) -> Tensor:
    nearest = x.new_empty((sum(k), count), dtype=torch.int64)
    if not k:
        return nearest
    table, groups = _table(offsets, k, launch.module.centres_together, x.device, rows=False)
    parts = _parts(x.shape[0], sum(k), count, groups)
    found, merged = nearest[None], 0
    if parts > 1:
        found, merged = x.new_empty((parts, *nearest.shape), dtype=torch.int64), 1
    distance = x.new_empty((parts + merged, *nearest.shape), dtype=torch.float32)
    launch.module.nearest_samples(
        view(x),
        view(table),
        groups,
        view(centroids),
        view(distance),
        view(found),
        view(nearest),
        launch,
    )
    return nearest


def _parts(rows: int, centroids: int, count: int, groups: int) -> int:
    """Return the number of parts of the samples that are searched apart, then merged.

    So many that blocks fill a GPU; but no more results of parts than there are samples.
    """
    return max(1, min(_BLOCKS // groups, rows // (centroids * count)))


def _table(
    offsets: list[int], k: list[int], together: int, device: torch.device, *, rows: bool
) -> tuple[Tensor, int]:
    """Return the start of each problem's rows, centroids and blocks, and the number of blocks.

    The starts are int64 (B + 1, 3). A block takes `together` rows of a problem, or centroids.
    Problems of one size need no table from the host, so a CUDA graph can capture it.
    """
    sizes = [end - begin for begin, end in itertools.pairwise(offsets)]
    parts = [-(-size // together) for size in (sizes if rows else k)]
    if len(set(sizes)) == 1 and len(set(k)) == 1:
        number = torch.arange(len(k) + 1, device=device)
        return torch.stack([number * step for step in (sizes[0], k[0], parts[0])], 1), sum(parts)
    first = [[0, *itertools.accumulate(values)] for values in (k, parts)]
    return send_sizes(list(zip(offsets, *first, strict=True)), device), sum(parts)


def _random_start(x: Tensor, offsets: list[int], k: list[int], seed: int) -> Tensor:
    """Draw samples of each problem as its initial centroids."""
    if capturing(x.device):
        raise ValueError(
            "init='random' draws samples on the CPU, which cannot be sent from within a CUDA "
            "graph: pass 'k-means++' or centroids"
        )
    return x[to_device(_random_rows(offsets, k, seed), x.device)]


def _random_rows(offsets: list[int], k: list[int], seed: int) -> Tensor:
    """Draw rows of each problem without replacement, the same on every device."""
    chosen = torch.empty(sum(k), dtype=torch.int64, device="cpu")
    first = 0
    for (begin, end), clusters in zip(itertools.pairwise(offsets), k, strict=True):
        part = chosen[first : first + clusters]
        _C.random_samples_cpu(end - begin, seed, view(part))
        part += begin
        first += clusters
    return chosen


def _fake_kmeans(
    x: Tensor, offsets: list[int], k: list[int], *arguments: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_result(x, offsets, k)


def _fake_nearest_samples(
    x: Tensor, offsets: list[int], k: list[int], centroids: Tensor, count: int
) -> Tensor:
    return x.new_empty((sum(k), count), dtype=torch.int64)


_SETTINGS = (
    "Tensor x, SymInt[] offsets, SymInt[] k, str init, Tensor? given, SymInt max_iter, float tol,"
    " bool spherical, SymInt seed, str precision"
)
_FOUND = "(Tensor centroids, Tensor labels, Tensor inertia, Tensor n_iter)"

_dispatch.register(
    f"kmeans({_SETTINGS}) -> {_FOUND}", _cpu_kmeans, _cuda_kmeans, reference.kmeans, _fake_kmeans
)
_dispatch.register(
    f"weighted_kmeans({_SETTINGS}, Tensor weights) -> {_FOUND}",
    _weighted,
    None,
    _weighted,
    _fake_kmeans,
)
_dispatch.register(
    "nearest_samples(Tensor x, SymInt[] offsets, SymInt[] k, Tensor centroids, SymInt count)"
    " -> Tensor",
    _cpu_nearest_samples,
    _cuda_nearest_samples,
    reference.nearest_samples,
    _fake_nearest_samples,
)
