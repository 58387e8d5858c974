"""k-means: ours beside scikit-learn, faiss and fast_pytorch_kmeans, from the same start.

All rivals get the same first centroids and ten iterations, an item is one of them. With the real
images at hand (PYDREAM_DATA) there are also features of CIFAR-10, as DREAM clusters them.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.timing import THREADS, Work, compare, report, table
from pydream import ops
from pydream.data.sources import open_source
from pydream.models.checkpoint import read_weights
from pydream.models.convnet import ConvNet
from pydream.models.inputs import IMAGENET_MEAN, IMAGENET_STD

ITERATIONS = 10
# All minimise the same sum from the same start; a near tie that falls the other way leads on to
# another solution as good.
SAME_INERTIA = 0.005
# Two random starts of one problem.
LIKE_INERTIA = 0.05

Rivals = dict[str, Callable[[], object]]


def network_features(count: int, dim: int, seed: int) -> Tensor:
    """Noise of 32 dimensions after two random layers: of many dimensions, few of them free."""
    generator = torch.Generator().manual_seed(seed)

    def layer(x: Tensor, width: int) -> Tensor:
        weights = torch.randn(x.shape[1], width, generator=generator) / x.shape[1] ** 0.5
        activated: Tensor = (x @ weights).relu()
        return activated

    return layer(layer(torch.randn(count, 32, generator=generator), 256), dim)


def cifar_features(root: Path, classes: int) -> Tensor:
    """Features of 5000 images of each class before the classifier of a trained ConvNet-3."""
    model = ConvNet(10, side=32)
    weights, _ = read_weights(root / "observers" / "cifar10_convnet3_batchnorm.safetensors")
    model.load_state_dict(weights)
    model.eval()
    source = open_source(root / "cifar10.zip")
    features = []
    with torch.inference_mode():
        for label in range(classes):
            images = torch.stack([source.image(index) for index in source.class_indices(label)])
            pixels = images.permute(0, 3, 1, 2) / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]
            pixels = pixels / torch.tensor(IMAGENET_STD)[:, None, None]
            features.append(torch.cat([model.features(part) for part in pixels.split(250)]))
    return torch.stack(features).clone()


def by_faiss(x: Tensor, start: Tensor) -> Any:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    model = faiss.Kmeans(
        x.shape[1],
        len(start),
        niter=ITERATIONS,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),
    )
    model.train(x.numpy(), init_centroids=start.numpy())
    return model.centroids


def by_fast_pytorch(x: Tensor, start: Tensor) -> Any:
    from fast_pytorch_kmeans import KMeans as FastKMeans

    model = FastKMeans(n_clusters=len(start), max_iter=ITERATIONS, tol=0)
    model.fit_predict(x, centroids=start.clone())
    return model.centroids


def by_scikit_learn(x: Tensor, start: Tensor) -> Any:
    with threadpool_limits(THREADS):
        model = KMeans(len(start), init=start.numpy(), n_init=1, max_iter=ITERATIONS, tol=0)
        return model.fit(x.numpy()).cluster_centers_


def peers(x: Tensor, start: Tensor) -> Rivals:
    """Everyone else's k-means of one problem, or of several one after the other."""
    problems = list(zip(x, start, strict=True)) if x.dim() == 3 else [(x, start)]
    known: dict[str, tuple[str, Callable[[Tensor, Tensor], Any]]] = {
        "scikit-learn": ("sklearn", by_scikit_learn),
        "faiss": ("faiss", by_faiss),
        "fast_pytorch_kmeans": ("fast_pytorch_kmeans", by_fast_pytorch),
    }
    rivals: Rivals = {}
    for name, (module, run) in known.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            print(f"{name} is absent: {error}")
            continue
        rivals[name] = functools.partial(lambda run: [run(a, b) for a, b in problems], run)
    return rivals


def inertia(x: Tensor, centroids: Any) -> float:
    """The sum of squared distances to someone's centroids."""
    given = torch.as_tensor(np.stack([np.asarray(centroid) for centroid in centroids]))
    problems = x.view(-1, *x.shape[-2:])
    return float(ops.kmeans(problems, given.shape[1], init=given, max_iter=0).inertia.sum())


def measure(x: Tensor, k: int, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(x.shape[-2], generator=generator)[:k]
    start = x[..., rows, :].contiguous()

    def ours() -> ops.KMeansResult:
        return ops.kmeans(x, k, init=start, max_iter=ITERATIONS, tol=0.0)

    expected = float(ours().inertia.sum())
    rivals = peers(x, start)
    for name, rival in rivals.items():
        found = inertia(x, rival())
        assert abs(found - expected) <= SAME_INERTIA * expected, f"{name}: {found}, not {expected}"
    limit = "a matrix product an iteration, by torch"
    rivals[limit] = lambda: [x @ start.mT for _ in range(ITERATIONS)]
    timings = compare({"pydream": ours, **rivals}, rounds=rounds, threads=THREADS)
    products = 2 * x.numel() * k
    work = Work(ITERATIONS * x.nbytes, ITERATIONS * products)
    return report(
        timings, ours="pydream", limit=limit, items=ITERATIONS, unit="iteration", work=work
    )


def show(benchmark: Any, record: dict[str, Any], name: str, result: dict[str, Any]) -> None:
    if benchmark.enabled:
        record[name] = result
        print("\n" + table(f"{name}; an iteration", result))


def test_features(benchmark: Any, record: dict[str, Any]) -> None:
    count, k = (50_000, 1000) if benchmark.enabled else (1000, 250)
    x = network_features(count, 128, 0)
    result = measure(x, k, 1)
    show(benchmark, record, f"features ({count}, 128), k {k}", result)
    benchmark.pedantic(ops.kmeans, (x, k), {"init": "random", "max_iter": 1})


def test_noise(benchmark: Any, record: dict[str, Any]) -> None:
    """Where bounds help least: no clusters, and all distances alike."""
    count = 5000 if benchmark.enabled else 200
    x = torch.randn(count, 2048, generator=torch.Generator().manual_seed(0))
    k = min(128, count // 4)
    result = measure(x, k, 2 if benchmark.enabled else 1)
    show(benchmark, record, f"noise ({count}, 2048), k {k}", result)
    benchmark.pedantic(ops.kmeans, (x, k), {"init": "random", "max_iter": 1})


@pytest.mark.parametrize("classes", [1, 10])
def test_cifar(benchmark: Any, record: dict[str, Any], data_root: Path, classes: int) -> None:
    x = cifar_features(data_root, classes if benchmark.enabled else 1)
    if not benchmark.enabled:
        x = x[:, :300]
    k = min(128, x.shape[1] // 4)
    result = measure(x, k, 4 // classes or 1)
    show(benchmark, record, f"CIFAR-10 features {tuple(x.shape)}, k {k}", result)
    benchmark.pedantic(ops.kmeans, (x, k), {"init": "random", "max_iter": 1})


def test_plusplus(benchmark: Any, record: dict[str, Any]) -> None:
    """The start alone: greedy k-means++ with as many candidates as scikit-learn tries."""
    count = 5000 if benchmark.enabled else 200
    x, k = network_features(count, 2048, 0), min(128, count // 4)
    array = x.numpy()

    def theirs() -> Any:
        with threadpool_limits(THREADS):
            return kmeans_plusplus(array, k, random_state=0)[0]

    def ours() -> Tensor:
        return ops.kmeans(x, k, max_iter=0).centroids

    a, b = inertia(x, [ours()]), inertia(x, [theirs()])
    assert abs(a - b) <= LIKE_INERTIA * b, f"{a} is not like {b}"
    rounds = 3 if benchmark.enabled else 1
    result = report(
        compare({"pydream": ours, "scikit-learn": theirs}, rounds=rounds, threads=THREADS),
        ours="pydream",
        unit="start",
    )
    show(benchmark, record, f"k-means++ ({count}, 2048), k {k}", result)
    benchmark(ours)
