"""How time and memory grow with the size of the work.

    python -m benchmarks.scaling --data DIR

Crops against their number and how much they shrink; k-means against samples, centroids, dimensions
and problems; RDED against images and classes, with its peak memory; DREAM+ against classes. Ops
beside a peer, pipelines in processes of their own. Writes a record and docs/scaling.svg.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from benchmarks import pipeline_dream
from benchmarks.bench_kmeans import network_features
from benchmarks.figures import draw_curves
from benchmarks.pipeline import print_run, run_in_turns
from benchmarks.pipeline_cuda import SAMPLE, random_observer, repeat_photographs
from benchmarks.records import RESULTS, write_record
from benchmarks.timing import THREADS, compare
from pydream import ops
from pydream.rded import RdedConfig, distill

OUT = Path(__file__).resolve().parents[1] / "docs" / "scaling.svg"
# Rounds of ops in one process, and runs of pipelines in processes of their own.
ROUNDS, RUNS = 9, 3
SIDE = 112
CROPS = (10, 30, 100, 300, 1000, 3000)
SHRINKS = (1, 1.5, 2, 3, 4, 6, 8)
# One of these at a time takes the other values; a problem has so many samples, and so on.
KMEANS = {"samples": 4000, "centroids": 64, "dimensions": 128, "problems": 1}
KMEANS_AXES = {
    "samples": (1000, 4000, 16_000, 64_000),
    "centroids": (8, 32, 128, 512),
    "dimensions": (16, 64, 256, 1024),
    "problems": (1, 4, 16, 64),
}
ITERATIONS = 10
# Classes and images of each.
RDED = {
    "images of each of 4 classes": [(4, count) for count in (25, 50, 100, 200, 400)],
    "classes of 100 images": [(count, 100) for count in (1, 2, 4, 8, 16)],
}
DREAM_CLASSES = (1, 2, 5, 10)
# An observer that is quick, so that reading, decoding and keeping images are what grows.
ARCH, OBSERVED_SIDE = "convnet3-w32", 64

Curve = dict[str, Any]
Rivals = dict[str, Callable[[], object]]


def curve(title: str, axis: str, points: Iterator[tuple[float, Rivals]]) -> Curve:
    """Time rivals at some sizes; milliseconds of each."""
    found: Curve = {"title": title, "x": axis, "y": "ms", "at": [], "lines": {}}
    for at, rivals in points:
        found["at"].append(at)
        for name, timed in compare(rivals, rounds=ROUNDS, threads=THREADS).items():
            found["lines"].setdefault(name, []).append(timed.median * 1e3)
        print(title, at, {name: round(values[-1], 2) for name, values in found["lines"].items()})
    return found


def crops(side: int, count: int) -> Rivals:
    """Crop squares of a side out of a batch of images to 112 pixels."""
    generator = torch.Generator().manual_seed(0)
    source = side + SIDE
    images = torch.randint(0, 256, (8, source, source, 3), dtype=torch.uint8, generator=generator)
    corners = torch.randint(0, SIDE, (count, 2), generator=generator)
    boxes = torch.cat([corners, torch.full((count, 2), side)], dim=1).int()
    of_image = torch.arange(count) % len(images)
    planes = images.permute(0, 3, 1, 2).contiguous()
    places = list(zip(of_image.tolist(), boxes.tolist(), strict=True))

    def by_torchvision() -> Tensor:
        return torch.stack(
            [
                tv.resized_crop(planes[image], *box, [SIDE, SIDE], antialias=True)
                for image, box in places
            ]
        ).float()

    return {
        "pydream": lambda: ops.crop_resize(images, boxes, SIDE, image_index=of_image),
        "torchvision, uint8": by_torchvision,
    }


def clusters(samples: int, centroids: int, dimensions: int, problems: int) -> Rivals:
    """Ten iterations from the same start; scikit-learn takes problems one after the other."""
    x = network_features(samples * problems, dimensions, 0).view(problems, samples, dimensions)
    start = x[:, :centroids].contiguous()

    def by_scikit_learn() -> None:
        with threadpool_limits(THREADS):
            for of_problem, first in zip(x.numpy(), start.numpy(), strict=True):
                KMeans(centroids, init=first, n_init=1, max_iter=ITERATIONS, tol=0).fit(of_problem)

    return {
        "pydream": lambda: ops.kmeans(x, centroids, init=start, max_iter=ITERATIONS, tol=0.0),
        "scikit-learn": by_scikit_learn,
    }


def op_curves() -> Iterator[Curve]:
    """Measure crops and k-means."""
    yield curve("crop_resize, 2 to 1", "crops", ((n, crops(2 * SIDE, n)) for n in CROPS))
    points = ((by, crops(round(by * SIDE), 300)) for by in SHRINKS)
    yield curve("crop_resize, 300 crops to 112²", "times smaller", points)
    for axis, values in KMEANS_AXES.items():
        fixed = ", ".join(f"{v} {k}" for k, v in KMEANS.items() if k != axis and v > 1)
        points = ((value, clusters(**{**KMEANS, axis: value})) for value in values)
        yield curve(f"kmeans, ten iterations\n{fixed}", axis, points)


def run_rded(data: Path, classes: int, images: int) -> dict[str, float]:
    """Distil photographs whole, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = repeat_photographs(data / SAMPLE, place, classes * images, images)
        observer = random_observer(classes, place, ARCH, OBSERVED_SIDE)
        begun = time.perf_counter()
        distill(
            RdedConfig(
                source=str(source),
                observer=str(observer),
                out=place / "set",
                ipc=5,
                factor=2,
                allow_weak_observer=True,
                memory_budget=256,
                device="cpu",
            )
        )
        return {"seconds": time.perf_counter() - begun}


def run_dream(data: Path, classes: int) -> dict[str, float]:
    """Do one outer iteration of DREAM+, in this process."""
    arguments = argparse.Namespace(
        data=data, run="pydream", classes=classes, images_per_class=500, device="cpu", ipc=10,
        arch="convnet3-w32-instance", batch_real=64, inner_loop=5, network_images=250, exact=False,
    )  # fmt: skip
    return pipeline_dream.one_run(arguments)


def whole_runs(title: str, axis: str, at: Sequence[int], names: Sequence[str], data: Path) -> Curve:
    """Run a pipeline at some sizes; seconds, and the most memory of any run."""
    runs = run_in_turns("benchmarks.scaling", names, ["--data", str(data)], RUNS)
    return {
        "title": title, "x": axis, "y": "s", "at": list(at),
        "lines": {"pydream": [median(run["seconds"] for run in runs[name]) for name in names]},
        "peak_mib": [max(run["peak_mib"] for run in runs[name]) for name in names],
        "runs": runs,
    }  # fmt: skip


def pipeline_curves(data: Path) -> Iterator[Curve]:
    """Measure RDED and DREAM+, each run in a process of its own."""
    for axis, sizes in RDED.items():
        images = [classes * images_per_class for classes, images_per_class in sizes]
        names = [f"rded {classes} {images_per_class}" for classes, images_per_class in sizes]
        yield whole_runs(f"RDED, {axis}", "images", images, names, data)
    names = [f"dream {classes}" for classes in DREAM_CLASSES]
    yield whole_runs("DREAM+, one iteration of 5 steps", "classes", DREAM_CLASSES, names, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {SAMPLE}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        torch.set_num_threads(THREADS)
        name, *numbers = arguments.run.split()
        runs: dict[str, Callable[..., dict[str, Any]]] = {"rded": run_rded, "dream": run_dream}
        run = runs[name]
        print_run(run(arguments.data, *map(int, numbers)))
        return
    curves = [*op_curves(), *pipeline_curves(arguments.data)]
    print(write_record("scaling", {curve["title"]: curve for curve in curves}, arguments.out))
    draw_curves(curves, OUT)
    print(OUT)


if __name__ == "__main__":
    main()
