"""Transfer of images to a device in one copy, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def upload(images: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Copy images to a device in one transfer, packed one after another.

    To a GPU, they go through page-locked memory, and the call does not wait for the copy: work
    queued later on the current stream finds the images there.

    Parameters
    ----------
    images
        uint8 (H, W, C) each, of any sizes, on the CPU; images already on a device stay there.
    device
        Device to copy them to.

    Returns
    -------
    list[Tensor]
        The same images on the device; those uploaded are views of one buffer.
    """
    from_host = [image for image in images if image.device.type == "cpu"]
    total = sum(image.numel() for image in from_host)
    packed = torch.empty(total, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for image, place in zip(from_host, _views(packed, from_host), strict=True):
        place.copy_(image)
    uploaded = iter(_views(packed.to(device, non_blocking=True), from_host))
    return [next(uploaded) if image.device.type == "cpu" else image for image in images]


def _views(packed: torch.Tensor, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Divide a buffer into views with the shapes of the images."""
    parts = torch.split(packed, [image.numel() for image in images])
    return [part.view(image.shape) for part, image in zip(parts, images, strict=True)]
