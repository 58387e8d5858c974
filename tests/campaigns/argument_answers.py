"""What the ops ought to answer: formulas in float64 and plain PyTorch, for any accepted arguments.

Tolerances are those of the ops' own tests, where their reasons are. They scale with the largest
value here, and results beyond the range of float32 are not compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pydream import ops
from pydream.ops.augment import WORDS
from pydream.ops.reference import augment as augment_reference
from pydream.ops.reference import boxes as boxes_reference
from pydream.ops.reference import cells as cells_reference
from pydream.ops.reference import collage as collage_reference
from pydream.ops.reference import crop as crop_reference
from pydream.ops.reference import formation as formation_reference
from pydream.ops.reference import matching as matching_reference
from pydream.ops.reference import score as score_reference

# Values that stay within float32, also when they are squared and summed.
MOST, LEAST = 1e16, 1e-16
HALF = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
# Blends of pixels in float32, also at places that are rounded; cells through a matrix of condition
# number 200; norms; distances of samples; sums of gradients.
PIXEL, PLACE, CELL, NORM, DISTANCE, SUM = 1e-5, 1e-4, 2e-5, 4e-6, 2e-5, 4e-6
EVERY: dict[str, Callable[..., None]] = {}


def plain(value: Any) -> Any:
    """Return a tensor, array or guest as a contiguous tensor of its own; lists item by item."""
    if isinstance(value, (list, tuple)) and any(map(is_tensor, value)):
        return [plain(item) for item in value]
    if not is_tensor(value):
        return value
    tensor = value if isinstance(value, Tensor) else from_dlpack(_writable(value))
    return tensor.detach().resolve_neg().clone(memory_format=torch.contiguous_format)


def _writable(value: Any) -> Any:
    return np.array(value) if isinstance(value, np.ndarray) else value


def is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or hasattr(value, "__dlpack__")


def sides(value: Any) -> list[int]:
    return [int(side) for side in value] if isinstance(value, (list, tuple, range)) else [
        int(value)
    ] * 2  # fmt: skip


def moderate(*tensors: Any) -> bool:
    """Return whether all values are finite, and squares of them within float32."""
    for tensor in tensors:
        if tensor.numel() == 0:  # perhaps with a dimension without end, which has no strides
            continue
        size = tensor.double().abs()
        if not bool(((size == 0) | ((size < MOST) & (size > LEAST))).all()):
            return False
    return True


def near(found: Tensor, expected: Tensor, tolerance: float, scale: float | None = None) -> None:
    """Assert equality but for a tolerance, relative to the largest value expected."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    if not expected.numel():
        return
    most = float(expected.double().abs().max()) if scale is None else scale
    tolerance = tolerance + HALF.get(found.dtype, 0.0)
    finite = expected.double().abs() < 0.9 * torch.finfo(found.dtype).max  # the others overflow
    torch.testing.assert_close(
        found[finite].double(), expected[finite].double(), rtol=0.0, atol=tolerance * most + 1e-30
    )


def answer(check: Callable[..., None]) -> Callable[..., None]:
    """Register the check of an op's answer, which takes its name."""
    EVERY[check.__name__] = check
    return check


def same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape, (found.shape, expected.shape)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0, equal_nan=True)


@answer
def collage(answer: Tensor, *, patches: Tensor, factor: int, size: int) -> None:
    same(answer, collage_reference.collage(patches, int(factor), int(size)))


def _crops(given: dict[str, Any]) -> tuple[list[Tensor], Tensor, Tensor]:
    images = given["images"] if isinstance(given["images"], list) else [given["images"]]
    index = given["image_index"]
    boxes = given["boxes"].long()
    if index is None:
        index = crop_reference.images_of_boxes(images, boxes)
    return images, boxes, index.long()


@answer
def crop_resize(answer: Tensor, **given: Any) -> None:
    images, boxes, index = _crops(given)
    size = sides(given["size"])
    canvas = size if given["canvas"] is None else sides(given["canvas"])
    mean, std = (
        None if given[name] is None else [float(number) for number in given[name]]
        for name in ("mean", "std")
    )
    arguments = (images, boxes, size, index, given["flip"], canvas)
    last = bool(given["channels_last"])
    if given["dtype"] == torch.uint8:
        expected = crop_reference.crop_resize(*arguments, None, None, torch.uint8, last)
        assert answer.dtype == torch.uint8
        assert answer.shape == expected.shape
        difference = (answer.int() - expected.int()).abs()
        assert not difference.numel() or int(difference.max()) <= 1
        return
    expected = crop_reference.crop_resize(*arguments, mean, std, torch.float32, last)
    assert answer.dtype == given["dtype"]
    assert answer.shape == expected.shape
    if std is None or mean is None or (min(std) > 1e-3 and max(map(abs, (*mean, *std))) < 1e3):
        scale = 1.0 if std is None or mean is None else (1 + max(map(abs, mean))) / min(std)
        near(answer, expected, PIXEL, max(scale, 1.0))


@answer
def matched_cells(answer: Tensor, **given: Any) -> None:
    images, boxes, index = _crops(given)
    size, enlarged = sides(given["size"]), sides(given["enlarged"])
    inside = size if given["inside"] is None else sides(given["inside"])
    dtype = given["dtype"]
    expected = cells_reference.matched_cells(
        images, boxes, index, size, enlarged, inside, torch.float32
    )
    assert answer.dtype == dtype
    condition = 1.0
    for axis in zip(size, enlarged, inside, strict=True):
        grown = cells_reference.enlargement(*axis, device=torch.device("cpu"))
        condition *= max(float(torch.linalg.cond(grown)) ** 2 / 200, 1.0)
    if dtype == torch.uint8:
        near(answer.float() / 255, expected, 0.51 / 255 + CELL * condition, 1.0)
    else:
        near(answer, expected, CELL * condition, 1.0)


@answer
def diff_augment(answer: Tensor, *, x: Tensor, parameters: Tensor) -> None:
    assert answer.dtype == x.dtype
    assert answer.shape == x.shape
    if moderate(x, parameters) and x.numel():
        expected = augment_reference.diff_augment(x.double(), parameters.double())
        rows = parameters.double().abs()
        colour = (1 + rows[:, 1].max()) * (1 + rows[:, 2].max())
        scale = float(colour * (x.double().abs().max() + rows[:, 0].max()))
        # Places are rounded to 2^-24 of what they are summed of.
        place = float(rows[:, 3:9].sum(1).max()) * max(x.shape[2:])
        near(answer, expected, PIXEL + PLACE * max(place / 100, 1.0), scale)


@answer
def multi_formation(answer: Tensor, *, images: Tensor, factor: int, size: int) -> None:
    expected = formation_reference.multi_formation(images.double(), int(factor), int(size), 0.5)
    assert answer.dtype == images.dtype
    assert answer.shape == expected.shape
    if moderate(images):
        near(answer, expected, PIXEL)


@answer
def norm_relu_pool(
    answer: Tensor, *, images: Tensor, weight: Tensor, bias: Tensor, statistics: str, eps: float
) -> None:
    count, channels, height, width = images.shape
    assert answer.dtype == images.dtype
    assert answer.shape == (count, channels, height // 2, width // 2)
    x, scale, shift = images.double(), weight.double(), bias.double()
    if not answer.numel() or not moderate(x, scale, shift):
        return
    over = (0, 2, 3) if statistics == "batch" else (2, 3)
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    rstd = (variance + float(eps)).rsqrt()
    normed = (x - mean) * rstd * scale[:, None, None] + shift[:, None, None]
    expected = torch.nn.functional.avg_pool2d(normed.relu(), 2)
    most = x.abs().max() * rstd.max() * scale.abs().max() + shift.abs().max()
    if float(rstd.max()) < MOST and float(most) < MOST:
        near(answer, expected, NORM, float(most))


@answer
def gradient_distance(answer: Tensor, *, synthetic: Any, real: Any, metric: str) -> None:
    wide = bool(synthetic) and synthetic[0].dtype == torch.float64
    assert answer.shape == ()
    assert answer.dtype == (torch.float64 if wide else torch.float32)
    if moderate(*synthetic, *real):
        pairs = [(x.double(), y.double()) for x, y in zip(synthetic, real, strict=True)]
        kept = [(x, y) for x, y in pairs if x.dim() > 1 or metric != "dc"]
        x, y = [pair[0] for pair in kept], [pair[1] for pair in kept]
        expected = matching_reference.gradient_distance(x, y, metric).double()
        rows = sum(len(layer) if layer.dim() else 1 for layer in x if layer.numel())
        near(answer, expected, SUM, max(float(expected), rows if metric in ("cos", "dc") else 0))


@answer
def realism_scores(answer: Tensor, *, logits: Tensor, labels: Tensor) -> None:
    assert answer.dtype == torch.float32
    expected = torch.log_softmax(logits.double(), 1).gather(1, labels.long()[:, None])[:, 0]
    torch.testing.assert_close(answer.double(), expected, rtol=SUM, atol=1e-6)


@answer
def select_key_patches(
    answer: Any, *, scores: Tensor, labels: Tensor, per_class: int, num_classes: int
) -> None:
    expected = score_reference.select_key_patches(scores, labels, int(per_class), int(num_classes))
    for found, one in zip(answer, expected, strict=True):
        same(found, one)


@answer
def key_patches(answer: Any, *, logits: Tensor, labels: Tensor, num_crops: int, **n: int) -> None:
    crops = int(num_crops)
    scores = ops.realism_scores(logits, labels.repeat_interleave(crops)).view(-1, crops)
    select_key_patches(answer, scores=scores, labels=labels, **n)


@answer
def random_augment(answer: Tensor, *, count: int, size: Any, strategy: str, seed: int) -> None:
    words = strategy.split("_")
    spatial = [word for word in augment_reference.SPATIAL if word in words]
    color, cutout = WORDS[0] in words, "cutout" in words
    expected = augment_reference.random_augment(
        int(count), sides(size), color, spatial, cutout, int(seed)
    )
    torch.testing.assert_close(answer, expected, rtol=1e-6, atol=1e-6)


@answer
def random_crop_boxes(answer: Tensor, *, sizes: Tensor, num_crops: int, **given: Any) -> None:
    if not answer.numel():  # however many crops of no image
        assert answer.shape == (len(sizes), int(num_crops), 4)
        return
    count = torch.arange(len(sizes)) if given["ids"] is None else given["ids"]
    scale, ratio = ([float(number) for number in given[name]] for name in ("scale", "ratio"))
    expected = boxes_reference.random_crop_boxes(
        sizes, int(num_crops), scale, ratio, int(given["seed"]), count
    )
    same(answer, expected)


@answer
def random_keys(answer: Tensor, *, ids: Tensor, seed: int, draw: int) -> None:
    same(answer, boxes_reference.random_keys(ids, int(seed), int(draw)))


def _problems(x: Tensor, offsets: Any, metric: str = "euclidean") -> list[Tensor]:
    x = x.double()
    if metric == "cosine":
        x = x / x.abs().amax(-1, keepdim=True)
        x = x / x.square().sum(-1, keepdim=True).sqrt()
    if offsets is not None:
        return [x[int(a) : int(b)] for a, b in itertools.pairwise(offsets)]
    return [x] if x.dim() == 2 else list(x)


def _of_each(found: Tensor, sizes: list[int], dims: int) -> list[Tensor]:
    """Return rows of each problem; with `dims` dimensions they are one behind the other."""
    if found.dim() > dims:
        return list(found)
    return list(found.split(sizes)) if sizes else []


def _counts(k: Any, problems: list[Tensor]) -> list[int]:
    every = is_tensor(k) or isinstance(k, (list, tuple))
    return [int(number) for number in k] if every else [int(k)] * len(problems)


@answer
def kmeans(answer: Any, *, x: Tensor, k: Any, offsets: Any, metric: str, **given: Any) -> None:
    problems, weights = _problems(x, offsets, metric), given["weights"]
    sizes, counts = [len(part) for part in problems], _counts(k, problems)
    assert answer.labels.shape == x.shape[:-1]
    assert answer.centroids.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    inertia, steps = answer.inertia.reshape(-1), answer.n_iter.reshape(-1)
    assert len(steps) == len(problems)
    assert bool((steps <= int(given["max_iter"])).all())
    if not moderate(x) or not moderate(answer.centroids):
        return
    labels = _of_each(answer.labels, sizes, 1)
    centroids = _of_each(answer.centroids.double(), counts, 2)
    masses = labels if weights is None else _of_each(weights, sizes, 1)
    for b, (part, own, at) in enumerate(zip(problems, centroids, labels, strict=True)):
        if not len(part):
            continue
        mass = torch.ones(len(part)).double() if weights is None else masses[b].double()
        distance = (part[:, None] - own).square().sum(-1)
        size = float(distance.max()) + float(part.square().sum(-1).max())
        chosen = distance.gather(1, at[:, None])[:, 0]
        assert bool((chosen <= distance.amin(1) + DISTANCE * size).all()), "a label is not nearest"
        total = float((mass * chosen).sum()) / (2 if metric == "cosine" else 1)
        assert math.isclose(float(inertia[b]), total, abs_tol=DISTANCE * len(part) * size)
        converged = int(steps[b]) < int(given["max_iter"]) and float(given["tol"]) == 0
        if converged and metric == "euclidean":
            _are_means(own, part, at, mass, math.sqrt(size))


def _are_means(own: Tensor, part: Tensor, labels: Tensor, mass: Tensor, size: float) -> None:
    sums = torch.zeros_like(own).index_add_(0, labels, mass[:, None] * part)
    members = torch.zeros(len(own)).double().index_add_(0, labels, mass)[:, None]
    means = torch.where(members > 0, sums / members.clamp(min=1e-300), own)
    near(own, means, 1e-6, size)


@answer
def nearest_samples(answer: Any, *, x: Tensor, centroids: Tensor, **given: Any) -> None:
    problems = _problems(x, given["offsets"])
    k = centroids.shape[-2] if given["k"] is None else given["k"]
    counts, count = _counts(k, problems), int(given["count"])
    assert answer.dtype == torch.int64
    assert answer.shape == (*centroids.shape[:-1], count)
    if not moderate(x) or not moderate(centroids):
        return
    starts = [0, *itertools.accumulate(len(part) for part in problems)]
    found = _of_each(answer, counts, 2)
    for b, own in enumerate(_of_each(centroids.double(), counts, 2)):
        rows = found[b] - (starts[b] if given["offsets"] is not None else 0)
        distance = (own[:, None] - problems[b]).square().sum(-1)
        least = distance.sort(1).values[:, :count]
        size = float(distance.max()) + float(problems[b].square().sum(-1).max())
        near(distance.gather(1, rows), least, DISTANCE, size)
        assert all(len({*row}) == count for row in rows.tolist())


@answer
def representatives(answer: Any, *, x: Tensor, k: Any, per_cluster: int, **given: Any) -> None:
    problems, offsets = _problems(x, given["offsets"]), given["offsets"]
    many = is_tensor(k) or isinstance(k, (list, tuple))
    if given["metric"] == "euclidean":
        offsets = [int(number) for number in offsets] if offsets is not None else None
        centroids = ops.kmeans(x, k, **{**given, "offsets": offsets}).centroids
        count = int(per_cluster)
        same(answer, ops.nearest_samples(x, centroids, count, offsets, k if many else None))
    assert answer.shape[-1] == int(per_cluster)
    assert answer.numel() == sum(_counts(k, problems)) * int(per_cluster)
