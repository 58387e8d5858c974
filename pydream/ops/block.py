"""The rest of a ConvNet block after its convolution, as one op: norm, ReLU, average pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pydream import _C
from pydream.allocator import in_large_pages
from pydream.ops import _dispatch
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_choice,
    check_device,
    check_dtype,
    check_number,
    check_shape,
)
from pydream.ops._view import View, view
from pydream.ops.reference import block as reference

Statistics: TypeAlias = Literal["instance", "batch"]
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def norm_relu_pool(
    images: TensorLike,
    weight: TensorLike,
    bias: TensorLike,
    statistics: Statistics = "instance",
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel, rectify, and average cells of 2 x 2 pixels.

    ``avg_pool2d(relu(norm(images)), 2)``, where the norm is torch's ``group_norm`` with one channel
    per group, or its ``batch_norm`` in training. Differentiable twice. On the CPU, in float32,
    every pass is one kernel that saves only its inputs and the statistics. Kernels use
    channels-last memory, and images in another layout are converted. PyTorch's operations run on
    other devices, for other dtypes, and within `torch.func` and ``torch.compile``.

    Parameters
    ----------
    images
        Floating point (N, C, H, W), H and W at least 2: the output of a convolution.
    weight, bias
        Scale and shift of the norm, of the same dtype, (C,). Under autocast, where a convolution
        returns 16-bit images, the images are converted to the dtype of `weight` instead, because
        norms run in float32 there.
    statistics
        ``"instance"``: mean and variance of each image's channel; ``"batch"``: of a channel over
        all images.
    eps
        Constant added to the variance.

    Returns
    -------
    Tensor
        (N, C, H // 2, W // 2), of the same dtype. A last odd row or column affects only the
        statistics.

    Raises
    ------
    TypeError
        If a dtype is not floating point, or differs between arguments.
    ValueError
        For other shapes or statistics, tensors on two devices, or statistics over a batch without
        images.

    Notes
    -----
    The block of Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", CVPR
    2018, as DREAM+ (arXiv 2310.15052) and RDED (arXiv 2312.03526) train it.
    """
    return normed_block(images, weight, bias, statistics, eps=eps)[0]


def normed_block(
    images: TensorLike,
    weight: TensorLike,
    bias: TensorLike,
    statistics: Statistics,
    *,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result of `norm_relu_pool` and, without derivatives, mean and 1 / deviation.

    Raises
    ------
    TypeError, ValueError
        In the same cases as `norm_relu_pool`.
    """
    images, weight, bias = _checked(images, weight, bias, statistics)
    eps = check_number(eps, "eps")
    if eps < 0:
        raise ValueError(f"eps must not be negative, got {eps}")
    rest = (weight, bias, statistics == "batch", eps)
    if takes_kernels(images):
        pooled, mean, rstd = _Block.apply(_channels_last(images), *rest)
    else:
        pooled, mean, rstd = reference.with_statistics(images, *rest)
    return pooled, mean.detach(), rstd.detach()


def takes_kernels(images: Tensor) -> bool:
    """Return whether kernels run for these images."""
    plain = torch._C._functorch.peek_interpreter_stack() is None  # no torch.func around
    return images.device.type == "cpu" and images.dtype == torch.float32 and plain


def _checked(
    images: TensorLike, weight: TensorLike, bias: TensorLike, statistics: str
) -> tuple[Tensor, Tensor, Tensor]:
    images = as_tensor(images, "images")
    check_shape(images, "images", ("N", "C", "H", "W"))
    check_dtype(images, "images", *_FLOATS)
    channels, height, width = images.shape[1:]
    if min(height, width) < 2:
        raise ValueError(f"images must be 2 pixels high and wide, got {height} x {width}")
    check_choice(statistics, "statistics", ("instance", "batch"))
    if statistics == "batch" and images.shape[0] == 0:
        raise ValueError(f"images must not be empty, got shape {tuple(images.shape)}")
    parameters = []
    for value, name in ((weight, "weight"), (bias, "bias")):
        tensor = as_tensor(value, name)
        check_shape(tensor, name, (channels,))
        check_device(tensor, name, images.device, "images")
        parameters.append(tensor)
    dtype = parameters[0].dtype
    if torch.is_autocast_enabled(images.device.type) and dtype in _FLOATS:
        images = images.to(dtype)
    check_dtype(parameters[0], "weight", images.dtype)
    check_dtype(parameters[1], "bias", images.dtype)
    return images, parameters[0], parameters[1]


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        pooled, mean, rstd = torch.ops.pydream.norm_relu_pool(images, weight, bias, over_batch, eps)
        ctx.over_batch, ctx.eps = over_batch, eps
        ctx.save_for_backward(images, weight, bias, mean, rstd)
        ctx.mark_non_differentiable(mean, rstd)
        return pooled, mean, rstd

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        kept = (*ctx.saved_tensors, slopes[0])
        if torch.is_grad_enabled():  # for a second derivative
            found = _BlockBackward.apply(ctx.over_batch, ctx.eps, *kept)
        else:
            found = torch.ops.pydream.norm_relu_pool_backward(kept, ctx.over_batch, ctx.eps)
        return (*found, None, None)


class _BlockBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, over_batch: bool, eps: float, *kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.over_batch, ctx.eps = over_batch, eps
        ctx.save_for_backward(*kept)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.pydream.norm_relu_pool_backward(
            kept, over_batch, eps
        )
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *second: Tensor) -> Any:
        of_slope, of_images, of_weight = torch.ops.pydream.norm_relu_pool_second_backward(
            ctx.saved_tensors, second, ctx.over_batch, ctx.eps
        )
        return None, None, of_images, of_weight, None, None, None, of_slope


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _empty(images: Tensor, height: int, width: int) -> Tensor:
    return torch.empty(
        (*images.shape[:2], height, width),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last,
    )


def _fake_forward(
    images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    count, channels, height, width = images.shape
    mean = images.new_empty(1 if over_batch else count, channels)
    return _empty(images, height // 2, width // 2), mean, torch.empty_like(mean)


def _fake_backward(
    kept: list[Tensor], over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    images, weight, bias = kept[:3]
    return _empty(images, *images.shape[2:]), torch.empty_like(weight), torch.empty_like(bias)


def _fake_second_backward(
    kept: list[Tensor], second: list[Tensor], over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    images, weight = kept[:2]
    height, width = images.shape[2:]
    of_slope = _empty(images, height // 2, width // 2)
    return of_slope, _empty(images, height, width), torch.empty_like(weight)


def _views(tensors: Sequence[Tensor]) -> list[View]:
    return [view(tensor) for tensor in tensors]


def _cpu_forward(
    images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    images, weight, bias = _channels_last(images), weight.contiguous(), bias.contiguous()
    pooled, mean, rstd = _fake_forward(images, weight, bias, over_batch, eps)
    in_large_pages(pooled)
    _C.norm_relu_pool_cpu(
        view(images),
        view(weight),
        view(bias),
        over_batch,
        eps,
        view(pooled),
        view(mean),
        view(rstd),
        torch.get_num_threads(),
    )
    return pooled, mean, rstd


def _as_kernels_read(tensors: list[Tensor]) -> list[Tensor]:
    return [
        _channels_last(tensor) if tensor.dim() == 4 else tensor.contiguous() for tensor in tensors
    ]


def _cpu_backward(
    kept: list[Tensor], over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    kept = _as_kernels_read(kept)
    found = _fake_backward(kept, over_batch, eps)
    in_large_pages(found[0])
    threads = torch.get_num_threads()
    _C.norm_relu_pool_backward_cpu(_views(kept), over_batch, _views(found), threads)
    return found


def _cpu_second_backward(
    kept: list[Tensor], second: list[Tensor], over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    kept, second = _as_kernels_read(kept), _as_kernels_read(second)
    found = _fake_second_backward(kept, second, over_batch, eps)
    in_large_pages(found[1])
    threads = torch.get_num_threads()
    _C.norm_relu_pool_second_backward_cpu(
        _views(kept), _views(second), over_batch, _views(found), threads
    )
    return found


_END = "bool over_batch, float eps) -> (Tensor, Tensor, Tensor)"
_dispatch.register(
    f"norm_relu_pool(Tensor images, Tensor weight, Tensor bias, {_END}",
    _cpu_forward,
    None,
    reference.with_statistics,
    _fake_forward,
)
# Tensors saved: images, weight, bias, mean, 1 / deviation, and the slope of the result.
_dispatch.register(
    f"norm_relu_pool_backward(Tensor[] kept, {_END}",
    _cpu_backward,
    None,
    reference.backward,
    _fake_backward,
)
_dispatch.register(
    f"norm_relu_pool_second_backward(Tensor[] kept, Tensor[] second, {_END}",
    _cpu_second_backward,
    None,
    reference.second_backward,
    _fake_second_backward,
)
