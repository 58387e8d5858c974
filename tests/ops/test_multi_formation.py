from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices import NOT_ON_CPU, NOT_ON_FIBERS, as_called, kernels, place, without_memory

from pydream import ops
from pydream.ops.reference import formation as reference

# Two blends in float32 of values up to 1, with weights that are rounded once.
PIXEL = 4e-7
# Of 16-bit values up to 1, half a step.
HALF_STEP = {torch.float16: 2.5e-4, torch.bfloat16: 2e-3}
# Sums of at most some hundred products with a gradient of values up to 4.
SLOPE = 2e-5
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

CASES = [
    # images, channels, height, width, factor, size
    (2, 3, 8, 8, 2, 8),
    (1, 1, 1, 1, 1, 1),
    (1, 1, 1, 1, 1, 19),  # a pixel grows to an image
    (3, 1, 19, 19, 2, 19),  # padded by one
    (2, 3, 7, 10, 3, 16),  # padded by two and by two
    (1, 2, 5, 5, 4, 9),  # whole cells of padding
    (2, 3, 12, 19, 1, 12),  # only the columns are resized
    (1, 3, 20, 10, 2, 10),  # only the columns grow
    (1, 2, 64, 33, 2, 7),  # shrunk: pixels that nobody reads
    (1, 1, 30, 30, 2, 1),  # to one pixel
    (1, 1, 6, 6, 6, 111),  # cells of one pixel
    (1, 1, 13, 11, 1, 40),
    (2, 1, 48, 32, 2, 50),  # more than one block's rows and columns
]


def random_images(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(shape, generator=generator).to(dtype)


def cell_by_cell(images: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    """IDC's formation word for word, one cell of one image at a time, in float64."""
    count, channels, height, width = images.shape
    cell = (-(-height // factor), -(-width // factor))
    padded = torch.full((count, channels, cell[0] * factor, cell[1] * factor), 0.5).double()
    padded[:, :, :height, :width] = images.double()
    result = torch.empty(factor**2 * count, channels, size, size, dtype=torch.float64)
    for k in range(factor**2):
        top, left = k // factor * cell[0], k % factor * cell[1]
        for i in range(count):
            part = padded[i, :, top : top + cell[0], left : left + cell[1]]
            result[k * count + i] = F.interpolate(
                part[None], (size, size), mode="bilinear", align_corners=False, antialias=False
            )[0]
    return result


def formed(images: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    return ops.multi_formation(place(images), factor, size).cpu()


def slope_of(images: torch.Tensor, factor: int, size: int, upstream: torch.Tensor) -> torch.Tensor:
    images = place(images).clone().requires_grad_()
    result = ops.multi_formation(images, factor, size)
    return torch.autograd.grad(result, images, place(upstream))[0].cpu()


def upstream_of(case: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    images, channels, _, _, factor, size = case
    generator = torch.Generator().manual_seed(sum(case))
    shape = (factor**2 * images, channels, size, size)
    return torch.randn(shape, generator=generator).clamp(-4, 4).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_is_the_loop_over_cells(isa: str, case: tuple[int, ...], dtype: torch.dtype) -> None:
    *shape, factor, size = case
    images = random_images(tuple(shape), dtype)
    found = formed(images, factor, size)
    assert found.dtype == dtype
    assert found.is_contiguous()
    atol = HALF_STEP.get(dtype, PIXEL)
    expected = cell_by_cell(images, factor, size)
    torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=atol)
    by_reference = reference.multi_formation(images.double(), factor, size, 0.5)
    torch.testing.assert_close(by_reference, expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_derivative_is_the_loops(isa: str, case: tuple[int, ...], dtype: torch.dtype) -> None:
    *shape, factor, size = case
    images = random_images(tuple(shape)).double().requires_grad_()
    upstream = upstream_of(case, dtype)
    (expected,) = torch.autograd.grad(cell_by_cell(images, factor, size), images, upstream.double())
    found = slope_of(images.detach().to(dtype), factor, size, upstream)
    assert found.dtype == dtype
    rtol = 4 * HALF_STEP.get(dtype, 0.0)
    # A pixel that grows to an image sums it.
    atol = SLOPE * max(1.0, float(expected.abs().max()) / 4)
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=atol)
    by_reference = reference.multi_formation_backward(upstream.double(), factor, *images.shape[-2:])
    torch.testing.assert_close(by_reference, expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_factor_one_at_the_same_side_is_a_copy(isa: str, dtype: torch.dtype) -> None:
    images = random_images((3, 2, 19, 19), dtype)
    assert formed(images, 1, 19).equal(images)
    upstream = random_images((3, 2, 19, 19), dtype)
    assert slope_of(images, 1, 19, upstream).equal(upstream)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_is_the_inverse_of_collage(factor: int) -> None:
    patches = random_images((2, 5 * factor**2, 3, 6, 6))
    images = ops.collage(patches, factor, factor * 6)
    assert formed(images, factor, 6).equal(patches)


def test_parts_of_a_pixel_add_up(isa: str) -> None:
    """Weights of a result's pixel sum to one, so the derivative of a sum has the result's size."""
    for side, size in ((7, 7), (3, 11), (11, 3), (16, 32), (5, 1), (1, 5)):
        slope = slope_of(random_images((1, 1, side, side)), 1, size, torch.ones(1, 1, size, size))
        assert float(slope.sum()) == pytest.approx(size**2, rel=1e-6)
        assert (slope >= 0).all()


@pytest.mark.parametrize("shape", [(4, 3, 2, 9, 10), (1, 2, 1, 5, 5), (3, 1, 3, 8, 8)])
def test_classes_at_once_are_as_alone(isa: str, shape: tuple[int, ...]) -> None:
    images = random_images(shape)
    together = formed(images, 2, 11)
    assert together.equal(torch.stack([formed(image, 2, 11) for image in images]))
    upstream = torch.randn(together.shape, generator=torch.Generator().manual_seed(0))
    alone = [slope_of(a, 2, 11, b) for a, b in zip(images, upstream, strict=True)]
    assert slope_of(images, 2, 11, upstream).equal(torch.stack(alone))


def test_strides_and_arrays() -> None:
    images = random_images((4, 3, 10, 12))
    expected = formed(images, 2, 8)
    for strided in (
        images.to(memory_format=torch.channels_last),
        images.repeat_interleave(2, 0)[::2],
        torch.cat([images, images], 3)[..., :12],
    ):
        assert not strided.is_contiguous()
        assert formed(strided, 2, 8).equal(expected)
    assert ops.multi_formation(images.numpy(), 2, 8).equal(ops.multi_formation(images, 2, 8))
    assert isinstance(ops.multi_formation(np.ones((1, 1, 2, 2), np.float32), 2, 3), torch.Tensor)
    # A sum's derivative comes as one value with strides of 0.
    spread = torch.ones(()).expand(16, 3, 8, 8)
    assert slope_of(images, 2, 8, spread).equal(slope_of(images, 2, 8, spread.contiguous()))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_matter(threads: int, on_cpu: None) -> None:
    images, case = random_images((9, 3, 33, 33)), (9, 3, 33, 33, 2, 40)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = formed(images, 2, 40), slope_of(images, 2, 40, upstream_of(case))
        torch.set_num_threads(threads)
        found = formed(images, 2, 40), slope_of(images, 2, 40, upstream_of(case))
    finally:
        torch.set_num_threads(before)
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "shape", [(0, 3, 8, 8), (2, 0, 8, 8), (0, 2, 3, 8, 8), (3, 0, 3, 8, 8), (0, 1, 7, 7)]
)
def test_empty(shape: tuple[int, ...]) -> None:
    images = place(torch.empty(shape)).requires_grad_()
    expected = (*shape[:-4], 4 * shape[-4], shape[-3], 5, 5)
    result = ops.multi_formation(images, 2, 5)
    assert result.shape == expected
    assert torch.autograd.grad(result.sum(), images)[0].shape == shape
    assert reference.multi_formation(images, 2, 5, 0.5).shape == expected
    slope = reference.multi_formation_backward(result.detach(), 2, *shape[-2:])
    assert slope.shape == shape


@NOT_ON_FIBERS
def test_reference_passes_gradcheck() -> None:
    for shape, factor, size in (((2, 1, 5, 4), 2, 3), ((1, 2, 3, 3), 2, 5)):
        images = random_images(shape).double().requires_grad_()
        form = lambda x, f=factor, s=size: reference.multi_formation(x, f, s, 0.5)  # noqa: E731
        assert torch.autograd.gradcheck(form, (images,))
        assert torch.autograd.gradgradcheck(form, (images,))


def test_differentiable_twice() -> None:
    """Through the derivative: of its length, by the images that it does and does not depend on."""
    images, scale = random_images((2, 1, 7, 7)), random_images((8, 1, 6, 6))

    def second(form: Any, images: torch.Tensor, scale: torch.Tensor) -> list[torch.Tensor]:
        images, scale = images.requires_grad_(), scale.requires_grad_()
        value = (form(images, 2, 6) ** 3 * scale).sum()
        (slope,) = torch.autograd.grad(value, images, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), (images, scale)))

    found = second(ops.multi_formation, place(images).clone(), place(scale).clone())
    wanted = second(cell_by_cell, images.double(), scale.double())
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-4, atol=1e-4)


IMAGES = torch.zeros(2, 3, 6, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 2, 8), TypeError, r"^images must be a tensor or speak DLPack, got list"),
        ((IMAGES.byte(), 2, 8), TypeError, r"^images must be float32 .*, got uint8"),
        ((IMAGES[0], 2, 8), ValueError, r"^images must have shape .*, got \(3, 6, 5\)"),
        ((IMAGES[None, None], 2, 8), ValueError, r"^images must have shape .*, got \(1, 1, 2, 3"),
        ((IMAGES[..., :0], 1, 8), ValueError, r"^images must have pixels, got .*\(2, 3, 6, 0\)"),
        ((IMAGES[:, :, :0], 1, 8), ValueError, r"^images must have pixels"),
        ((IMAGES, 0, 8), ValueError, r"^factor must be at least 1, got 0"),
        ((IMAGES, 6, 8), ValueError, r"^factor must be at most the images' side, 5, got 6"),
        ((IMAGES, 2.0, 8), TypeError, r"^factor must be an int, got float"),
        ((IMAGES, 2, 0), ValueError, r"^size must be at least 1, got 0"),
        ((IMAGES, 2, "8"), TypeError, r"^size must be an int, got str"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.multi_formation(*arguments)


@NOT_ON_FIBERS
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    tests = ("test_schema", "test_faketensor")
    formation, backward = (
        torch.ops.pydream.multi_formation,
        torch.ops.pydream.multi_formation_backward,
    )
    for shape in ((2, 3, 5, 6), (4, 2, 3, 5, 6)):
        images = place(random_images(shape, dtype))
        torch.library.opcheck(formation, (images, 2, 7, 0.5), test_utils=tests)
        result = formation(images, 2, 7, 0.5)
        torch.library.opcheck(backward, (result, 2, 5, 6), test_utils=tests)


@NOT_ON_FIBERS
def test_compiles_whole() -> None:
    multi_formation = as_called("multi_formation")

    def loss(images: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = (multi_formation(images * 2, 2, 7) ** 2).sum()
        return total

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (2, 3):
        images = place(random_images((count, 3, 5, 6))).requires_grad_()
        torch.testing.assert_close(compiled(images), loss(images))
        found, wanted = (torch.autograd.grad(run(images), images)[0] for run in (compiled, loss))
        torch.testing.assert_close(found, wanted)


@NOT_ON_CPU
@pytest.mark.parametrize(
    ("images", "factor", "size"),
    [
        ((1 << 28, 3, 8, 8), 2, 8),  # columns of all planes beyond 2^31
        ((1, 1, 2, (1 << 22) + 1), 1, 2),  # a side whose shares float32 cannot hold
        ((1, 1, 2, 2), 1, (1 << 22) + 1),
        ((1, 1, 1 << 16, 1 << 15), 1, 8),  # pixels of an image beyond 2^31
        ((1, 1, 1 << 15, 2), 1, 1 << 15),  # a product of two sides beyond 2^31
    ],
)
@pytest.mark.parametrize("backward", [False, True])
def test_sizes_beyond_32_bits_are_refused(
    images: tuple[int, ...], factor: int, size: int, backward: bool
) -> None:
    module, launch = kernels()
    shape = (images[0] * factor**2, images[1], size, size)
    result = without_memory(shape, torch.float32)
    given = without_memory(images, torch.float32)
    run = partial(module.multi_formation, given, factor, 0.5, result, launch)
    if backward:
        run = partial(module.multi_formation_backward, result, factor, given, launch)
    with pytest.raises(ValueError, match=r"^images are too many or too large for one call of "):
        run()
