"""The rest of a ConvNet block after its convolution, as one op: norm, ReLU, average pool."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pydream.ops import _dispatch
from pydream.ops._block import channels_last
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_choice,
    check_device,
    check_dtype,
    check_number,
    check_shape,
    within_memory,
)
from pydream.ops.reference import block as reference

Statistics: TypeAlias = Literal["instance", "batch"]
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# The transforms of torch.func in which the kernels run: others need derivatives that they lack.
_TRANSFORMS = (
    torch._C._functorch.TransformType.Vmap,
    torch._C._functorch.TransformType.Grad,
)


@within_memory
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
    per group, or its ``batch_norm`` in training. In float32 every pass is a kernel, on the CPU and
    on CUDA, that saves only its inputs and the statistics; also the second derivative, and within
    ``vmap`` and ``grad`` of `torch.func`. Kernels use channels-last memory, and images in another
    layout are converted. PyTorch's operations run for other dtypes, within ``torch.compile`` and
    other transforms of `torch.func`, for derivatives from which more are taken, and for those of
    many slopes at once (``is_grads_batched`` of ``torch.autograd.grad``).

    Parameters
    ----------
    images
        Floating point (N, C, H, W), C at least 1, H and W at least 2: the output of a convolution.
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
    over_batch = statistics == "batch"
    if takes_kernels(images):
        pooled, mean, rstd = _applied(images, weight, bias, over_batch, eps)
    else:
        _warn_without_kernels(images)
        if not torch.compiler.is_compiling() and 0 in images.stride():
            images = images.contiguous()  # an expanded tensor would take its time but no memory
        pooled, mean, rstd = reference.with_statistics(images, weight, bias, over_batch, eps)
    return pooled, mean.detach(), rstd.detach()


def takes_kernels(images: Tensor) -> bool:
    """Return whether kernels run for these images."""
    return (
        images.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and all(transform.key() in _TRANSFORMS for transform in _transforms())
        and _dispatch.has_kernels(images.device)
    )


def _transforms() -> list[Any]:
    """Return the transforms of torch.func around the caller, the outermost first."""
    return torch._C._functorch.get_interpreter_stack() or []


def _warn_without_kernels(images: Tensor) -> None:
    """Warn once if this build has no kernels for a device that could have some."""
    if images.dtype != torch.float32 or images.is_meta or torch.compiler.is_compiling():
        return
    if not _dispatch.has_kernels(images.device):
        _dispatch.warn_reference_once(images.device)


def _checked(
    images: TensorLike, weight: TensorLike, bias: TensorLike, statistics: str
) -> tuple[Tensor, Tensor, Tensor]:
    images = as_tensor(images, "images")
    check_shape(images, "images", ("N", "C", "H", "W"))
    check_dtype(images, "images", *_FLOATS)
    channels, height, width = images.shape[1:]
    if min(height, width) < 2:
        raise ValueError(f"images must be 2 pixels high and wide, got {height} x {width}")
    if channels < 1:
        raise ValueError(f"images must have a channel, got shape {tuple(images.shape)}")
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


def _applied(
    images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply `_Block` to images that the backward passes can read as they are."""
    if not _transforms():  # which know no layout
        images = channels_last(images)
    found: tuple[Tensor, Tensor, Tensor] = _Block.apply(images, weight, bias, over_batch, eps)
    return found


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        images: Tensor, weight: Tensor, bias: Tensor, over_batch: bool, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.pydream.norm_relu_pool(
            images, weight, bias, over_batch, eps
        )
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        images, weight, bias, ctx.over_batch, ctx.eps = inputs
        _, mean, rstd = output
        ctx.save_for_backward(images, weight, bias, mean, rstd)
        ctx.mark_non_differentiable(mean, rstd)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        kept = (*ctx.saved_tensors, slopes[0])
        parameters = any(ctx.needs_input_grad[1:3])
        arguments = (ctx.over_batch, ctx.eps, parameters)
        if _is_batched(slopes[0]):
            found = reference.backward(kept, *arguments)
        elif torch.is_grad_enabled() or _transforms():  # for a second derivative, or for vmap
            found = _BlockBackward.apply(*arguments, *kept)
        else:
            found = torch.ops.pydream.norm_relu_pool_backward(kept, *arguments)
        of_images, of_weight, of_bias = (*found, None, None)[:3]
        return of_images, of_weight, of_bias, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        over_batch: bool,
        eps: float,
    ) -> Any:
        count = info.batch_size
        folded = [
            _folded(tensor, dim, count)
            for tensor, dim in zip((images, weight, bias), in_dims, strict=False)
        ]
        found = _applied(folded[0], folded[1], folded[2], over_batch, eps)
        return tuple(_unfolded(tensor, count) for tensor in found), (0, 0, 0)


class _BlockBackward(torch.autograd.Function):
    """The slopes with respect to images and, if `parameters`, weight and bias."""

    @staticmethod
    def forward(
        over_batch: bool, eps: float, parameters: bool, *kept: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(torch.ops.pydream.norm_relu_pool_backward(kept, over_batch, eps, parameters))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.over_batch, ctx.eps, _, *kept = inputs
        ctx.save_for_backward(*kept)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *second: Tensor | None) -> Any:
        kept = ctx.saved_tensors
        of_images, of_weight, of_bias = (*second, None, None)[:3]
        if of_images is None:
            of_images = torch.zeros_like(kept[0])
        slopes, arguments = (of_images, of_weight, of_bias), (ctx.over_batch, ctx.eps)
        batched = any(map(_is_batched, slopes))
        # For a third derivative, or for vmap, which fails on the slopes of cuDNN's norms.
        if torch.is_grad_enabled() or _transforms() or batched:
            with torch.backends.cudnn.flags(enabled=False) if batched else nullcontext():
                found = reference.second_backward(kept, slopes, *arguments, True)
        else:
            found = torch.ops.pydream.norm_relu_pool_second_backward(
                kept, slopes, *arguments, ctx.needs_input_grad[4]
            )
        of_slope, of_images, of_weight = (*found, None)[:3]
        return None, None, None, of_images, of_weight, None, None, None, of_slope

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        over_batch: bool,
        eps: float,
        parameters: bool,
        *kept: Tensor,
    ) -> Any:
        count, dims = info.batch_size, in_dims[3:]
        folded = [_folded(tensor, dim, count) for tensor, dim in zip(kept, dims, strict=True)]
        found = _BlockBackward.apply(over_batch, eps, parameters, *folded)
        # The parameters of a part have a row, which stays one.
        one_row = kept[1].dim() - (dims[1] is not None) == 1
        slopes = (
            tensor if number and one_row else _unfolded(tensor, count)
            for number, tensor in enumerate(found)
        )
        return tuple(slopes), (0,) * len(found)


def _is_batched(slope: Tensor | None) -> bool:
    """Return whether ``torch.autograd.grad(..., is_grads_batched=True)`` gives many slopes as one.

    Its vmap is not that of `torch.func`, and knows PyTorch's operations alone.
    """
    return slope is not None and torch._C._functorch.is_legacy_batchedtensor(slope)


def _folded(tensor: Tensor, dim: int | None, count: int) -> Tensor:
    """Return the tensors of a vmap as one: images side by side, rows of parameters as parts."""
    together = tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return together.flatten(0, 1) if together.dim() > 2 else together


def _unfolded(tensor: Tensor, count: int) -> Tensor:
    of_each: Tensor = tensor.unflatten(0, (count, len(tensor) // count))
    return of_each
