"""Several crops of an image, for classes with fewer images than key patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pydream.rded.patches import KeyPatch


def select_with_reuse(
    scores: torch.Tensor, boxes: torch.Tensor, first: int, count: int
) -> list[KeyPatch]:
    """Choose the best crop of every image, then the second crops, and so on.

    A further crop of an image is its best one whose box overlaps no box chosen before in that image
    by more than half. Two boxes overlap by the area of their intersection over that of their union,
    so a detail within a crop of nearly the whole image is another patch. In each round the crops of
    all images are ranked by score, so as many images as possible are represented.

    Parameters
    ----------
    scores
        (n, M) float32, of the images of one class; minus infinity for crops that cannot be used.
    boxes
        (n, M, 4) of an integer dtype: top, left, height and width, in pixels.
    first
        First candidate of the class.
    count
        Number of key patches.

    Returns
    -------
    list[KeyPatch]
        The key patches, round by round, the best first; fewer than `count` if no crop is left. Of
        equal scores, the earlier crop and the earlier image win.
    """
    values, places = scores.numpy(), boxes.numpy().astype(np.int64)
    images = np.arange(len(values))
    left = np.isfinite(values)
    ranked: list[KeyPatch] = []
    while len(ranked) < count and left.any():
        crops = np.where(left, values, -np.inf).argmax(axis=1)
        best = values[images, crops]
        able = np.flatnonzero(left.any(axis=1))
        order = able[np.argsort(-best[able], kind="stable")]
        ranked += [KeyPatch(first + row, int(crops[row]), float(best[row])) for row in order]
        left &= ~overlap(places[images, crops][:, None], places)
    return ranked[:count]


def overlap(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return where the intersection of two boxes is more than half of their union.

    Parameters
    ----------
    one, other
        (..., 4): top, left, height and width, at least 1 each; their shapes are broadcast.

    Returns
    -------
    ndarray
        (...) bool.
    """
    starts = np.maximum(one[..., :2], other[..., :2])
    ends = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    common = np.maximum(ends - starts, 0).prod(axis=-1)
    union = one[..., 2:].prod(axis=-1) + other[..., 2:].prod(axis=-1) - common
    found: npt.NDArray[np.bool_] = 2 * common > union
    return found
