"""The cells of a distilled image: how a picture is fitted into a cell, and cells are tiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from pydream.errors import PydreamError
from pydream.ops import collage, crop_resize, matched_cells

CellFit: TypeAlias = Literal["shrunk", "matched"]
"""How a picture is fitted into a cell: resized, or by the least squares of `matched_cells`."""


class Tiling:
    """Cuts pictures for the cells of distilled images, and tiles factor x factor of them.

    Shrunken pictures are tiled as `pydream.ops.collage` does. Matched ones are tiled so that
    `pydream.ops.multi_formation` takes them apart again.

    Parameters
    ----------
    side
        Height and width of a distilled image, in pixels.
    factor
        Number of cells along each side of a distilled image.
    cells
        Way to fit a picture into its cell. With factor 1 there is nothing to match.

    Raises
    ------
    PydreamError
        If the factor is above the side, or leaves no pixel for the last matched cells.

    Attributes
    ----------
    matched
        Whether cells are matched.
    cell_side
        Height and width of a cell, in pixels; the last ones are smaller where `cells_differ`.
    cells_differ
        Whether matched cells have different sizes, because the factor does not divide the side.
    """

    def __init__(self, side: int, factor: int, cells: CellFit = "shrunk") -> None:
        if factor > side:
            raise PydreamError(f"factor {factor} is above the side of the images, {side}")
        self.side, self.factor = side, factor
        self.matched = cells == "matched" and factor > 1
        self.cells_differ = self.matched and side % factor != 0
        self.cell_side = -(-side // factor) if self.matched else side // factor
        if self.matched and self.cell_side * (factor - 1) >= side:
            raise PydreamError(
                f"factor {factor} divides images of side {side} into cells of {self.cell_side} "
                "pixels, which leave nothing for the last ones: take another --factor, or shrunken "
                "cells"
            )

    def cut(
        self,
        images: Tensor | Sequence[Tensor],
        boxes: Tensor,
        cells: Sequence[int],
        dtype: torch.dtype = torch.uint8,
    ) -> Tensor:
        """Cut a box out of each image, and fit it into its cell.

        Parameters
        ----------
        images
            n images, uint8: (H, W, C) each, or one batch (n, H, W, C).
        boxes
            int32 or int64 (n, 4): top, left, height and width, in pixels.
        cells
            Number of the cell of each image, row-major, from 0 to factor² − 1.
        dtype
            uint8, from 0 to 255; or a floating-point type, in [0, 1].

        Returns
        -------
        Tensor
            (n, C, s, s) for the `cell_side` s; 0 beyond the last pixel of a smaller cell.
        """
        if not self.matched:
            return crop_resize(images, boxes, self.cell_side, dtype=dtype)
        if not self.cells_differ:
            return matched_cells(images, boxes, self.cell_side, self.side, dtype=dtype)
        channels = images[0].shape[-1]
        shape = (len(boxes), channels, self.cell_side, self.cell_side)
        cut = torch.zeros(shape, dtype=dtype, device=boxes.device)
        sizes = [tuple(map(self._length, divmod(cell, self.factor))) for cell in cells]
        for height, width in dict.fromkeys(sizes):
            alike = [row for row, size in enumerate(sizes) if size == (height, width)]
            rows = torch.tensor(alike, device=boxes.device)
            cut[rows, :, :height, :width] = matched_cells(
                images,
                boxes[rows],
                self.cell_side,
                self.side,
                inside=(height, width),
                image_index=rows,
                dtype=dtype,
            )
        return cut

    def _length(self, number: int) -> int:
        """Return the pixels in a row or column of matched cells."""
        return min(self.cell_side, self.side - number * self.cell_side)

    def tile(self, cells: Tensor) -> Tensor:
        """Tile ranked cells of each class, as `pydream.ops.collage` does.

        Parameters
        ----------
        cells
            (K, n·factor², C, s, s): cell k of image i is the one of rank k·n + i, made by `cut`
            for this cell.

        Returns
        -------
        Tensor
            (K, n, C, S, S) of the same dtype, for the side S.
        """
        if not self.cells_differ:
            return collage(cells, self.factor, self.side)
        padded = collage(cells, self.factor, self.factor * self.cell_side)
        return padded[..., : self.side, : self.side].contiguous()
