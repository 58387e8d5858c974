"""CutMix (arXiv 1905.04899): a box of each image of a batch comes from its partner."""

from __future__ import annotations

import torch


def cut_mix(
    images: torch.Tensor, partners: torch.Tensor, share: float, down: float, across: float
) -> float:
    """Paste the same box of its partner into each image, in place.

    Parameters
    ----------
    images
        (B, C, S, S) floating point; overwritten.
    partners
        (B,) int64: index of each image's partner in the batch.
    share
        Share of its area that an image keeps if the border does not cut the box, in [0, 1].
    down, across
        The centre of the box, as a share of the side, in [0, 1).

    Returns
    -------
    float
        The share of an image that is still its own.
    """
    side = images.shape[2]
    top, bottom, left, right = cut_box(side, share, down, across)
    images[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    return 1 - (bottom - top) * (right - left) / side**2


def cut_box(side: int, share: float, down: float, across: float) -> tuple[int, int, int, int]:
    """Place CutMix's box: √(1 − share) of the side long, centred anywhere, cut at the border.

    Parameters
    ----------
    side
        Side of the images, in pixels.
    share
        Share of its area that an image keeps if the border does not cut the box.
    down, across
        The centre, as a share of the side, in [0, 1).

    Returns
    -------
    tuple[int, int, int, int]
        Top, bottom, left and right; bottom and right are the first pixels outside.
    """
    half = int(side * (1 - share) ** 0.5) // 2
    y, x = int(down * side), int(across * side)
    return max(y - half, 0), min(y + half, side), max(x - half, 0), min(x + half, side)
