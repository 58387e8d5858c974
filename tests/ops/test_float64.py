"""Ops with a derivative in float64, where torch.autograd.gradcheck can look at them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from devices import as_called
from every_op import ARGUMENTS, DIFFERENTIABLE
from torch.autograd import gradcheck, gradgradcheck

from pydream.ops.matching import METRICS

# Of the largest value: what float32 kernels round, beside float64 on the same arguments.
ROUNDING = 1e-5


def double(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def distance(metric: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    op, real = as_called("gradient_distance"), [double((3, 4), 1), double((5,), 2)]
    return lambda x, y: op([x, y], real, metric)


def block(statistics: str) -> Callable[..., torch.Tensor]:
    op = as_called("norm_relu_pool")
    return lambda x, weight, bias: op(x, weight, bias, statistics)


def augmented(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    op, rows = as_called("diff_augment"), ARGUMENTS["diff_augment"]["parameters"].to(dtype)
    return lambda x: op(x, rows)


def formed(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = as_called("multi_formation")(x, 2, 5)
    return result


CASES = [
    *((f"distance {metric}", distance(metric), [(3, 4), (5,)]) for metric in METRICS),
    *(
        (f"block {statistics}", block(statistics), [(2, 2, 4, 5), (2,), (2,)])
        for statistics in ("instance", "batch")
    ),
    *(
        (f"augment {dtype}", augmented(dtype), [(2, 3, 5, 4)])
        for dtype in (torch.float32, torch.double)
    ),
    ("formation", formed, [(1, 2, 5, 4)]),
]


@pytest.mark.parametrize(
    ("function", "shapes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_passes_gradcheck_twice(
    function: Callable[..., torch.Tensor], shapes: list[tuple[int, ...]]
) -> None:
    inputs = [double(shape, 5 + i).requires_grad_() for i, shape in enumerate(shapes)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of kernels that are missing, for instance
        assert function(*inputs).dtype == torch.float64
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_agrees_with_the_kernels_of_float32(name: str) -> None:
    op, arguments = as_called(name), ARGUMENTS[name]
    wide = {
        key: [tensor.double() for tensor in value]
        if isinstance(value, list)
        else value.double()
        if isinstance(value, torch.Tensor)
        else value
        for key, value in arguments.items()
    }
    expected, found = op(**arguments), op(**wide)
    assert found.dtype == torch.float64
    assert found.shape == expected.shape
    scale = float(found.abs().max())
    torch.testing.assert_close(expected.double(), found, rtol=0.0, atol=ROUNDING * scale)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_of_nothing_and_of_equal_lists(metric: str) -> None:
    op = as_called("gradient_distance")
    empty = torch.empty(0, 3, dtype=torch.float64)
    assert op([empty], [empty], metric).dtype == torch.float64
    x = double((3, 4)).requires_grad_()
    (slope,) = torch.autograd.grad(op([x], [x.detach()], metric), x)
    assert slope.isfinite().all()


def test_real_gradients_get_no_gradient() -> None:
    x, y = double((3, 4)).requires_grad_(), double((3, 4), 1).requires_grad_()
    as_called("gradient_distance")([x], [y]).backward()
    assert x.grad is not None
    assert y.grad is None


def test_an_adjoint_without_kernels_works_within_an_op() -> None:
    """As on a GPU that the build has no kernels for, where autograd is off within an op."""
    from pydream.ops.reference import augment

    library = torch.library.Library("pydream_test", "FRAGMENT")
    library.define("adjoint(Tensor x, Tensor rows) -> Tensor")
    library.impl("adjoint", augment.diff_augment_adjoint, "CompositeExplicitAutograd")
    torch.library.register_autograd(
        "pydream_test::adjoint", lambda ctx, slope: (slope, None), lib=library
    )
    x, rows = double((2, 3, 5, 4)), ARGUMENTS["diff_augment"]["parameters"]
    expected = augment.diff_augment_adjoint(x, rows)
    for given in (x, x.clone().requires_grad_()):
        assert torch.ops.pydream_test.adjoint(given, rows).equal(expected)
    with torch.inference_mode():
        assert torch.ops.pydream_test.adjoint(x, rows).equal(expected)
