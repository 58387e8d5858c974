from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from devices import NOT_ON_FIBERS, as_called, place
from torch.nn import functional as F

from pydream import ops
from pydream.ops.augment import WORDS
from pydream.ops.reference import augment as reference

# Of pixels up to about 4, after some ten operations in float32.
COLOUR_ATOL = 1e-5
# A bilinear read's place is rounded to about 2^-23 of its column or row, up to 111, and the pixels
# around it are up to 8 apart; in the adjoint several reads come together in a pixel.
PLACE_ATOL = 5e-4
# Their own rounding, of pixels up to about 4 (and of sums of some of them in the adjoint).
HALF_RTOL = {torch.float16: 1e-3, torch.bfloat16: 8e-3}

SHAPES = [(6, 3, 32, 32), (4, 1, 28, 28), (6, 3, 19, 111), (2, 5, 7, 1), (3, 9, 1, 5), (2, 3, 1, 1)]
# One image that shared memory holds no more.
LARGE = (2, 3, 80, 90)
STRATEGIES = ["color_crop_cutout", "flip", "color_scale", "rotate_cutout", "_".join(WORDS)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
IDENTITY = [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def images(
    shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def row(**columns: float | list[float]) -> torch.Tensor:
    """Parameters (1, 13) that change nothing but what is named."""
    values = torch.tensor([IDENTITY])
    for name, value in columns.items():
        values[:, getattr(reference, name.upper())] = torch.tensor(value)
    return values


def affine(*maps: list[float]) -> torch.Tensor:
    return torch.cat([row(affine=affine) for affine in maps])


def augmented(
    x: torch.Tensor, parameters: torch.Tensor, upstream: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented images, and the derivative along `upstream`."""
    x = place(x).clone().requires_grad_()
    result = ops.diff_augment(x, place(parameters))
    (slope,) = torch.autograd.grad(result, x, upstream.to(result.device))
    return result.detach().cpu(), slope.cpu()


def exact(
    x: torch.Tensor, parameters: torch.Tensor, upstream: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in float64 by torch.nn.functional."""
    wide = x.double().requires_grad_()
    rows = parameters.double().repeat_interleave(len(x) // len(parameters), 0)
    result = torch.stack([one(*pair) for pair in zip(wide, rows, strict=True)])
    (slope,) = torch.autograd.grad(result, wide, upstream.double())
    return result.detach(), slope


def one(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    brightness, saturation, contrast, a, b, tx, c, d, ty, top, left, tall, wide = values.tolist()
    x = x + brightness
    x = saturation * (x - x.mean(0)) + x.mean(0)
    x = contrast * (x - x.mean()) + x.mean()
    height, width = x.shape[1:]
    down, across = torch.meshgrid(
        torch.arange(height).double(), torch.arange(width).double(), indexing="ij"
    )
    # With align_corners=False, -1 and 1 are the outer edges of the pixels 0 and side - 1.
    grid = torch.stack(
        [
            (2 * (a * across + b * down + tx) + 1) / width - 1,
            (2 * (c * across + d * down + ty) + 1) / height - 1,
        ],
        -1,
    )
    x = F.grid_sample(x[None], grid[None], align_corners=False)[0]
    erased = (down >= top) & (down < top + tall) & (across >= left) & (across < left + wide)
    return torch.where(erased, 0.0, x)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_formula_and_its_derivative(isa: str, shape: tuple[int, ...], strategy: str) -> None:
    x, upstream = images(shape), images(shape, 1)
    parameters = ops.random_augment(shape[0], shape[2:], strategy, seed=5)
    found = augmented(x, parameters, upstream)
    moved = any(word in strategy for word in ("scale", "rotate"))
    for mine, wanted in zip(found, exact(x, parameters, upstream), strict=True):
        assert mine.dtype == torch.float32
        assert mine.is_contiguous()
        atol = PLACE_ATOL if moved else COLOUR_ATOL
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-5, atol=atol)


# Sheared, shrunk, blown up, all pixels read at one place or on one line, far outside.
MAPS = [
    [1.0, 0.3, -2.5, -0.2, 1.1, 3.25],
    [2.5, 0.0, -4.0, 0.0, 3.0, 1.0],
    [0.2, 0.1, 4.0, -0.05, 0.3, 6.0],
    [0.0, 0.0, 4.25, 0.0, 0.0, 6.5],
    [1.0, 0.5, 0.25, 2.0, 1.0, -3.0],
    [0.0, 1.0, 0.5, -1.0, 0.0, 18.0],
    [1.0, 0.0, 1e30, 0.0, 1.0, -1e30],
    [-1.0, 0.0, 7.0, 0.0, -1.0, 200.0],
]


@pytest.mark.parametrize("shape", [(8, 3, 19, 23), (8, 6, 5, 4)], ids=str)
def test_any_map(isa: str, shape: tuple[int, ...]) -> None:
    x, upstream = images(shape), images(shape, 1)
    parameters = affine(*MAPS)
    parameters[:, 2] = 0.75
    found = augmented(x, parameters, upstream)
    for mine, wanted in zip(found, exact(x, parameters, upstream), strict=True):
        # In singular maps a pixel sums the whole of `upstream`.
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-5, atol=10 * PLACE_ATOL)


def test_images_larger_than_shared_memory(isa: str) -> None:
    x, upstream = images(LARGE), images(LARGE, 1)
    parameters = ops.random_augment(2, LARGE[2:], "color_rotate_cutout", seed=1)
    found = augmented(x, parameters, upstream)
    for mine, wanted in zip(found, exact(x, parameters, upstream), strict=True):
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-5, atol=PLACE_ATOL)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_half_precision_is_rounded_once(isa: str, dtype: torch.dtype) -> None:
    shape = (6, 3, 17, 12)
    x, upstream = images(shape, dtype=dtype), images(shape, 1, dtype)
    parameters = ops.random_augment(6, shape[2:], STRATEGIES[-1], seed=2)
    found = augmented(x, parameters, upstream)
    for mine, wanted in zip(found, exact(x, parameters, upstream), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), wanted, rtol=HALF_RTOL[dtype], atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shifts_and_mirrors_are_copies(isa: str, dtype: torch.dtype) -> None:
    x = images((1, 3, 9, 13), dtype=dtype)
    for sign_x, sign_y, shift in itertools.product((1, -1), (1, -1), (-14, -3, 0, 5, 12)):
        base_x, base_y = (0 if sign_x > 0 else 12), (0 if sign_y > 0 else 8)
        parameters = row(affine=[sign_x, 0, base_x + shift, 0, sign_y, base_y - shift])
        wanted = torch.zeros_like(x)
        for v, u in itertools.product(range(9), range(13)):
            across, down = sign_x * u + base_x + shift, sign_y * v + base_y - shift
            if 0 <= across < 13 and 0 <= down < 9:
                wanted[..., v, u] = x[..., down, across]
        result, slope = augmented(x, parameters, torch.ones_like(x))
        assert result.equal(wanted)
        read = augmented(torch.ones_like(x), parameters, torch.ones_like(x))[0]
        assert slope.sum() == read.sum()
        assert set(slope.unique().tolist()) <= {0.0, 1.0}


def test_the_identity_changes_nothing(isa: str) -> None:
    x, upstream = images((3, 3, 19, 8)), images((3, 3, 19, 8), 1)
    result, slope = augmented(x, row(), upstream)
    assert result.equal(x)
    assert slope.equal(upstream)


CUTOUTS = [
    (2, 3, 4, 5),
    (-2, -3, 4, 5),
    (7, 9, 40, 1),
    (1.5, 2.25, 2, 2),
    (0, 0, 0, 5),
    (3, 3, -1, 2),
]


@pytest.mark.parametrize("cutout", CUTOUTS)
def test_cutouts_are_clipped(isa: str, cutout: tuple[float, ...]) -> None:
    top, left, height, width = cutout
    names = ("cutout_top", "cutout_left", "cutout_height", "cutout_width")
    parameters = row(**dict(zip(names, cutout, strict=True)))
    x = torch.ones(1, 2, 9, 11)
    wanted = x.clone()
    for v, u in itertools.product(range(9), range(11)):
        if top <= v < top + height and left <= u < left + width:
            wanted[..., v, u] = 0
    result, slope = augmented(x, parameters, x)
    assert result.equal(wanted)
    assert slope.equal(wanted)


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_rows_go_by_consecutive_images(rows: int) -> None:
    x = images((6, 3, 8, 8))
    parameters = ops.random_augment(rows, 8, STRATEGIES[-1])
    result = ops.diff_augment(x, parameters)
    for i in range(6):
        alone = ops.diff_augment(x[i : i + 1], parameters[i // (6 // rows)][None])
        assert result[i : i + 1].equal(alone)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_derivative_is_the_adjoint(isa: str, strategy: str) -> None:
    """<A x, g> is <x, Aᵀ g> for the linear part, in sums of float64."""
    shape = (8, 3, 21, 16)
    x, upstream = images(shape), images(shape, 1)
    parameters = ops.random_augment(8, shape[2:], strategy, seed=7)
    parameters[:, 0] = 0.0
    result, slope = augmented(x, parameters, upstream)
    ours = (result.double() * upstream.double()).sum((1, 2, 3))
    theirs = (x.double() * slope.double()).sum((1, 2, 3))
    # Sums of a thousand products of either sign, each with an error of 1e-6 at most.
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("strategy", ["color_crop_cutout", "color_rotate_cutout"])
def test_differentiable_twice(isa: str, strategy: str) -> None:
    shape = (4, 3, 9, 12)
    parameters = ops.random_augment(4, shape[2:], strategy, seed=3)

    def second(
        augment: Callable[..., torch.Tensor],
        start: torch.Tensor,
        along: torch.Tensor,
        parameters: torch.Tensor,
    ) -> torch.Tensor:
        loss = augment(start, parameters).pow(3).sum()
        (slope,) = torch.autograd.grad(loss, start, create_graph=True)
        return torch.autograd.grad((slope * along).sum(), start)[0]

    x, along = images(shape), images(shape, 1)
    found = second(ops.diff_augment, place(x).requires_grad_(), place(along), place(parameters))
    wide = x.double().requires_grad_()
    wanted = second(reference.diff_augment, wide, along.double(), parameters.double())
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found.cpu().double(), wanted, rtol=1e-4, atol=1e-4 * scale)


@NOT_ON_FIBERS
def test_reference_passes_gradcheck() -> None:
    x = images((2, 2, 5, 4)).double().requires_grad_()
    parameters = ops.random_augment(2, (5, 4), "color_rotate_cutout", seed=1).double()
    augment = reference.diff_augment
    assert torch.autograd.gradcheck(lambda x: augment(x, parameters), (x,))
    assert torch.autograd.gradgradcheck(lambda x: augment(x, parameters), (x,))


def test_reference_is_the_formula() -> None:
    shape = (6, 3, 19, 11)
    x, upstream = images(shape), images(shape, 1)
    parameters = ops.random_augment(3, shape[2:], STRATEGIES[-1], seed=9)
    wanted, slope = exact(x, parameters, upstream)
    wide = reference.diff_augment(x.double(), parameters)
    torch.testing.assert_close(wide, wanted, rtol=0.0, atol=1e-12)
    found = reference.diff_augment_adjoint(upstream.double(), parameters)
    torch.testing.assert_close(found, slope, rtol=0.0, atol=1e-12)


def test_parameters_get_no_gradient() -> None:
    x = place(images((2, 3, 4, 4))).requires_grad_()
    parameters = place(ops.random_augment(1, 4)).requires_grad_()
    as_called("diff_augment")(x, parameters).sum().backward()
    assert x.grad is not None
    assert parameters.grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("column", range(reference.COLUMNS))
def test_numbers_of_no_meaning_do_no_harm(isa: str, column: int, bad: float) -> None:
    x = images((1, 3, 6, 5))
    parameters = ops.random_augment(1, (6, 5), "color_rotate_cutout")
    parameters[:, column] = bad
    result, slope = augmented(x, parameters, x)
    assert result.shape == slope.shape == x.shape


def test_strides_and_arrays(isa: str) -> None:
    x, parameters = images((4, 3, 10, 7)), ops.random_augment(2, (10, 7), STRATEGIES[-1])
    wanted = ops.diff_augment(x, parameters)
    for given in (
        x.to(memory_format=torch.channels_last),
        x.repeat_interleave(2, 3)[..., ::2],
        x.numpy(),
    ):
        found = ops.diff_augment(given, parameters)
        assert found.is_contiguous()
        assert found.equal(wanted)
    assert ops.diff_augment(x, parameters.repeat_interleave(2, 1)[:, ::2]).equal(wanted)
    assert ops.diff_augment(x, np.asarray(parameters)).equal(wanted)
    expanded = augmented(x, parameters, torch.ones(()).expand(x.shape))[1]
    assert expanded.equal(augmented(x, parameters, torch.ones(x.shape))[1])


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (4, 0, 8, 8), (4, 3, 0, 8), (4, 3, 8, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    result, slope = augmented(torch.zeros(shape), row().expand(2, -1), torch.zeros(shape))
    assert result.shape == slope.shape == shape
    assert ops.diff_augment(torch.zeros(0, 3, 8, 8), torch.zeros(0, 13)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_matter(threads: int, on_cpu: None) -> None:
    x, upstream = images((60, 3, 32, 32)), images((60, 3, 32, 32), 1)
    parameters = ops.random_augment(60, 32, STRATEGIES[-1])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    wanted = augmented(x, parameters, upstream)
    torch.set_num_threads(threads)
    found = augmented(x, parameters, upstream)
    torch.set_num_threads(before)
    assert all(map(torch.equal, found, wanted))


X, ROWS = torch.ones(4, 3, 5, 5), torch.zeros(2, 13)


@pytest.mark.parametrize(
    ("x", "parameters", "error", "message"),
    [
        (X.int(), ROWS, TypeError, "x must be float32 or float16 or bfloat16 or float64, got int"),
        (X, ROWS.double(), TypeError, "parameters must be float32, got float64"),
        (X[0], ROWS, ValueError, r"x must have shape \(N, C, H, W\), got \(3, 5, 5\)"),
        ("a", ROWS, TypeError, "x must be a tensor or speak DLPack, got str"),
        (X, ROWS.half(), TypeError, "parameters must be float32, got float16"),
        (X, ROWS[:, :12], ValueError, r"parameters must have shape \(M, 13\), got \(2, 12\)"),
        (X[:3], ROWS, ValueError, "parameters: 3 images are not a multiple of 2 rows"),
        (X, ROWS[:0], ValueError, "parameters: 4 images are not a multiple of 0 rows"),
        (
            torch.ones(1).expand(1, 1, 2**16, 2**15),
            ROWS[:1],
            ValueError,
            r"x must have planes of less than 2\^31 pixels, got shape \(1, 1, 65536, 32768\)",
        ),
    ],
)
def test_refuses(x: Any, parameters: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.diff_augment(x, parameters)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", [1, 2, 32, (19, 111), (224, 7)])
def test_draws_are_those_of_the_reference(size: int | tuple[int, int], strategy: str) -> None:
    words = strategy.split("_")
    found = ops.random_augment(300, size, strategy, seed=2**40 + 3)
    sides = (size, size) if isinstance(size, int) else size
    spatial = [name for name in reference.SPATIAL if name in words]
    wanted = reference.random_augment(
        300, sides, "color" in words, spatial, "cutout" in words, 2**40 + 3
    )
    # A sine of one library and of another one may be rounded to two floats; the rest is exact.
    rtol = 1e-6 if "rotate" in words else 0.0
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol * max(sides))


def test_a_row_depends_on_the_seed_and_its_number_alone() -> None:
    many = ops.random_augment(50, 32, seed=4)
    assert ops.random_augment(7, 32, seed=4).equal(many[:7])
    assert not ops.random_augment(50, 32, seed=5).equal(many)
    assert len(many.unique(dim=0)) == 50
    assert ops.random_augment(50, 32, "cutout_color_crop", seed=4).equal(many)
    assert ops.random_augment(50, (32, 32), seed=4).equal(many)
    assert ops.random_augment(50, 32, "color", seed=4)[:, :3].equal(many[:, :3])
    assert ops.random_augment(0, 32).shape == (0, 13)


def test_what_is_not_named_changes_nothing() -> None:
    identity = torch.tensor(IDENTITY).expand(20, -1)
    for word, columns in [("color", range(3)), ("crop", range(3, 9)), ("cutout", range(9, 13))]:
        drawn = ops.random_augment(20, 32, word)
        others = [i for i in range(13) if i not in columns]
        assert drawn[:, others].equal(identity[:, others])
        assert not drawn.equal(identity)


def test_the_ranges_are_those_of_dsa() -> None:
    drawn = ops.random_augment(4000, (32, 20), "color_crop_cutout").double()
    for column, low, high in [(0, -0.5, 0.5), (1, 0.0, 2.0), (2, 0.5, 1.5)]:
        assert low <= drawn[:, column].min() < low + 0.01
        assert high - 0.01 < drawn[:, column].max() <= high
        # The standard deviation of a mean of 4000 draws is 0.0046 of the range.
        assert drawn[:, column].mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    for column, most in [(5, 3), (8, 4)]:  # an eighth of 20, and of 32
        assert drawn[:, column].unique().tolist() == list(range(-most, most + 1))
    assert drawn[:, 9].unique().tolist() == list(range(-8, 25))  # 16 of 32 rows
    assert drawn[:, 10].unique().tolist() == list(range(-5, 16))  # 10 of 20 columns
    assert drawn[:, 11:].unique(dim=0).tolist() == [[16.0, 10.0]]
    odd = ops.random_augment(4000, 18, "cutout")
    assert odd[:, 9].unique().tolist() == list(range(-4, 14))  # 9 of 18 rows


def test_each_row_has_one_of_the_spatial_ones() -> None:
    drawn = ops.random_augment(8000, 33, "crop_flip_scale_rotate").double()
    a, b, tx, c, d, ty = drawn[:, 3:9].unbind(1)
    rotated, mirrored = b != 0, a == -1
    scaled = (b == 0) & (a.abs() != 1)
    # Of 8000 rows a quarter each, give or take five standard deviations; of flips half are none.
    assert int(rotated.sum()) == pytest.approx(2000, abs=200)
    assert int(scaled.sum()) == pytest.approx(2000, abs=200)
    assert int(mirrored.sum()) == pytest.approx(1000, abs=150)
    assert tx[mirrored].unique().tolist() == [32.0]
    turned = torch.atan2(c, a)[rotated]
    assert float(turned.abs().max()) == pytest.approx(math.radians(15), rel=0.01)
    torch.testing.assert_close(a[rotated] ** 2 + b[rotated] ** 2, torch.ones_like(turned))
    for factor in (a[scaled], d[scaled]):
        assert float(factor.min()) == pytest.approx(1 / 1.2, abs=0.005)
        assert float(factor.max()) == pytest.approx(1.2, abs=0.005)
    for kind in (rotated, scaled):  # the centre, 16, stays
        for moved in (a * 16 + b * 16 + tx, c * 16 + d * 16 + ty):
            torch.testing.assert_close(moved[kind], torch.full_like(moved[kind], 16.0))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((-1, 32), {}, ValueError, "count must be at least 0, got -1"),
        ((1.5, 32), {}, TypeError, "count must be an int, got float"),
        ((1, 0), {}, ValueError, "size must be at least 1, got 0"),
        ((1, (8, 8, 3)), {}, ValueError, r"size must be a number or height and width, got \(8, 8"),
        ((1, 2**25), {}, ValueError, "size must be at most 16777216 pixels, got 33554432"),
        ((1, (8, 2.0)), {}, TypeError, "size must be an int, got float"),
        ((1, 8, "color_zoom"), {}, ValueError, "color, crop, cutout, flip, scale, rotate, .*_zoom"),
        ((1, 8, "crop_crop"), {}, ValueError, "strategy must be .* each once, .* 'crop_crop'"),
        ((1, 8, ""), {}, ValueError, "strategy must be some of"),
        ((1, 8), {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ],
)
def test_draws_refuse(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.random_augment(*arguments, **options)


@NOT_ON_FIBERS
def test_opcheck_and_compile() -> None:
    x, parameters = place(images((4, 3, 9, 8))), place(ops.random_augment(2, (9, 8)))
    for op in (torch.ops.pydream.diff_augment, torch.ops.pydream.diff_augment_adjoint):
        for given in (x.clone(), x.to(memory_format=torch.channels_last), x.half()):
            torch.library.opcheck(op, (given.requires_grad_(), parameters))

    def augment(x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = as_called("diff_augment")(x * 2, parameters).square().sum()
        return total

    compiled = torch.compile(augment, fullgraph=True, backend="aot_eager")
    start = x.clone().requires_grad_()
    wanted = torch.autograd.grad(augment(start, parameters), start)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled(start, parameters), start)[0], wanted)


@NOT_ON_FIBERS
def test_draws_are_part_of_a_compiled_graph() -> None:
    def draw(seed: int) -> torch.Tensor:
        return ops.random_augment(3, (9, 8), seed=seed) * 2

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    for seed in (3, 4, 5):
        assert compiled(seed).equal(draw(seed))
    torch.library.opcheck(
        torch.ops.pydream.random_augment, (3, [9, 8], True, [0, 3], True, 5),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip
