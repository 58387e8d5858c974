from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from devices import NOT_ON_FIBERS, place

from pydream import ops
from pydream.ops._view import MOST_DIMENSIONS
from pydream.ops.matching import METRICS, distance_and_slopes
from pydream.ops.reference import matching as reference

# The value is a sum in float64 of sums in float32 of some thousand terms, rounded to float32; a
# derivative is made of a product or two. References are formulas in float64.
VALUE_RTOL = 2e-6
SLOPE_RTOL = 2e-6
# Of 16-bit derivatives, their own rounding.
SLOPE_OF_HALF = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
# A cosine's distance is what is left of 1, row by row.
COSINE_ATOL = 1e-6

SHAPES = [(64, 3, 3, 3), (64,), (19, 111), (1,), (), (5, 0), (0, 4), (2, 70_001), (33, 1, 5)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

Tensors = list[torch.Tensor]


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def lists(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(seed)
    pair = [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(2)]
    first, second = ([layer.to(dtype) for layer in side] for side in pair)
    return first, second


def exact(x: Tensors, y: Tensors, metric: str) -> tuple[torch.Tensor, Tensors]:
    """Value and derivatives in float64, layer by layer, as dream.md's table has them."""
    wide = [layer.double().requires_grad_() for layer in x]
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(wide, (layer.double() for layer in y), strict=True):
        if a.numel() == 0 or (metric == "dc" and a.dim() < 2):
            continue
        rows = a.shape[0] if a.dim() else 1
        a, b = a.reshape(rows, -1), b.reshape(rows, -1)
        if metric == "mse":
            total = total + ((a - b) ** 2).sum()
        elif metric == "l1":
            total = total + (a - b).abs().sum()
        elif metric == "l1_mean":
            total = total + (a - b).abs().mean(dim=1).sum()
        elif metric == "l2":
            total = total + ((a - b) ** 2).sum().sqrt()
        else:
            below = (a * a).sum(1).sqrt() * (b * b).sum(1).sqrt() + 1e-6
            total = total + (1 - (a * b).sum(1) / below).sum()
    slopes = torch.autograd.grad(total, wide, allow_unused=True)
    return total.detach(), [
        torch.zeros_like(layer) if slope is None else slope
        for layer, slope in zip(wide, slopes, strict=True)
    ]


def measured(
    x: Tensors, y: Tensors, metric: str, factor: float = 1.0
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    x = [place(layer).clone().requires_grad_() for layer in x]
    value = ops.gradient_distance(x, [place(layer) for layer in y], metric)
    slopes = torch.autograd.grad(value * factor, x, allow_unused=True, materialize_grads=True)
    return value.detach().cpu(), tuple(slope.cpu() for slope in slopes)


def check_formula(x: Tensors, y: Tensors, metric: str) -> None:
    """Compare value and derivatives with those of the formula in float64."""
    value, slopes = measured(x, y, metric)
    expected, expected_slopes = exact(x, y, metric)
    assert value.dtype == torch.float32
    assert value.shape == ()
    atol = COSINE_ATOL * 150 if metric in ("cos", "dc") else 0.0  # rows
    torch.testing.assert_close(value.double(), expected, rtol=VALUE_RTOL, atol=atol)
    for a, slope, wanted in zip(x, slopes, expected_slopes, strict=True):
        assert slope.dtype == a.dtype
        rtol = SLOPE_OF_HALF.get(a.dtype, SLOPE_RTOL)
        scale = float(wanted.abs().max()) if wanted.numel() else 0.0
        if metric in ("cos", "dc") and a.numel():  # made of two parts of a length of 1 / |x|
            rows = a.double().reshape(a.shape[0] if a.dim() else 1, -1)
            scale = float(1 / (rows.norm(dim=1) + 1e-6).min())
        torch.testing.assert_close(slope.double(), wanted, rtol=rtol, atol=rtol * scale + 1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_formula_and_its_derivative(isa: str, metric: str, dtype: torch.dtype) -> None:
    check_formula(*lists(dtype=dtype), metric)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_value_and_derivatives_together_are_those_of_autograd(
    metric: str, dtype: torch.dtype
) -> None:
    x, y = lists(dtype=dtype)
    value, slopes = distance_and_slopes(
        [place(layer) for layer in x], [place(b) for b in y], metric
    )
    expected, expected_slopes = measured(x, y, metric)
    assert not value.requires_grad
    assert value.cpu().equal(expected)
    for layer, slope, wanted in zip(x, slopes, expected_slopes, strict=True):
        assert slope.dtype == layer.dtype
        assert slope.cpu().equal(wanted)


def test_layers_have_any_number_of_dimensions(isa: str, metric: str) -> None:
    """Kernels take five at most; more are flattened, and the rows stay what they were."""
    shapes = [(7, 2, 3, 1, 2, 5), (3, 1, 2, 2, 1, 1, 4), (0, 1, 2, 1, 1, 3), (2, 0, 1, 1, 1, 1)]
    assert all(len(shape) > MOST_DIMENSIONS for shape in shapes)
    generator = torch.Generator().manual_seed(12)
    x, y = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    x[0] = x[0].transpose(1, 5).contiguous().transpose(1, 5)  # in another order in memory
    check_formula(x, y, metric)
    plain, plain_slopes = reference.value_and_gradients(x, y, metric, True)
    value, slopes = measured(x, y, metric)
    torch.testing.assert_close(value, plain, rtol=VALUE_RTOL, atol=COSINE_ATOL)
    for slope, expected in zip(slopes, plain_slopes, strict=True):
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-5)


def test_an_outer_factor_reaches_the_derivative(isa: str, metric: str) -> None:
    x, y = lists(1)
    _, once = measured(x, y, metric)
    _, thrice = measured(x, y, metric, 3.0)
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(3.0 * a, b, rtol=1e-6, atol=0.0)


def test_backward_can_be_repeated(metric: str) -> None:
    x, y = lists(2)
    x = [layer.requires_grad_() for layer in x]
    value = ops.gradient_distance(x, y, metric)
    first = torch.autograd.grad(value, x, retain_graph=True, allow_unused=True)
    (value * 2).backward(retain_graph=True)
    again = torch.autograd.grad(value, x, allow_unused=True)
    assert all(a is None or a.equal(b) for a, b in zip(first, again, strict=True))


def test_differentiable_twice(metric: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 6, generator=generator).requires_grad_()
    y = torch.randn(4, 6, generator=generator)
    along = torch.randn(4, 6, generator=generator)

    def second(
        distance: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor
    ) -> torch.Tensor:
        (slope,) = torch.autograd.grad(distance(start), start, create_graph=True)
        return torch.autograd.grad((slope * along.to(start.dtype)).sum() + 0 * start.sum(), start)[
            0
        ]

    found = second(lambda x: ops.gradient_distance([x], [y], metric), x)
    wide = x.detach().double().requires_grad_()
    expected = second(lambda x: reference.layer_distance(x, y.double(), metric), wide)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@NOT_ON_FIBERS
@pytest.mark.parametrize("name", ["mse", "l2", "cos"])
def test_reference_passes_gradcheck(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 5, dtype=torch.float64, generator=generator).requires_grad_()
    y = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda x: reference.layer_distance(x, y, name), (x,))
    assert torch.autograd.gradgradcheck(lambda x: reference.layer_distance(x, y, name), (x,))


def test_through_a_network_is_as_eager(metric: str) -> None:
    """The use it is for: gradients of a loss, matched by moving the images."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    )
    images, real = torch.rand(2, 1, 6, 6).requires_grad_(), torch.rand(5, 1, 6, 6)

    def gradients(batch: torch.Tensor, create_graph: bool = False) -> tuple[torch.Tensor, ...]:
        loss = network(batch).logsumexp(1).sum()
        parameters = list(network.parameters())
        slopes: tuple[torch.Tensor, ...] = torch.autograd.grad(
            loss, parameters, create_graph=create_graph
        )
        return slopes

    target = gradients(real)
    found = torch.autograd.grad(
        ops.gradient_distance(gradients(images, create_graph=True), target, metric), images
    )[0]
    expected = torch.autograd.grad(
        exact_eager(gradients(images, create_graph=True), target, metric), images
    )[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def exact_eager(x: Sequence[torch.Tensor], y: Sequence[torch.Tensor], metric: str) -> torch.Tensor:
    kept = [layer.dim() > 1 or metric != "dc" for layer in x]
    pairs = [(a, b) for a, b, keep in zip(x, y, kept, strict=True) if keep]
    synthetic, real = zip(*pairs, strict=True)
    return reference.gradient_distance(synthetic, real, metric)


def test_equal_lists_are_at_no_distance_and_do_not_move(isa: str, metric: str) -> None:
    x, _ = lists(5)
    value, slopes = measured(x, [layer.clone() for layer in x], metric)
    # A cosine's distance is what 1e-6 is beside the square of a row's length.
    expected = exact(x, x, metric)[0] if metric in ("cos", "dc") else torch.zeros(())
    torch.testing.assert_close(value.double(), expected.double(), rtol=VALUE_RTOL, atol=1e-6)
    for slope in slopes:
        assert slope.isfinite().all()
        if metric not in ("cos", "dc"):
            assert not slope.any()


def test_rows_of_zeros(isa: str, metric: str) -> None:
    x = [torch.zeros(3, 4), torch.ones(3, 4)]
    y = [torch.ones(3, 4), torch.zeros(3, 4)]
    value, slopes = measured(x, y, metric)
    expected = {"mse": 24, "l1": 24, "l1_mean": 6, "l2": 2 * 12**0.5, "cos": 6, "dc": 6}[metric]
    assert float(value) == pytest.approx(expected)
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_matter(metric: str, threads: int, on_cpu: None) -> None:
    x, y = lists(6)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    expected = measured(x, y, metric)
    torch.set_num_threads(threads)
    found = measured(x, y, metric)
    torch.set_num_threads(before)
    assert found[0].equal(expected[0])
    assert all(a.equal(b) for a, b in zip(found[1], expected[1], strict=True))


def test_strides_arrays_and_no_gradient(isa: str, metric: str) -> None:
    x, y = lists(7)
    expected, _ = measured(x, y, metric)
    strided = [layer.repeat_interleave(2, 0)[::2] if layer.dim() else layer for layer in x]
    assert ops.gradient_distance(strided, y, metric).cpu().equal(expected)
    assert ops.gradient_distance([np.asarray(layer) for layer in x], y, metric).equal(expected)
    channels_last = [layer.to(memory_format=torch.channels_last) for layer in x[:1]]
    assert ops.gradient_distance(channels_last, y[:1], metric).equal(
        ops.gradient_distance(x[:1], y[:1], metric)
    )


def test_only_some_need_a_derivative() -> None:
    x, y = lists(8)
    x[2].requires_grad_()
    ops.gradient_distance(x, y).backward()
    torch.testing.assert_close(x[2].grad, 2 * (x[2] - y[2]).detach())
    assert all(layer.grad is None for i, layer in enumerate(x) if i != 2)


def test_more_layers_than_a_launch_takes(isa: str, metric: str) -> None:
    generator = torch.Generator().manual_seed(11)
    x, y = ([torch.randn(i % 5, 3, generator=generator) for i in range(150)] for _ in range(2))
    value, slopes = measured(x, y, metric)
    expected, expected_slopes = exact(x, y, metric)
    torch.testing.assert_close(value.double(), expected, rtol=VALUE_RTOL, atol=1e-4)
    for slope, wanted in zip(slopes, expected_slopes, strict=True):
        torch.testing.assert_close(slope.double(), wanted, rtol=1e-4, atol=1e-5)


def test_nothing_is_at_no_distance() -> None:
    assert float(ops.gradient_distance([], [])) == 0.0
    assert float(ops.gradient_distance([torch.ones(3)], [torch.zeros(3)], "dc")) == 0.0


X = [torch.ones(2, 3), torch.ones(4)]


@pytest.mark.parametrize(
    ("x", "y", "metric", "error", "message"),
    [
        (X, X[:1], "mse", ValueError, "real must be as many tensors as synthetic, 2, got 1"),
        (X, [X[1], X[1]], "mse", ValueError, r"real\[0\] must have the shape of synthetic\[0\]"),
        (X, X, "euclid", ValueError, "metric must be one of mse, l1, l1_mean, l2, cos, dc, got"),
        ([X[0].double()], [X[0]], "mse", TypeError, r"real\[0\] must be float64, got float32"),
        (
            [X[0].double(), X[1]],
            [X[0].double(), X[1]],
            "mse",
            TypeError,
            r"synthetic\[1\] must be float64, got float32",
        ),
        (X, [X[0], None], "mse", TypeError, r"real\[1\] is None, a parameter without a gradient"),
        ([X[0]], [X[0].half()], "mse", TypeError, r"real\[0\] must be float32, got float16"),
        (["a"], X[:1], "mse", TypeError, r"synthetic\[0\] must be a tensor or speak DLPack"),
    ],
)
def test_refuses(x: Any, y: Any, metric: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.gradient_distance(x, y, metric)


@NOT_ON_FIBERS
def test_opcheck_and_compile(metric: str) -> None:
    x, y = lists(9)
    x, y = place(x[:4]), place(y[:4])
    name = "cos" if metric == "dc" else metric
    tests = ("test_schema", "test_faketensor")
    for wanted in (True, False):
        arguments = (x, y, name, wanted)
        torch.library.opcheck(torch.ops.pydream.gradient_distance, arguments, test_utils=tests)

    def moved(x: torch.Tensor) -> torch.Tensor:
        return ops.gradient_distance([x * 2, x + 1], [x.detach(), x.detach()], metric)

    compiled = torch.compile(moved, fullgraph=True, backend="aot_eager")
    start = x[0].clone().requires_grad_()
    expected = torch.autograd.grad(moved(start), start)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled(start), start)[0], expected)
