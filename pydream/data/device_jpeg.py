"""JPEG decoding on a GPU, through torchvision's binding of nvJPEG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from pydream.data.decode import EncodedJpeg
from pydream.data.image_operators import image_operator
from pydream.errors import ImageError, first_line

_RGB_MODE = 3  # torchvision.io.ImageReadMode.RGB
_decode_jpegs: Callable[..., list[torch.Tensor]] | None = image_operator("decode_jpegs_cuda")


def no_decoder(device: torch.device) -> str | None:
    """Return why this torchvision decodes no JPEG on the device, by trying; None if it does."""
    if device.type != "cuda":
        return "it has decoders for NVIDIA's GPUs only"
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    data = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
    try:
        [planes] = _decode([data], device)
    except (AssertionError, RuntimeError) as error:  # built without it, no GPU, or no driver
        return first_line(error).rstrip(".")
    return None if tuple(planes.shape) == (3, 16, 16) else "its decoder returns other images"


def decode_on(
    device: torch.device, images: Sequence[torch.Tensor | EncodedJpeg]
) -> tuple[list[torch.Tensor], dict[int, str]]:
    """Decode the JPEGs among some images in one call, on a GPU.

    nvJPEG rounds differently from libjpeg-turbo: pixels may differ by a few levels from those
    decoded on the CPU. JPEGs that nvJPEG refuses are decoded on the CPU.

    Parameters
    ----------
    device
        GPU to decode on.
    images
        JPEGs, and images that are returned unchanged.

    Returns
    -------
    list[Tensor]
        uint8 (H, W, 3) each; black if a JPEG cannot be decoded.
    dict[int, str]
        Reason that a JPEG cannot be decoded, by index in the list.
    """
    out: list[torch.Tensor] = []
    errors: dict[int, str] = {}
    decoded = iter(_on_gpu(device, [image for image in images if isinstance(image, EncodedJpeg)]))
    for place, image in enumerate(images):
        if isinstance(image, torch.Tensor):
            out.append(image)
            continue
        pixels = next(decoded)
        if pixels is None:
            try:
                pixels = image.decode()
            except ImageError as error:
                errors[place] = str(error)
                pixels = torch.zeros(image.shape, dtype=torch.uint8)
        out.append(pixels)
    return out, errors


def _on_gpu(
    device: torch.device, encoded: Sequence[EncodedJpeg]
) -> list[torch.Tensor] | list[None]:
    """Decode all of them, or none."""
    if not encoded:
        return []
    try:
        planes = _decode([jpeg.data for jpeg in encoded], device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # one refused JPEG fails the whole call
        return [None] * len(encoded)
    sizes = [tuple(plane.shape[1:]) for plane in planes]
    if sizes != [jpeg.shape[:2] for jpeg in encoded]:
        return [None] * len(encoded)
    return [plane.permute(1, 2, 0).contiguous() for plane in planes]


def _decode(data: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Call torchvision's decoder, which works on its own stream and waits for no other.

    nvJPEG runs on its own stream, but allocates from the current one. Synchronise before the call,
    because queued work may still read the recycled block; and after a failure, because the block is
    freed while other JPEGs of the batch are still being decoded into it.
    """
    if _decode_jpegs is None:
        raise RuntimeError("this torchvision has no decoder of JPEGs for GPUs")
    torch.cuda.current_stream(device).synchronize()
    try:
        return _decode_jpegs(data, _RGB_MODE, device)
    except RuntimeError:
        torch.cuda.synchronize(device)
        raise
