"""Tuples of arguments for each op: such as it takes, and those spoiled in one or two places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from campaigns.argument_values import (
    CONTENTS,
    FORMS,
    Dtype,
    Out,
    Values,
)

from pydream.ops.matching import METRICS

Draw = Callable[[st.SearchStrategy[Any]], Any]

COUNTS = st.sampled_from([1, 2, 3, 5, 8, 9, 17, 0])
SIDES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33])
FACTORS = st.sampled_from([1, 2, 3, 4])
SEEDS = st.integers(0, 2**16)
BIG_SEEDS = st.sampled_from([0, 1, 7, 2**32, 2**63 - 1])
KERNEL_FLOATS = st.sampled_from(["float32", "float32", "float16", "bfloat16"])
ANY_FLOATS = st.sampled_from(["float32", "float32", "float16", "bfloat16", "float64"])
INDICES = st.sampled_from(["int64", "int32"])
FORM = st.sampled_from(FORMS)
CONTENT = st.sampled_from(["normal", "normal", *CONTENTS])
PIXEL_DTYPES = st.sampled_from(["float32", "float16", "bfloat16", "uint8"])
FLAGS = st.booleans()


def floats(draw: Draw, shape: tuple[int, ...], dtypes: Any = KERNEL_FLOATS) -> Values:
    return Values(shape, draw(dtypes), draw(FORM), draw(CONTENT), seed=draw(SEEDS))


def whole(draw: Draw, shape: tuple[int, ...], below: int, dtypes: Any = INDICES) -> Values:
    return Values(shape, draw(dtypes), draw(FORM), "whole", max(below, 1), draw(SEEDS))


def like(draw: Draw, other: Values, shape: tuple[int, ...]) -> Values:
    """Draw floats of the dtype of others."""
    return replace(other, shape=shape, form=draw(FORM), content=draw(CONTENT), seed=draw(SEEDS))


def pair(draw: Draw, least: tuple[int, int] = (1, 1)) -> Any:
    """Draw height and width, or one number for both."""
    height, width = (low + draw(st.sampled_from([0, 1, 2, 3, 7, 8])) for low in least)
    return max(height, width) if draw(FLAGS) else draw(st.sampled_from([(height, width)]))


def both(sides: Any) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


def collage(draw: Draw) -> dict[str, Any]:
    factor = draw(FACTORS)
    shape = (draw(COUNTS), draw(st.sampled_from([1, 2, 3, 0])) * factor**2, draw(COUNTS))
    dtypes = st.sampled_from(["float32", "float16", "bfloat16", "uint8"])
    patches = floats(draw, (*shape, draw(SIDES), draw(SIDES)), dtypes)
    return {"patches": patches, "factor": factor, "size": factor + draw(SIDES)}


def images_and_boxes(draw: Draw) -> dict[str, Any]:
    channels, count = draw(st.sampled_from([3, 1, 2, 4])), draw(st.sampled_from([1, 2, 3, 0]))
    sides = [(draw(SIDES), draw(SIDES)) for _ in range(max(count, 1))]
    if draw(FLAGS) or not count:
        sides = sides[:1] * count or sides
        images: Any = Values((count, *sides[0], channels), "uint8", draw(FORM), seed=draw(SEEDS))
    else:
        form = draw(FORM)
        images = [
            Values((*side, channels), "uint8", form, seed=number)
            for number, side in enumerate(sides)
        ]
    given: dict[str, Any] = {"images": images}
    index = [number for number in range(count) for _ in range(draw(st.sampled_from([1, 2, 0])))]
    if draw(FLAGS):
        each = draw(st.sampled_from([1, 2, 3, 0]))
        index = [number for number in range(count) for _ in range(each)]
    else:
        form = draw(FORM)
        given["image_index"] = Values((len(index),), draw(INDICES), form, tuple(index))
    numbers: list[int] = []
    for number in index:
        extent = [draw(st.integers(1, side)) for side in sides[number]]
        room = [side - size for side, size in zip(sides[number], extent, strict=True)]
        numbers += [*(draw(st.integers(0, most)) for most in room), *extent]
    given["boxes"] = Values((len(index), 4), draw(INDICES), draw(FORM), tuple(numbers))
    return given


def crop_resize(draw: Draw) -> dict[str, Any]:
    given = images_and_boxes(draw)
    images, patches = given["images"], given["boxes"].shape[0]
    channels = (images if isinstance(images, Values) else images[0]).shape[-1]
    size = canvas = pair(draw)
    given["size"] = size
    if draw(FLAGS):
        canvas = given["canvas"] = pair(draw, both(size))
    dtype = draw(PIXEL_DTYPES)
    given["dtype"] = Dtype(dtype)
    if draw(FLAGS):
        given["flip"] = whole(draw, (patches,), 2, st.just("bool"))
    if draw(FLAGS) and dtype != "uint8":
        given["mean"], given["std"] = [0.5, 0.4, 0.3, 0.0][:channels], [0.2, 0.3, 1, 2][:channels]
    last = draw(FLAGS)
    if last:
        given["channels_last"] = True
    if draw(FLAGS):
        kinds = ["channels last"] if last else ["own", "offset", "negative bit"]
        strange = ["over images", "beside images", "over boxes", "over image_index", "beside boxes"]
        kind = draw(st.sampled_from([*kinds, *strange, "gaps", "expanded", "permuted", "meta"]))
        shape = (patches, channels, *both(canvas))
        given["out"] = Out(shape, dtype, kind, draw(st.sampled_from([False] * 7 + [True])))
    return given


def matched_cells(draw: Draw) -> dict[str, Any]:
    given = images_and_boxes(draw)
    size = given["size"] = pair(draw)
    given["enlarged"] = pair(draw, both(size))
    if draw(FLAGS):
        given["inside"] = tuple(draw(st.integers(1, side)) for side in both(size))
    given["dtype"] = Dtype(draw(PIXEL_DTYPES))
    return given


def diff_augment(draw: Draw) -> dict[str, Any]:
    rows, each = draw(COUNTS), draw(st.sampled_from([1, 2, 3]))
    x = floats(draw, (rows * each, draw(COUNTS), draw(SIDES), draw(SIDES)), ANY_FLOATS)
    x = replace(x, requires_grad=draw(FLAGS))
    dtypes = ["float32", "float64"] if x.dtype == "float64" else ["float32"]
    return {"x": x, "parameters": floats(draw, (rows, 13), st.sampled_from(dtypes))}


def multi_formation(draw: Draw) -> dict[str, Any]:
    factor = draw(FACTORS)
    shape = (draw(COUNTS), draw(COUNTS), factor - 1 + draw(SIDES), factor - 1 + draw(SIDES))
    classes = draw(st.sampled_from([(), (2,), (1,), (0,)]))
    images = floats(draw, (*classes, *shape), ANY_FLOATS)
    images = replace(images, requires_grad=draw(FLAGS))
    return {"images": images, "factor": factor, "size": draw(SIDES)}


def norm_relu_pool(draw: Draw) -> dict[str, Any]:
    channels = draw(st.sampled_from([1, 2, 3, 16, 17, 64, 65, 0]))
    shape = (draw(COUNTS), channels, 1 + draw(SIDES), 1 + draw(SIDES))
    images = replace(floats(draw, shape, ANY_FLOATS), requires_grad=draw(FLAGS))
    given: dict[str, Any] = {
        "images": images,
        "weight": like(draw, images, (channels,)),
        "bias": like(draw, images, (channels,)),
        "statistics": draw(st.sampled_from(["instance", "batch"])),
    }
    if draw(FLAGS):
        given["eps"] = draw(st.sampled_from([1e-5, 0.0, 1.0, 1e-300, 1e300]))
    return given


def gradient_distance(draw: Draw) -> dict[str, Any]:
    wide = draw(st.sampled_from([False] * 3 + [True]))
    dtypes = st.just("float64") if wide else KERNEL_FLOATS
    synthetic, real = [], []
    for _ in range(draw(st.sampled_from([1, 2, 3, 0]))):
        rank = draw(st.sampled_from([2, 1, 0, 4, 3, 6, 7]))
        layer = floats(draw, tuple(draw(COUNTS) for _ in range(min(rank, 3))), dtypes)
        layer = replace(layer, shape=layer.shape + (1, 2, 1, 1)[: max(rank - 3, 0)])
        synthetic.append(replace(layer, requires_grad=draw(FLAGS)))
        real.append(like(draw, layer, layer.shape))
    return {"synthetic": synthetic, "real": real, "metric": draw(st.sampled_from(METRICS))}


def problems(draw: Draw) -> tuple[dict[str, Any], list[int], bool]:
    """Draw samples; return them, the sizes of the problems, and whether it is only one."""
    dim = draw(st.sampled_from([1, 2, 3, 5, 16, 17, 33]))
    kind = draw(st.sampled_from(["one", "batch", "offsets"]))
    if kind == "one":
        samples = draw(st.sampled_from([1, 2, 3, 9, 17, 40]))
        return {"x": floats(draw, (samples, dim), ANY_FLOATS)}, [samples], True
    sizes = [draw(st.sampled_from([1, 2, 3, 9, 17])) for _ in range(draw(st.integers(0, 3)))]
    if kind == "batch":
        sizes = sizes[:1] * len(sizes)
        shape = (len(sizes), sizes[0] if sizes else 3, dim)
        return {"x": floats(draw, shape, ANY_FLOATS)}, sizes, False
    offsets: Any = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    if draw(FLAGS):
        offsets = Values((len(offsets),), draw(INDICES), draw(FORM), tuple(offsets))
    x = floats(draw, (sum(sizes), dim), ANY_FLOATS)
    return {"x": x, "offsets": offsets}, sizes, False


def numbers_of_centroids(draw: Draw, sizes: list[int], single: bool) -> Any:
    if single or draw(FLAGS):
        return draw(st.integers(1, min(sizes, default=3)))
    return [draw(st.integers(1, size)) for size in sizes]


def shape_of_centroids(x: Values, k: Any, sizes: list[int], single: bool) -> tuple[int, ...]:
    dim = x.shape[-1]
    if not isinstance(k, int):
        return sum(k), dim
    return (k, dim) if single else (len(sizes), k, dim)


def kmeans(draw: Draw, *, weighted: bool = True) -> dict[str, Any]:
    given, sizes, single = problems(draw)
    k = given["k"] = numbers_of_centroids(draw, sizes, single)
    given["init"] = draw(st.sampled_from(["k-means++", "random", "given"]))
    if given["init"] == "given":
        shape = shape_of_centroids(given["x"], k, sizes, single)
        given["init"] = like(draw, given["x"], shape)
    given["max_iter"] = draw(st.sampled_from([5, 1, 0, 100]))
    given["seed"] = draw(BIG_SEEDS)
    given["tol"] = draw(st.sampled_from([0.0, 1e-4, 1, 1e300]))
    given["metric"] = draw(st.sampled_from(["euclidean", "cosine"]))
    given["precision"] = draw(st.sampled_from(["exact", "fast"]))
    if weighted and draw(st.sampled_from([False] * 3 + [True])):
        given["weights"] = replace(
            floats(draw, given["x"].shape[:-1], ANY_FLOATS), content="whole", below=3
        )
    return given


def representatives(draw: Draw) -> dict[str, Any]:
    return {**kmeans(draw, weighted=False), "per_cluster": draw(st.sampled_from([1, 2, 3]))}


def nearest_samples(draw: Draw) -> dict[str, Any]:
    given, sizes, single = problems(draw)
    k = draw(st.integers(1, 5)) if single or draw(FLAGS) else [draw(FACTORS) for _ in sizes]
    if isinstance(k, list):
        given["k"] = k
    shape = shape_of_centroids(given["x"], k, sizes, single)
    given["centroids"] = like(draw, given["x"], shape)
    given["count"] = draw(st.integers(1, min(sizes, default=3)))
    return given


def random_augment(draw: Draw) -> dict[str, Any]:
    words = draw(st.permutations(["color", "crop", "cutout", "flip", "scale", "rotate"]))
    number = draw(st.integers(1, 6))
    return {
        "count": draw(COUNTS),
        "size": draw(st.sampled_from([1, 2, 3, 32, (5, 224), (1, 2**24), 2**24])),
        "strategy": "_".join(words[:number]),
        "seed": draw(BIG_SEEDS),
    }


def random_crop_boxes(draw: Draw) -> dict[str, Any]:
    images = draw(COUNTS)
    sides = [draw(st.sampled_from([1, 2, 19, 500, 2**31 - 2])) for _ in range(2 * images)]
    scales = st.sampled_from([(0.08, 1.0), (1e-300, 1.0), (0.5, 1e300), (1, 1), [5e-324, 1.7e308]])
    ratios = st.sampled_from([(1.0, 1.0), (0.75, 4 / 3), (1e-300, 1e300), (50, 60), (5e-324, 1)])
    given = {
        "sizes": Values((images, 2), draw(INDICES), draw(FORM), tuple(sides)),
        "num_crops": draw(COUNTS),
        "scale": draw(scales),
        "ratio": draw(ratios),
        "seed": draw(BIG_SEEDS),
    }
    if draw(FLAGS):
        given["ids"] = ids(draw, images)
    return given


def ids(draw: Draw, count: int) -> Values:
    numbers = [draw(st.sampled_from([0, 1, 2**32, 2**63 - 1, -1, -(2**63)])) for _ in range(count)]
    return Values((count,), "int64", draw(FORM), tuple(numbers))


def random_keys(draw: Draw) -> dict[str, Any]:
    draws = st.sampled_from([0, 1, 2**32 - 1])
    return {"ids": ids(draw, draw(COUNTS)), "seed": draw(BIG_SEEDS), "draw": draw(draws)}


def realism_scores(draw: Draw) -> dict[str, Any]:
    rows, classes = draw(COUNTS), draw(st.sampled_from([1, 2, 10, 16, 17, 100]))
    return {"logits": floats(draw, (rows, classes)), "labels": whole(draw, (rows,), classes)}


def select_key_patches(draw: Draw) -> dict[str, Any]:
    images, classes = draw(COUNTS), draw(st.sampled_from([1, 2, 5]))
    return {
        "scores": floats(draw, (images, draw(COUNTS)), st.just("float32")),
        "labels": whole(draw, (images,), classes),
        "per_class": draw(st.sampled_from([1, 2, 7])),
        "num_classes": classes,
    }


def key_patches(draw: Draw) -> dict[str, Any]:
    images, crops, classes = draw(COUNTS), draw(st.sampled_from([1, 2, 5])), draw(SIDES)
    few = draw(st.sampled_from([0, 1]))
    return {
        "logits": floats(draw, (images * crops, classes + few)),
        "labels": whole(draw, (images,), classes),
        "num_crops": crops,
        "per_class": draw(st.sampled_from([1, 2, 7])),
        "num_classes": classes,
    }
