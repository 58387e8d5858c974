"""Arguments at the edge of what is possible: vast, empty, misaligned, sharing memory, or long."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from every_op import ARGUMENTS, X, tensors_of

from pydream import ops

VAST = 2**50
"""A dimension that no machine holds; a stride of 0 or a dimension of 0 makes it free."""
PATCHES = torch.zeros(1, 4, 3, 4, 4)
IMAGES = torch.zeros(2, 5, 5, 3, dtype=torch.uint8)
BOXES = torch.tensor([[0, 0, 2, 2], [1, 1, 3, 3]])
LABELS = torch.zeros(3, dtype=torch.int64)


def vast(*shape: int) -> torch.Tensor:
    return torch.zeros([1 if size == VAST else size for size in shape]).expand(shape)


BEYOND_MEMORY: dict[str, Callable[[], Any]] = {
    "count": lambda: ops.random_augment(VAST, 8),
    "num_crops": lambda: ops.random_crop_boxes(torch.tensor([[3, 4]]), VAST),
    "per_class": lambda: ops.key_patches(X[:3], LABELS, 1, VAST, 1),
    "num_classes": lambda: ops.select_key_patches(X[:3], LABELS, 1, VAST),
    "size": lambda: ops.collage(PATCHES, 2, VAST),
    "images": lambda: ops.multi_formation(PATCHES, 2, VAST),
    "canvas": lambda: ops.crop_resize(IMAGES, BOXES, 2, canvas=VAST),
    "float64": lambda: ops.multi_formation(PATCHES.double(), 2, VAST),
    "ids": lambda: ops.random_keys(torch.zeros(1, dtype=torch.int64).expand(VAST)),
    "x": lambda: ops.diff_augment(vast(VAST, 1, 2, 2), torch.zeros(1, 13)),
    "samples": lambda: ops.kmeans(vast(VAST, 3), 1),
    "problems": lambda: ops.kmeans(vast(VAST, 1, 3), 1),
    "weights": lambda: ops.kmeans(vast(1, VAST, 3), 1, weights=vast(1, VAST)),
    "layers": lambda: ops.gradient_distance([vast(VAST)], [vast(VAST)]),
    "halves": lambda: ops.norm_relu_pool(
        torch.ones(1, 1, 2, 2).half().expand(VAST, 1, 2, 2),
        torch.ones(1).half(),
        torch.ones(1).half(),
        "batch",
    ),
    "planes": lambda: ops.norm_relu_pool(vast(VAST, 3, 2, 2), torch.ones(3), torch.ones(3)),
}


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", list(BEYOND_MEMORY))
def test_more_than_memory_holds_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*=.* needs more memory than this machine has$"):
        BEYOND_MEMORY[name]()


@pytest.mark.usefixtures("on_cpu")
def test_what_has_a_shape_and_is_no_tensor_is_quoted() -> None:
    with pytest.raises(ValueError, match="needs more memory"):
        ops.nearest_samples(vast(VAST, 1), torch.Tensor, 1)


def test_a_vast_dimension_beside_an_empty_one_takes_no_time() -> None:
    layer = vast(VAST, 0)
    for metric in ("mse", "cos", "l1_mean"):
        assert float(ops.gradient_distance([layer], [layer], metric)) == 0
    images = torch.zeros(VAST, 0, 5, 3, dtype=torch.uint8)
    none = BOXES[:0]
    assert ops.crop_resize(images, none, 2).shape == (0, 3, 2, 2)
    assert ops.matched_cells(images, none, 2, 4).shape == (0, 3, 2, 2)
    one, index = BOXES[:1], torch.tensor([VAST - 1])
    with pytest.raises(ValueError, match="is not inside its image"):
        ops.crop_resize(images, one, 2, image_index=index)
    with pytest.raises(ValueError, match="is not inside its image"):
        ops.matched_cells(images, one, 2, 4, image_index=index)
    with pytest.raises(ValueError, match="x must have samples of each problem"):
        ops.kmeans(vast(VAST, 0, 3), 1, init=vast(VAST, 1, 3), max_iter=0)
    with pytest.raises(ValueError, match="x must have at least one dimension"):
        ops.kmeans(vast(VAST, 2, 0), 1)


def test_an_expanded_batch_of_images_is_read_where_it_lies() -> None:
    pixels = torch.arange(75, dtype=torch.uint8).view(1, 5, 5, 3)
    index = torch.tensor([0, VAST - 1])
    found = ops.crop_resize(pixels.expand(VAST, 5, 5, 3), BOXES, 2, image_index=index)
    assert found.equal(ops.crop_resize(pixels, BOXES, 2, image_index=index * 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_images_without_channels_are_refused(dtype: torch.dtype) -> None:
    images, none = torch.zeros(2, 0, 4, 4, dtype=dtype), torch.zeros(0, dtype=dtype)
    for statistics in ("instance", "batch"):
        with pytest.raises(ValueError, match="images must have a channel"):
            ops.norm_relu_pool(images, none, none, statistics)


def misaligned(value: Any) -> Any:
    """Copy a tensor to memory that begins one byte behind a multiple of its elements' size."""
    if isinstance(value, list):
        return [misaligned(item) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    data = b"\0" + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return torch.frombuffer(bytearray(data), dtype=value.dtype, offset=1).view(value.shape)


@pytest.mark.parametrize("name", list(ARGUMENTS))
def test_misaligned_memory_gives_the_same(name: str) -> None:
    op, arguments = getattr(ops, name), ARGUMENTS[name]
    expected = tensors_of(op(**arguments))
    found = tensors_of(op(**{key: misaligned(value) for key, value in arguments.items()}))
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("on_cpu")
def test_misaligned_memory_is_read_for_an_output_but_not_written() -> None:
    expected = ops.crop_resize(IMAGES, BOXES, 2)
    out = torch.zeros_like(expected)
    assert ops.crop_resize(IMAGES, misaligned(BOXES), 2, out=out).equal(expected)
    with pytest.raises(ValueError, match="out must lie at a multiple of 4 bytes"):
        ops.crop_resize(IMAGES, BOXES, 2, out=misaligned(out))


@pytest.mark.usefixtures("on_cpu")
def test_an_output_that_negates_its_memory_is_refused() -> None:
    negate: Any = torch
    with pytest.raises(ValueError, match="out must be memory that is read as it is"):
        ops.crop_resize(IMAGES, BOXES, 2, out=negate._neg_view(torch.zeros(2, 3, 2, 2)))


@pytest.mark.usefixtures("on_cpu")
def test_an_output_in_the_memory_of_an_argument_is_refused() -> None:
    memory = torch.arange(400, dtype=torch.int32).view(torch.uint8)
    images = memory[:150].view(2, 5, 5, 3)
    out = memory[144:240].view(torch.float32).view(2, 3, 2, 2)
    before = memory.clone()
    for pictures in (images, [*images]):
        with pytest.raises(ValueError, match="out shares memory with images"):
            ops.crop_resize(pictures, BOXES, 2, out=out)
    numbers = memory[:32].view(torch.int64).view(1, 4)
    with pytest.raises(ValueError, match="out shares memory with images or another argument"):
        ops.crop_resize(
            IMAGES[:1], numbers, 2, out=memory[:48].view(torch.float32).view(1, 3, 2, 2)
        )
    assert memory.equal(before)
    beside = memory[160:256].view(torch.float32).view(2, 3, 2, 2)
    expected = ops.crop_resize(images, BOXES, 2)
    assert ops.crop_resize(images, BOXES, 2, out=beside).equal(expected)
    assert memory[:160].equal(before[:160])


def test_values_are_quoted_in_one_short_line() -> None:
    long: Any = torch.zeros(100, 100)
    calls: list[Callable[[], Any]] = [
        lambda: ops.random_augment(10**5000, 8),
        lambda: ops.random_augment(-(10**5000), 8),
        lambda: ops.random_augment(3, [10**5000, 3, 3]),
        lambda: ops.random_augment(3, [long] * 3),
        lambda: ops.random_augment(3, 8, "colour_" * 1000),
        lambda: ops.kmeans(X, 2, tol=10**5000),
        lambda: ops.kmeans(X, 2, metric="euclid" * 1000),
        lambda: ops.random_crop_boxes(torch.tensor([[3, 4]]), 1, scale=long[0]),
        lambda: ops.crop_resize(IMAGES, BOXES, 2, mean=[0.5] * 1000, std=[0.5] * 3),
    ]
    huge: Any = 10**5000
    with pytest.raises(TypeError, match=r"dtype must be .*, got int$"):
        ops.crop_resize(IMAGES, BOXES, 2, dtype=huge)
    for call in calls:
        with pytest.raises(ValueError, match=r"^(count|size|strategy|tol|metric|scale|mean) must"
                           r"[^\n]{,160}$"):  # fmt: skip
            call()


def test_any_number_of_iterations_is_taken() -> None:
    found, expected = ops.kmeans(X, 2, max_iter=2**40), ops.kmeans(X, 2)
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_a_cell_is_enlarged_within_limits() -> None:
    with pytest.raises(ValueError, match="enlarged must be at most 8192 pixels, got 8193"):
        ops.matched_cells(IMAGES, BOXES, 1, (8193, 2))


def test_representatives_name_their_own_argument() -> None:
    with pytest.raises(ValueError, match="per_cluster must be at most the samples of each problem"):
        ops.representatives(X, 2, per_cluster=13)
    for metric in ("euclidean", "cosine"):
        assert ops.representatives(X[None, :0][:0], 1, metric=metric).shape == (0, 1, 1)


def test_an_integer_beyond_64_bits_is_the_number_that_it_is() -> None:
    # float16 takes the way of plain PyTorch, which knows no such integer.
    images, ones = torch.rand(2, 5, 4, 4).half(), torch.ones(5).half()
    found = ops.norm_relu_pool(images, ones, ones, eps=2**64)
    assert torch.equal(found, ops.norm_relu_pool(images, ones, ones, eps=2.0**64))


@pytest.mark.parametrize("value", [np.longdouble("1e400"), np.float16("inf"), 10**400])
def test_a_number_beyond_float64_is_refused_without_a_warning(value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="tol must be finite, got"):
            ops.kmeans(X, 1, tol=value)
