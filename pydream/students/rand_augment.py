"""RandAugment (arXiv 1909.13719) of a set's images, by torchvision, drawn for each image alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydream.lazy import imported
from pydream.seeds import own_random_numbers

_GREATEST = 10
_FILL = (124, 116, 104)  # ImageNet's mean, as in timm


def rand_augment(
    images: torch.Tensor, seeds: Sequence[int], operations: int, magnitude: int
) -> torch.Tensor:
    """Augment each image by operations drawn from its own seed.

    torch's generators do not change.

    Parameters
    ----------
    images
        (B, S, S, 3) uint8.
    seeds
        B seeds, each in [0, 2^63).
    operations
        Number of operations on each image.
    magnitude
        Their magnitude, from 0 to 10.

    Returns
    -------
    Tensor
        (B, S, S, 3) uint8, on the device of the images.
    """
    v2 = imported("torchvision.transforms.v2")
    transform = v2.RandAugment(
        num_ops=operations,
        magnitude=magnitude,
        num_magnitude_bins=_GREATEST + 1,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=list(_FILL),
    )
    augmented = []
    for image, seed in zip(images.permute(0, 3, 1, 2), seeds, strict=True):
        with own_random_numbers(seed, torch.device("cpu")):
            augmented.append(transform(image))
    return torch.stack(augmented).permute(0, 2, 3, 1).contiguous()
