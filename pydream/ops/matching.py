"""Distances between the gradients of a network on synthetic and on real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pydream import _C
from pydream.allocator import in_large_pages
from pydream.ops import _dispatch
from pydream.ops._checks import (
    TensorLike,
    as_list,
    as_tensor,
    check_choice,
    check_device,
    check_dtype,
    within_memory,
)
from pydream.ops._view import FLOATS, MOST_DIMENSIONS, View, contiguous_view, view
from pydream.ops.reference import matching as reference

METRICS = ("mse", "l1", "l1_mean", "l2", "cos", "dc")


@within_memory
def gradient_distance(
    synthetic: Sequence[TensorLike], real: Sequence[TensorLike], metric: str = "mse"
) -> Tensor:
    """Measure the distance between two lists of gradients, summed over the layers.

    For a layer x of `synthetic` and y of `real`, whose rows run along the first dimension:

    | metric | distance |
    |---|---|
    | ``mse`` | Σ (x − y)² |
    | ``l1`` | Σ abs(x − y) |
    | ``l1_mean`` | Σ over rows of the mean over the row of abs(x − y) |
    | ``l2`` | sqrt( Σ (x − y)² ) |
    | ``cos`` | Σ over rows of 1 − ⟨x, y⟩ / (‖x‖·‖y‖ + 1e-6) |
    | ``dc`` | the same, without layers of one dimension (norm and bias) |

    Value and derivative are computed in one pass over the lists, so a backward pass reads neither
    list again. Differentiable in `synthetic`, twice; PyTorch's operations compute the second
    derivative. `real` is a constant.

    Parameters
    ----------
    synthetic, real
        Lists of the same length, of tensors with pairwise equal shapes: float32, float16 or
        bfloat16, on one device. All of them may be float64; there is no kernel for these, and
        PyTorch's operations run.
    metric
        A metric of the table.

    Returns
    -------
    Tensor
        float32 (), or float64 for lists in float64; summed in float64 on the CPU. A derivative that
        does not exist is 0: of an absolute value at 0, of ``l2`` at equal lists, of the length of a
        row of zeros.

    Raises
    ------
    TypeError
        For any other dtype or type, including None, which ``torch.autograd.grad(...,
        allow_unused=True)`` returns for a parameter without a gradient.
    ValueError
        For lists of different lengths, pairs of different shapes, tensors on two devices, or an
        unknown metric.

    Notes
    -----
    Sources: Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021 (``dc``); Kim et
    al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022; DREAM
    (arXiv 2302.14416) and DREAM+ (arXiv 2310.15052).
    """
    layers, y = _pairs(synthetic, real, metric)
    kept, metric = _compared(layers, metric)
    if not kept:
        return _nothing(layers)
    x, y = [layers[i] for i in kept], [y[i] for i in kept]
    if x[0].dtype == torch.float64:
        y = [layer.detach() for layer in y]
        return reference.gradient_distance(x, y, metric)
    distance: Tensor
    if torch.is_grad_enabled() and any(layer.requires_grad for layer in x):
        distance = _Distance.apply(metric, len(x), *x, *y)
    else:
        distance, _ = torch.ops.pydream.gradient_distance(x, y, metric, False)
    return distance


def distance_and_slopes(
    synthetic: Sequence[TensorLike], real: Sequence[TensorLike], metric: str = "mse"
) -> tuple[Tensor, list[Tensor]]:
    """Measure the distance between two lists of gradients, and its derivatives.

    ``torch.autograd.grad(synthetic, inputs, slopes)`` then goes on to whatever `synthetic` depends
    on. The backward pass of `gradient_distance` does the same, but on a GPU it multiplies all
    derivatives by a factor that the host does not know to be 1.

    Parameters
    ----------
    synthetic, real, metric
        The two lists and the metric, as `gradient_distance` takes them.

    Returns
    -------
    tuple[Tensor, list[Tensor]]
        The distance, and its derivative by each tensor of `synthetic`, of the same shape and dtype.
        Neither requires gradients.

    Raises
    ------
    TypeError, ValueError
        For whatever `gradient_distance` refuses.
    """
    layers, y = _pairs(synthetic, real, metric)
    kept, metric = _compared(layers, metric)
    if not kept:
        return _nothing(layers), [torch.zeros_like(layer) for layer in layers]
    wide = layers[0].dtype == torch.float64
    measure = reference.value_and_gradients if wide else torch.ops.pydream.gradient_distance
    with torch.no_grad():
        value, found = measure([layers[i] for i in kept], [y[i] for i in kept], metric, True)
    slopes = dict(zip(kept, found, strict=True))
    return value, [
        slopes[i] if i in slopes else torch.zeros_like(layer) for i, layer in enumerate(layers)
    ]


def _compared(layers: list[Tensor], metric: str) -> tuple[list[int], str]:
    """Return which layers are compared, and by which metric of the kernels."""
    if metric == "dc":
        return [i for i, layer in enumerate(layers) if layer.dim() > 1], "cos"
    return list(range(len(layers))), metric


def _nothing(layers: list[Tensor]) -> Tensor:
    """Return the distance of no layers."""
    dtype = torch.float64 if layers and layers[0].dtype == torch.float64 else torch.float32
    return torch.zeros((), dtype=dtype, device=layers[0].device if layers else "cpu")


def _pairs(
    synthetic_layers: Sequence[TensorLike], real_layers: Sequence[TensorLike], metric: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Return both lists as tensors, checked pair by pair."""
    check_choice(metric, "metric", METRICS)
    synthetic, real = as_list(synthetic_layers, "synthetic"), as_list(real_layers, "real")
    if len(synthetic) != len(real):
        raise ValueError(
            f"real must be as many tensors as synthetic, {len(synthetic)}, got {len(real)}"
        )
    x = [_layer(layer, f"synthetic[{i}]") for i, layer in enumerate(synthetic)]
    y = [_layer(layer, f"real[{i}]") for i, layer in enumerate(real)]
    # Kernels accept a dtype per layer, but not float64, which is for all layers or none.
    allowed = (torch.float64,) if x and x[0].dtype == torch.float64 else FLOATS
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        check_dtype(a, f"synthetic[{i}]", *(allowed if i else (*FLOATS, torch.float64)))
        check_dtype(b, f"real[{i}]", a.dtype)
        if a.shape != b.shape:
            raise ValueError(
                f"real[{i}] must have the shape of synthetic[{i}], {tuple(a.shape)}, "
                f"got {tuple(b.shape)}"
            )
        check_device(a, f"synthetic[{i}]", x[0].device, "synthetic[0]")
        check_device(b, f"real[{i}]", x[0].device, "synthetic[0]")
    return x, y


def _layer(value: TensorLike, name: str) -> Tensor:
    if value is None:
        raise TypeError(
            f"{name} is None, a parameter without a gradient (allow_unused=True?): leave it out of "
            "both lists, or pass zeros"
        )
    return as_tensor(value, name)


class _Distance(torch.autograd.Function):
    """The op, with the derivative computed along with the value."""

    @staticmethod
    def forward(ctx: Any, metric: str, count: int, *lists: Tensor) -> Tensor:
        synthetic, real = list(lists[:count]), list(lists[count:])
        wanted = any(ctx.needs_input_grad[2 : 2 + count])
        value, gradients = torch.ops.pydream.gradient_distance(synthetic, real, metric, wanted)
        ctx.metric, ctx.count = metric, count
        ctx.save_for_backward(*lists, *gradients)
        distance: Tensor = value
        return distance

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        saved, count = ctx.saved_tensors, ctx.count
        synthetic, real, gradients = saved[:count], saved[count : 2 * count], saved[2 * count :]
        if torch.is_grad_enabled():  # for a second derivative
            value = reference.gradient_distance(synthetic, [y.detach() for y in real], ctx.metric)
            needed = [i for i in range(count) if ctx.needs_input_grad[2 + i]]
            found = torch.autograd.grad(
                value, [synthetic[i] for i in needed], upstream, create_graph=True
            )
            slopes: list[Tensor | None] = [None] * count
            for i, slope in zip(needed, found, strict=True):
                slopes[i] = slope
            return (None, None, *slopes, *[None] * count)
        # A GPU does not know the factor on the host, and a compiled graph must serve any factor.
        known = upstream.device.type == "cpu" and not torch.compiler.is_compiling()
        if not (known and float(upstream) == 1.0):
            gradients = torch._foreach_mul(gradients, upstream)
        return (None, None, *gradients, *[None] * count)


def _lists(
    x: list[Tensor], y: list[Tensor], gradients: list[Tensor]
) -> tuple[list[View], list[int], list[int]]:
    """Return the kernels' arguments for two lists of layers and a third of derivatives."""
    return (
        [contiguous_view(_few_dimensions(layer)) for layer in x],
        [layer.data_ptr() for layer in y],
        [gradient.data_ptr() for gradient in gradients],
    )


def _few_dimensions(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor, reshaped to the rank of a view, with the same rows."""
    return tensor if tensor.dim() <= MOST_DIMENSIONS else tensor.flatten(1)


def _prepare(
    synthetic: list[Tensor], real: list[Tensor], with_gradient: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    x = [layer.contiguous() for layer in synthetic]
    gradients = [in_large_pages(torch.empty_like(layer)) for layer in x] if with_gradient else []
    return x, [layer.contiguous() for layer in real], gradients


def _cpu_gradient_distance(
    synthetic: list[Tensor], real: list[Tensor], metric: str, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    x, y, gradients = _prepare(synthetic, real, with_gradient)
    value = _C.gradient_distance_cpu(*_lists(x, y, gradients), metric, torch.get_num_threads())
    return torch.tensor(value, dtype=torch.float32, device="cpu"), gradients


def _cuda_gradient_distance(
    launch: _dispatch.Launch,
    synthetic: list[Tensor],
    real: list[Tensor],
    metric: str,
    with_gradient: bool,
) -> tuple[Tensor, list[Tensor]]:
    x, y, gradients = _prepare(synthetic, real, with_gradient)
    layers = launch.module.LayerList(*_lists(x, y, gradients))
    # A second launch writes the value of l2; the others count finished blocks from 0.
    written = metric == "l2" and any(layer.numel() for layer in x)
    make = x[0].new_empty if written else x[0].new_zeros
    workspace = make(layers.words(metric), dtype=torch.float32)
    launch.module.gradient_distance(layers, metric, view(workspace), launch)
    return workspace[0], gradients


def _fake_gradient_distance(
    synthetic: list[Tensor], real: list[Tensor], metric: str, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    gradients = [torch.empty_like(layer) for layer in synthetic] if with_gradient else []
    return synthetic[0].new_empty((), dtype=torch.float32), gradients


_dispatch.register(
    "gradient_distance(Tensor[] synthetic, Tensor[] real, str metric, bool with_gradient)"
    " -> (Tensor value, Tensor[] gradients)",
    _cpu_gradient_distance,
    _cuda_gradient_distance,
    reference.value_and_gradients,
    _fake_gradient_distance,
)
