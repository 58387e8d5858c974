"""Images of the host brought to a device in one piece."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def upload(images: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Copy images to a device in one transfer, packed one behind the other.

    To a GPU they go through page-locked memory, and the call does not wait for the copy: what is
    queued on the current stream after it finds them there.

    Parameters
    ----------
    images
        uint8 (H, W, C) each, of any sizes, on the CPU.
    device
        Where to.

    Returns
    -------
    list[Tensor]
        The same images, as views of one buffer on the device.
    """
    total = sum(image.numel() for image in images)
    packed = torch.empty(total, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for image, place in zip(images, _views(packed, images), strict=True):
        place.copy_(image)
    return _views(packed.to(device, non_blocking=True), images)


def _views(packed: torch.Tensor, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Cut a buffer into places for images."""
    parts = torch.split(packed, [image.numel() for image in images])
    return [part.view(image.shape) for part, image in zip(parts, images, strict=True)]
