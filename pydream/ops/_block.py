"""The compiled passes of `pydream.ops.norm_relu_pool` as ops of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pydream import _C
from pydream.allocator import in_large_pages
from pydream.ops import _dispatch
from pydream.ops._view import view, view_or_none
from pydream.ops.reference import block as reference


def channels_last(tensor: Tensor) -> Tensor:
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
    height, width = images.shape[2:]
    groups = _groups(images, weight, over_batch)
    mean = images.new_empty(groups, images.shape[1])
    return _empty(images, height // 2, width // 2), mean, torch.empty_like(mean)


def _fake_backward(
    kept: list[Tensor], over_batch: bool, eps: float, parameters: bool
) -> list[Tensor]:
    images, weight, bias = kept[:3]
    rows = [tensor.new_empty(tensor.shape) for tensor in (weight, bias)] if parameters else []
    return [_empty(images, *images.shape[2:]), *rows]


def _fake_second_backward(
    kept: list[Tensor],
    second: list[Tensor | None],
    over_batch: bool,
    eps: float,
    parameters: bool,
) -> list[Tensor]:
    images, weight = kept[:2]
    height, width = images.shape[2:]
    rows = [weight.new_empty(weight.shape)] if parameters else []
    return [_empty(images, height // 2, width // 2), _empty(images, height, width), *rows]


def _groups(images: Tensor, weight: Tensor, over_batch: bool) -> int:
    """Return how many groups of images share statistics: parts, which have a row of weights."""
    parts = weight.shape[0] if weight.dim() == 2 else 1
    return parts if over_batch else images.shape[0]


def _views(tensors: Sequence[Tensor | None]) -> list[Any]:
    return [view_or_none(tensor) for tensor in tensors]


def _readable(tensor: Tensor | None) -> Any:
    """Return a tensor as kernels read it: images channels-last, each row of parameters whole."""
    if tensor is None:
        return None
    if tensor.dim() == 4:
        return channels_last(tensor)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _run_forward(kernel: Any, where: tuple[Any, ...], *arguments: Any) -> Any:
    images, weight, bias = map(_readable, arguments[:3])
    found = _fake_forward(images, weight, bias, *arguments[3:])
    in_large_pages(found[0])
    kernel(*_views((images, weight, bias)), *arguments[3:], *_views(found), *where)
    return found


def _run_backward(kernel: Any, where: tuple[Any, ...], *arguments: Any) -> Any:
    kept, over_batch, eps, parameters = arguments
    kept = list(map(_readable, kept))
    found = _fake_backward(kept, over_batch, eps, parameters)
    in_large_pages(found[0])
    kernel(_views(kept), over_batch, _views(found), *where)
    return found


def _run_second_backward(kernel: Any, where: tuple[Any, ...], *arguments: Any) -> Any:
    kept, second, over_batch, eps, parameters = arguments
    kept, second = list(map(_readable, kept)), list(map(_readable, second))
    found = _fake_second_backward(kept, second, over_batch, eps, parameters)
    in_large_pages(found[1])
    kernel(_views(kept), _views(second), over_batch, _views(found), *where)
    return found


def _workspace(terms: int, images: Tensor, weight: Tensor, over_batch: bool) -> Tensor:
    """Allocate what block_cuda.h asks for: sums of every image, and terms of every group."""
    rows = images.shape[0] + _groups(images, weight, over_batch)
    return images.new_empty(terms, rows, images.shape[1])


def _cpu_forward(*arguments: Any) -> Any:
    return _run_forward(_C.norm_relu_pool_cpu, (torch.get_num_threads(),), *arguments)


def _cpu_backward(*arguments: Any) -> Any:
    return _run_backward(_C.norm_relu_pool_backward_cpu, (torch.get_num_threads(),), *arguments)


def _cpu_second_backward(*arguments: Any) -> Any:
    return _run_second_backward(
        _C.norm_relu_pool_second_backward_cpu, (torch.get_num_threads(),), *arguments
    )


def _cuda_forward(launch: _dispatch.Launch, *arguments: Any) -> Any:
    images, weight, _, over_batch, _ = arguments
    workspace = _workspace(2, images, weight, over_batch)
    where = (view(workspace), launch)
    return _run_forward(launch.module.norm_relu_pool, where, *arguments)


def _cuda_backward(launch: _dispatch.Launch, *arguments: Any) -> Any:
    kept, over_batch = arguments[:2]
    workspace = _workspace(2, kept[0], kept[1], over_batch)
    where = (view(workspace), launch)
    return _run_backward(launch.module.norm_relu_pool_backward, where, *arguments)


def _cuda_second_backward(launch: _dispatch.Launch, *arguments: Any) -> Any:
    kept, _, over_batch = arguments[:3]
    workspace = _workspace(5, kept[0], kept[1], over_batch)
    where = (view(workspace), launch)
    return _run_second_backward(launch.module.norm_relu_pool_second_backward, where, *arguments)


_dispatch.register(
    "norm_relu_pool(Tensor images, Tensor weight, Tensor bias, bool over_batch, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    _cpu_forward,
    _cuda_forward,
    reference.with_statistics,
    _fake_forward,
)
_END = "bool over_batch, float eps, bool parameters) -> Tensor[]"
# Tensors kept: images, weight, bias, mean, 1 / deviation, and the slope of the result.
_dispatch.register(
    f"norm_relu_pool_backward(Tensor[] kept, {_END}",
    _cpu_backward,
    _cuda_backward,
    reference.backward,
    _fake_backward,
)
_dispatch.register(
    f"norm_relu_pool_second_backward(Tensor[] kept, Tensor?[] second, {_END}",
    _cpu_second_backward,
    _cuda_second_backward,
    reference.second_backward,
    _fake_second_backward,
)
