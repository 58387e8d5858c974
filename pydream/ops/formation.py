"""Multi-formation: several training images from the cells of one stored image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pydream import _C
from pydream.allocator import in_large_pages
from pydream.ops import _dispatch
from pydream.ops._checks import TensorLike, as_tensor, check_at_least, check_dtype, within_memory
from pydream.ops._view import FLOATS, view
from pydream.ops.reference import formation as reference

# Value of the padding on the right and at the bottom, as published.
_PADDING = 0.5


@within_memory
def multi_formation(images: TensorLike, factor: int, size: int) -> Tensor:
    """Cut each image into factor x factor cells, and upsample every cell to an image of its own.

    The inverse of `pydream.ops.collage`: image k·N + i of the result is cell k (row-major) of image
    i. Cells are resized bilinearly by the rule of torch's ``interpolate(mode="bilinear",
    align_corners=False)``, without antialiasing, in float32. If the factor does not divide height
    or width, images are first padded with 0.5 on the right and at the bottom.

    Differentiable in `images`, any number of times. A derivative is gathered pixel by pixel, so it
    is the same in every run.

    Parameters
    ----------
    images
        float32, float16 or bfloat16 (N, C, H, W), or (B, N, C, H, W) for B classes at once.
        For float64 images there is no kernel: PyTorch's operations process them.
    factor
        Number of cells along each side of an image, at least 1 and at most its shorter side.
    size
        Side S of the result in pixels, at least 1.

    Returns
    -------
    Tensor
        (factor²·N, C, S, S), or (B, factor²·N, C, S, S), of the same dtype. A copy if factor is 1
        and S the side of the images.

    Raises
    ------
    TypeError
        For any other dtype.
    ValueError
        For other shapes or numbers, or images without pixels; on CUDA, where a number of pixels or
        columns exceeds 32 bits.

    Notes
    -----
    Source: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML
    2022, section 4 (multi-formation), as DREAM+ uses it (arXiv 2310.15052).
    """
    images = as_tensor(images, "images")
    if images.dim() not in (4, 5):
        raise ValueError(
            "images must have shape (N, channels, height, width) or (B, N, channels, height, "
            f"width), got {tuple(images.shape)}"
        )
    check_dtype(images, "images", *FLOATS, torch.float64)
    factor = check_at_least(factor, "factor", 1)
    size = check_at_least(size, "size", 1)
    side = min(images.shape[-2:])
    if side == 0:
        raise ValueError(f"images must have pixels, got shape {tuple(images.shape)}")
    if factor > side:
        raise ValueError(f"factor must be at most the images' side, {side}, got {factor}")
    if images.dtype == torch.float64:
        return reference.multi_formation(images, factor, size, _PADDING)
    result: Tensor = _Formation.apply(images, factor, size, _PADDING)
    return result


class _Formation(torch.autograd.Function):
    """The op; its derivative is the adjoint."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, factor: int, size: int, padding: float) -> Tensor:
        ctx.factor, (ctx.height, ctx.width) = factor, images.shape[-2:]
        result: Tensor = torch.ops.pydream.multi_formation(images, factor, size, padding)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        slope = _Adjoint.apply(gradient, ctx.factor, ctx.height, ctx.width)
        return slope, None, None, None


class _Adjoint(torch.autograd.Function):
    """The adjoint; its derivative is the op without the constant of the padding."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, factor: int, height: int, width: int) -> Tensor:
        ctx.factor, ctx.size = factor, gradient.shape[-1]
        slope: Tensor = torch.ops.pydream.multi_formation_backward(gradient, factor, height, width)
        return slope

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return _Formation.apply(upstream, ctx.factor, ctx.size, 0.0), None, None, None


def _empty_result(images: Tensor, factor: int, size: int, padding: float) -> Tensor:
    *batches, count, channels = images.shape[:-2]
    return images.new_empty((*batches, factor**2 * count, channels, size, size))


def _empty_slope(gradient: Tensor, factor: int, height: int, width: int) -> Tensor:
    *batches, count, channels = gradient.shape[:-2]
    return gradient.new_empty((*batches, count // factor**2, channels, height, width))


def _form(
    kernel: Any, where: Any, images: Tensor, factor: int, size: int, padding: float
) -> Tensor:
    images = images.contiguous()
    result = in_large_pages(_empty_result(images, factor, size, padding))
    if result.numel() > 0:
        kernel(view(images), factor, padding, view(result), where)
    return result


def _gather(
    kernel: Any, where: Any, gradient: Tensor, factor: int, height: int, width: int
) -> Tensor:
    gradient = gradient.contiguous()
    slope = in_large_pages(_empty_slope(gradient, factor, height, width))
    if slope.numel() > 0:
        kernel(view(gradient), factor, view(slope), where)
    return slope


def _cpu_multi_formation(*arguments: Any) -> Tensor:
    return _form(_C.multi_formation_cpu, torch.get_num_threads(), *arguments)


def _cuda_multi_formation(launch: _dispatch.Launch, *arguments: Any) -> Tensor:
    return _form(launch.module.multi_formation, launch, *arguments)


def _cpu_multi_formation_backward(*arguments: Any) -> Tensor:
    return _gather(_C.multi_formation_backward_cpu, torch.get_num_threads(), *arguments)


def _cuda_multi_formation_backward(launch: _dispatch.Launch, *arguments: Any) -> Tensor:
    return _gather(launch.module.multi_formation_backward, launch, *arguments)


_dispatch.register(
    "multi_formation(Tensor images, SymInt factor, SymInt size, float padding) -> Tensor",
    _cpu_multi_formation,
    _cuda_multi_formation,
    reference.multi_formation,
    _empty_result,
)
_dispatch.register(
    "multi_formation_backward(Tensor gradient, SymInt factor, SymInt height, SymInt width)"
    " -> Tensor",
    _cpu_multi_formation_backward,
    _cuda_multi_formation_backward,
    reference.multi_formation_backward,
    _empty_slope,
)
