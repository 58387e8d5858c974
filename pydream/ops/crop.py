"""Patches of images of different sizes: crop, resize, normalise and cast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pydream import _C
from pydream.allocator import in_large_pages
from pydream.ops import _dispatch
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_device,
    check_dtype,
    check_flag,
    check_no_gradient,
    check_numbers,
    check_pair,
    check_shape,
    quoted,
    within_memory,
)
from pydream.ops._images import check_crops, check_pixel_dtype, per_patch, send_table
from pydream.ops._view import view, view_or_none
from pydream.ops.reference import crop as reference

# Scale and shift that normalise the value of a byte, for each channel.
Scaling: TypeAlias = tuple[list[float], list[float]]


@within_memory
def crop_resize(
    images: TensorLike | Sequence[TensorLike],
    boxes: TensorLike,
    size: int | Sequence[int],
    *,
    image_index: TensorLike | None = None,
    flip: TensorLike | None = None,
    canvas: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Cut boxes out of images of any sizes, and turn them into patches for a model.

    In one pass: crop, bilinear antialiased resize of the crop with half-pixel centres, optional
    flip, scale to [0, 1], normalise, centre on a canvas of zeros, cast. The pixels are those of
    torchvision's ``resized_crop(antialias=True)`` on float images.

    Parameters
    ----------
    images
        Uint8, (H, W, C) each, of any sizes with one C from 1 to 4; or one batch (N, H, W, C). Rows
        may have any stride; the pixels of a row must be contiguous.
    boxes
        Int32 or int64, (P, 4): top, left, height, width within the image, in pixels.
    size
        Side of the patches, or height and width.
    image_index
        Int32 or int64, (P,): the image of each patch. By default P must be a multiple of N,
        and patch p comes from image ``p // (P / N)``.
    flip
        Bool, (P,): True mirrors the patch left to right.
    canvas
        Side, or height and width, of the output; by default `size`. The patch begins at row
        ``(canvas - size) // 2``, and the margin is zero after normalisation.
    mean, std
        C numbers each, on the scale of [0, 1]; give both or neither.
    dtype
        Float32, float16, bfloat16, or uint8, which keeps the scale of 0 to 255, rounds to nearest
        and excludes `mean` and `std`.
    channels_last
        Store the output as ``torch.channels_last``.
    out
        Tensor for the output, of its shape, dtype, device and memory format.

    Returns
    -------
    Tensor
        (P, C, canvas height, canvas width), on the device of the images.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape, stride or device does not fit, a box is empty or not inside its image, or an
        image index is out of range; if a list of images is passed during CUDA graph capture (pass
        one batch instead).
    """
    pictures, boxes, image_index = check_crops(images, boxes, image_index)
    device, channels, patches = boxes.device, pictures[0].shape[-1], boxes.shape[0]
    if flip is not None:
        flip = per_patch(flip, "flip", boxes, torch.bool)
    patch_size = check_pair(size, "size")
    canvas_size = patch_size if canvas is None else check_pair(canvas, "canvas")
    if canvas_size[0] < patch_size[0] or canvas_size[1] < patch_size[1]:
        raise ValueError(f"canvas {tuple(canvas_size)} is smaller than size {tuple(patch_size)}")
    check_pixel_dtype(dtype)
    means, stds = _check_normalisation(mean, std, channels, dtype)
    channels_last = check_flag(channels_last, "channels_last")
    arguments = (
        pictures,
        boxes,
        patch_size,
        image_index,
        flip,
        canvas_size,
        means,
        stds,
        dtype,
        channels_last,
    )
    if out is None:
        made: Tensor = torch.ops.pydream.crop_resize(*arguments)
        return made
    _check_out(out, (patches, channels, *canvas_size), dtype, device, channels_last)
    torch.ops.pydream.crop_resize_out(*arguments, out)
    return out


def _check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int, dtype: torch.dtype
) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and std as lists of C numbers, or neither."""
    if (mean is None) != (std is None):
        raise ValueError("mean and std go together: pass both or neither")
    if mean is None or std is None:
        return None, None
    if dtype == torch.uint8:
        raise ValueError("mean and std cannot be used with dtype uint8")
    means, stds = check_numbers(mean, "mean"), check_numbers(std, "std")
    for name, values in (("mean", means), ("std", stds)):
        if len(values) != channels:
            raise ValueError(
                f"{name} must have {channels} numbers, one per channel, got {quoted(values)}"
            )
    if not all(deviation > 0 for deviation in stds):
        raise ValueError(f"std must be positive, got {quoted(stds)}")
    return means, stds


def _check_out(
    out: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    channels_last: bool,
) -> None:
    """Raise unless the output can be written to the memory of `out`."""
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a torch tensor, got {type(out).__name__}")
    as_tensor(out, "out")
    check_no_gradient(out, "out")
    check_dtype(out, "out", dtype)
    check_shape(out, "out", shape)
    check_device(out, "out", device, "images")
    if not torch.compiler.is_compiling() and out.is_neg():
        raise ValueError("out must be memory that is read as it is, got a view that negates it")
    if not out.is_contiguous(memory_format=_memory_format(channels_last)):
        raise ValueError(
            f"out must be contiguous{' in channels_last' if channels_last else ''}, got strides "
            f"{tuple(out.stride())} for shape {tuple(out.shape)}"
        )


def _check_memory(out: Tensor, inputs: list[Tensor | None]) -> None:
    """Raise ValueError if `out` shares memory with an input, or lies where no kernel can write."""
    begin, end = _bounds(out)
    if begin % out.element_size():
        raise ValueError(
            f"out must lie at a multiple of {out.element_size()} bytes, as torch.empty makes it"
        )
    for tensor in inputs:
        if tensor is not None and tensor.device == out.device and tensor.numel() and out.numel():
            first, last = _bounds(tensor)
            if first < end and begin < last:
                raise ValueError("out shares memory with images or another argument; pass its own")


def _bounds(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses of the first byte of a tensor and of that behind its last one."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    begin = tensor.data_ptr()
    return begin, begin + (last + 1) * tensor.element_size()


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _empty_patches(
    images: list[Tensor],
    boxes: Tensor,
    size: Sequence[int],
    image_index: Tensor | None,
    flip: Tensor | None,
    canvas: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    """Allocate the output, from the arguments of the op."""
    return torch.empty(
        (boxes.shape[0], images[0].shape[-1], *canvas),
        dtype=dtype,
        device=boxes.device,
        memory_format=_memory_format(channels_last),
    )


def _scaling(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None, dtype: torch.dtype
) -> Scaling:
    if mean is None or std is None:
        return [1.0 if dtype == torch.uint8 else 1 / 255] * channels, [0.0] * channels
    shift = [-channel_mean / spread for channel_mean, spread in zip(mean, std, strict=True)]
    return [1 / (255 * deviation) for deviation in std], shift


def _crop_on_cpu(
    images: list[Tensor],
    boxes: Tensor,
    out: Tensor,
    size: Sequence[int],
    image_index: Tensor | None,
    flip: Tensor | None,
    canvas: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    if out.numel() == 0:
        return
    boxes = boxes.to(torch.int64).contiguous()
    image_index = None if image_index is None else image_index.to(torch.int64).contiguous()
    flip = None if flip is None else flip.contiguous()
    _C.crop_resize_cpu(
        [view(image) for image in images],
        view(boxes),
        view_or_none(image_index),
        view_or_none(flip),
        (size[0], size[1]),
        _scaling(images[0].shape[-1], mean, std, dtype),
        view(out),
        torch.get_num_threads(),
    )


def _crop_on_cuda(
    launch: _dispatch.Launch,
    images: list[Tensor],
    boxes: Tensor,
    out: Tensor,
    size: Sequence[int],
    image_index: Tensor | None,
    flip: Tensor | None,
    canvas: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    scaling = _scaling(images[0].shape[-1], mean, std, dtype)
    crop_on_cuda(launch, images, boxes, image_index, flip, (size[0], size[1]), scaling, out)


def crop_on_cuda(
    launch: _dispatch.Launch,
    images: list[Tensor],
    boxes: Tensor,
    image_index: Tensor | None,
    flip: Tensor | None,
    size: tuple[int, int],
    scaling: Scaling,
    out: Tensor,
) -> None:
    """Launch the kernel of `crop_resize`: `scaling` is each channel's scale and shift of a byte."""
    # The kernel addresses the images of a batch itself; the table of a list must be sent.
    found = images[0] if images[0].dim() == 4 else send_table(images, boxes.device)
    boxes = boxes.contiguous()
    image_index = None if image_index is None else image_index.contiguous()
    flip = None if flip is None else flip.contiguous()
    launch.module.crop_resize(
        view(found),
        view(boxes),
        view_or_none(image_index),
        view_or_none(flip),
        size,
        scaling,
        view(out),
        launch,
    )


def _reference(
    images: list[Tensor],
    boxes: Tensor,
    size: Sequence[int],
    image_index: Tensor | None,
    *arguments: Any,
) -> Tensor:
    """Run the reference, which needs an image index."""
    if image_index is None:
        image_index = reference.images_of_boxes(images, boxes)
    return reference.crop_resize(images, boxes, size, image_index, *arguments)


def _made_on_cpu(images: list[Tensor], boxes: Tensor, *arguments: Any) -> Tensor:
    out = in_large_pages(_empty_patches(images, boxes, *arguments))
    _crop_on_cpu(images, boxes, out, *arguments)
    return out


def _made_on_cuda(
    launch: _dispatch.Launch, images: list[Tensor], boxes: Tensor, *arguments: Any
) -> Tensor:
    out = _empty_patches(images, boxes, *arguments)
    _crop_on_cuda(launch, images, boxes, out, *arguments)
    return out


_ARGUMENTS = (
    "Tensor[] images, Tensor boxes, SymInt[] size, Tensor? image_index, Tensor? flip, "
    "SymInt[] canvas, float[]? mean, float[]? std, ScalarType dtype, bool channels_last"
)
_dispatch.register(
    f"crop_resize({_ARGUMENTS}) -> Tensor", _made_on_cpu, _made_on_cuda, _reference, _empty_patches
)


def _crop_into(images: list[Tensor], boxes: Tensor, *arguments: Any) -> None:
    """Write the patches to the last argument, which no call copies, unlike the others."""
    *others, out = arguments
    _check_memory(out, [*images, boxes, *others[1:3]])
    launch = _dispatch.launch_on(boxes.device)
    if launch is not None:
        _crop_on_cuda(launch, images, boxes, out, *others)
    elif boxes.device.type == "cpu":
        try:
            _crop_on_cpu(images, boxes, out, *others)
        except _C.MisalignedError:
            copies = [_dispatch.aligned(value) for value in (images, boxes, *others)]
            _crop_on_cpu(copies[0], copies[1], out, *copies[2:])
    else:
        _dispatch.warn_reference_once(boxes.device)
        out.copy_(_reference(images, boxes, *others))


_dispatch.define_writing(f"crop_resize_out({_ARGUMENTS}, Tensor(a!) out) -> ()", _crop_into)
