"""Images that patches are cut out of: what is checked of them, and how kernels find them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydream.ops._checks import TensorLike, as_tensor, check_device, check_dtype, check_shape
from pydream.ops._view import FLOATS
from pydream.streams import capturing, to_device

OUTPUT_DTYPES = (*FLOATS, torch.uint8)
INDEX_DTYPES = (torch.int32, torch.int64)
MAX_CHANNELS = 4


def check_crops(
    images: TensorLike | Sequence[TensorLike], boxes: TensorLike, image_index: TensorLike | None
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Check what patches are cut out of; see `crop_resize` for the arguments.

    Returns
    -------
    tuple[list[Tensor], Tensor, Tensor | None]
        The images, (H, W, C) each or one batch (N, H, W, C) alone; boxes and index as tensors.
    """
    pictures = _check_images(images)
    count = pictures[0].shape[0] if pictures[0].dim() == 4 else len(pictures)
    boxes = as_tensor(boxes, "boxes")
    check_dtype(boxes, "boxes", *INDEX_DTYPES)
    check_shape(boxes, "boxes", ("P", 4))
    check_device(boxes, "boxes", pictures[0].device, "images")
    patches = boxes.shape[0]
    if image_index is not None:
        return pictures, boxes, per_patch(image_index, "image_index", boxes, *INDEX_DTYPES)
    if patches % max(count, 1) != 0 or (count == 0 and patches != 0):
        raise ValueError(
            f"boxes: {patches} boxes are not a multiple of {count} images; pass image_index"
        )
    return pictures, boxes, None


def check_pixel_dtype(dtype: torch.dtype) -> None:
    """Raise TypeError unless patches can have this dtype."""
    if not isinstance(dtype, torch.dtype) or dtype not in OUTPUT_DTYPES:
        known = isinstance(dtype, torch.dtype)
        got = str(dtype).removeprefix("torch.") if known else type(dtype).__name__
        raise TypeError(f"dtype must be float32, float16, bfloat16 or uint8, got {got}")


def _check_images(images: TensorLike | Sequence[TensorLike]) -> list[Tensor]:
    """Return the images as tensors: a list of (H, W, C), or a list of one (N, H, W, C)."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("images is empty; for no patches at all pass a batch (0, H, W, C)")
        pictures = [as_tensor(image, "images") for image in images]
        first = pictures[0]
        _check_image(first, "images[0]", ("H", "W", "C"))
        for index, picture in enumerate(pictures):
            alike = picture.dtype == torch.uint8 and picture.dim() == 3
            if not alike or not picture.is_contiguous():  # composing the error costs a microsecond
                _check_image(picture, f"images[{index}]", ("H", "W", "C"))
            if picture.device != first.device or picture.shape[2] != first.shape[2]:
                check_device(picture, f"images[{index}]", first.device, "images[0]")
                raise ValueError(
                    f"images[{index}] has {picture.shape[2]} channels, "
                    f"but images[0] has {first.shape[2]}"
                )
        return pictures
    batch = as_tensor(images, "images")
    _check_image(batch, "images", ("N", "H", "W", "C"))
    return [batch]


def _check_image(image: Tensor, name: str, shape: Sequence[str]) -> None:
    """Raise unless this is an image or a batch with contiguous pixels in each row."""
    check_dtype(image, name, torch.uint8)
    check_shape(image, name, shape)
    width, channels = image.shape[-2:]
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"{name} must have 1 to {MAX_CHANNELS} channels last, got {channels}")
    strides = image.stride()[-2:]
    if (width > 1 and strides[0] != channels) or (channels > 1 and strides[1] != 1):
        raise ValueError(
            f"{name} must have the pixels of a row contiguous in memory, got strides "
            f"{tuple(image.stride())} for shape {tuple(image.shape)}; call .contiguous()"
        )


def per_patch(value: TensorLike, name: str, boxes: Tensor, *dtypes: torch.dtype) -> Tensor:
    """Return a tensor with one entry per patch."""
    tensor = as_tensor(value, name)
    check_dtype(tensor, name, *dtypes)
    check_shape(tensor, name, (boxes.shape[0],))
    check_device(tensor, name, boxes.device, "boxes")
    return tensor


def send_table(images: list[Tensor], device: torch.device) -> Tensor:
    """Send address, height, width and row stride in bytes of the images to their device: (N, 4)."""
    if capturing(device):  # a replay would read host memory after its reuse
        raise ValueError(
            "images is a list, and its addresses cannot be sent from within a CUDA graph: pass "
            "one batch (N, H, W, C)"
        )
    rows = [(image.data_ptr(), *image.shape[:2], image.stride(0)) for image in images]
    return to_device(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)
