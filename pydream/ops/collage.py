"""Assembly of distilled images from ranked patches."""

from __future__ import annotations

import torch

from pydream import _C
from pydream.allocator import in_large_pages
from pydream.ops import _dispatch
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_at_least,
    check_dtype,
    check_no_gradient,
    check_shape,
    within_memory,
)
from pydream.ops._view import FLOATS, view
from pydream.ops.reference import collage as reference


@within_memory
def collage(patches: TensorLike, factor: int, size: int) -> torch.Tensor:
    """Tile ranked patches into distilled images, factor x factor patches each.

    Cell k (row-major) of image i of n holds the patch ranked k·n + i, so that every image gets one
    of the best patches. A cell's side is ``size // factor``; the first ``size % factor``
    rows and columns of cells are one pixel larger. A patch whose size differs from its cell's is
    resized by nearest neighbour (the rule of torch's ``interpolate(mode="nearest")``).

    Parameters
    ----------
    patches
        float32, float16, bfloat16 or uint8 (C, n·factor², ch, h, w), contiguous; the patches of
        each class, best first.
    factor
        Number of patches along each side of an image, at least 1.
    size
        Side S of the images in pixels, at least factor.

    Returns
    -------
    torch.Tensor
        (C, n, ch, S, S) of the same dtype.

    Raises
    ------
    TypeError
        For any other dtype.
    ValueError
        For other shapes or numbers, or if the patches are not contiguous, or if they require a
        gradient, because there is no derivative.

    Notes
    -----
    Source: Sun et al., "On the Diversity and Realism of Distilled Dataset", CVPR 2024,
    section 4.2 (information reconstruction of distilled images).
    """
    patches = as_tensor(patches, "patches")
    check_shape(patches, "patches", ("C", "n * factor**2", "channels", "height", "width"))
    check_dtype(patches, "patches", *FLOATS, torch.uint8)
    check_no_gradient(patches, "patches")
    factor = check_at_least(factor, "factor", 1)
    size = check_at_least(size, "size", 1)
    if size < factor:
        raise ValueError(f"size must be at least factor = {factor}, got {size}")
    if patches.shape[1] % factor**2 != 0:
        raise ValueError(
            f"patches must be a multiple of factor**2 = {factor**2} in dimension 1, "
            f"got shape {tuple(patches.shape)}"
        )
    if patches.shape[3] == 0 or patches.shape[4] == 0:
        raise ValueError(f"patches must have pixels, got shape {tuple(patches.shape)}")
    if not patches.is_contiguous():
        raise ValueError(
            f"patches must be contiguous, got strides {tuple(patches.stride())} for shape "
            f"{tuple(patches.shape)}; pass patches.contiguous()"
        )
    images: torch.Tensor = torch.ops.pydream.collage(patches, factor, size)
    return images


def _empty_images(patches: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    classes, ranked, channels = patches.shape[:3]
    return patches.new_empty((classes, ranked // factor**2, channels, size, size))


def _cpu_collage(patches: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    images = in_large_pages(_empty_images(patches, factor, size))
    if images.numel() > 0:
        _C.collage_cpu(view(patches), factor, view(images), torch.get_num_threads())
    return images


def _cuda_collage(
    launch: _dispatch.Launch, patches: torch.Tensor, factor: int, size: int
) -> torch.Tensor:
    images = _empty_images(patches, factor, size)
    if images.numel() > 0:
        launch.module.collage(view(patches), factor, view(images), launch)
    return images


_dispatch.register(
    "collage(Tensor patches, SymInt factor, SymInt size) -> Tensor",
    _cpu_collage,
    _cuda_collage,
    reference.collage,
    _empty_images,
)
