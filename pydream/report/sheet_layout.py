"""Positions of the names and images in a contact sheet."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageFont

# All in pixels.
MARGIN = 12
GAP = 2
BLOCK_GAP = 36
FONT_SIZE = 16
LEAST_ROW = 20  # one line of text
WIDEST_NAME = 220
BEST_CELL = 96  # small images are enlarged to about this side
LEAST_CELL = 64  # large images are reduced to no less, so that photographs stay recognisable
MOST_CELL = 128  # largest side shown: a sheet is an overview, and its pixels take time and space
LEAST_ENLARGED_CELL = 32


@dataclass(frozen=True)
class SheetLayout:
    """Blocks side by side, each a column of rows; a row is a class with its name at the left.

    Attributes
    ----------
    rows
        Number of rows in all blocks: the classes shown.
    blocks
        Number of blocks.
    columns
        Number of images in a row.
    cell
        Side of an image on the sheet, in pixels.
    name_width
        Width of a name, in pixels.
    """

    rows: int
    blocks: int
    columns: int
    cell: int
    name_width: int

    @property
    def rows_per_block(self) -> int:
        """Number of rows in every block except the last, which may have fewer."""
        return -(-self.rows // self.blocks)

    @property
    def row_height(self) -> int:
        """Height of a row in pixels, without the gap below it."""
        return max(self.cell, LEAST_ROW)

    @property
    def block_width(self) -> int:
        """Width of a block in pixels, without the gap beside it."""
        return self.name_width + MARGIN + self.columns * (self.cell + GAP) - GAP

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet in pixels, including margins."""
        width = 2 * MARGIN + self.blocks * (self.block_width + BLOCK_GAP) - BLOCK_GAP
        height = 2 * MARGIN + self.rows_per_block * (self.row_height + GAP) - GAP
        return width, height

    def corner(self, row: int) -> tuple[int, int]:
        """Return left and top of a row, in pixels."""
        block, place = divmod(row, self.rows_per_block)
        left = MARGIN + block * (self.block_width + BLOCK_GAP)
        return left, MARGIN + place * (self.row_height + GAP)


def choose_layout(
    *, side: int, classes: int, columns: int, names: Sequence[str], largest_side: int
) -> SheetLayout:
    """Choose the largest cell with which everything fits, in blocks that make the sheet squarish.

    If even the smallest cell does not fit, columns are cut first, then rows.

    Raises
    ------
    ValueError
        If `largest_side` is too small for a single image.
    """
    widest = min(WIDEST_NAME, largest_side // 3)
    name_width = max(math.ceil(font().getlength(shorten(name, widest))) for name in names)
    room_across = largest_side - name_width - 3 * MARGIN + GAP
    room_down = largest_side - 3 * MARGIN - LEAST_ROW + GAP  # a caption may follow below
    for cell in _cells(side):
        rows = room_down // (max(cell, LEAST_ROW) + GAP)
        fitting = min(columns, room_across // (cell + GAP))
        block = SheetLayout(rows, 1, fitting, cell, name_width)
        blocks = (largest_side - 2 * MARGIN + BLOCK_GAP) // (block.block_width + BLOCK_GAP)
        if fitting == columns and rows * blocks >= classes:
            break
    if min(rows, fitting) < 1:
        raise ValueError(f"largest_side is {largest_side}: no room for one image of side {cell}")
    shown = min(classes, rows * blocks)
    for count in range(-(-shown // rows), blocks + 1):
        layout = SheetLayout(shown, count, fitting, cell, name_width)
        if layout.size[1] <= layout.size[0]:
            break
    return layout


def _cells(side: int) -> list[int]:
    """List the sides at which an image of this side may be shown, the preferred one first."""
    if side < LEAST_CELL:
        factors = range(max(1, round(BEST_CELL / side)), 0, -1)
        return [side * f for f in factors if f == factors[0] or side * f >= LEAST_ENLARGED_CELL]
    enlarged = [side * 2] if side * 2 <= BEST_CELL * 1.5 else []
    reduced = [-(-side // divisor) for divisor in range(1, side // LEAST_CELL + 1)]
    return enlarged + [cell for cell in reduced if cell <= MOST_CELL]


@functools.cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of a sheet, which comes with Pillow."""
    return ImageFont.load_default(FONT_SIZE)


def shorten(text: str, width: int) -> str:
    """Cut a text, with an ellipsis, to at most `width` pixels on a sheet."""
    text = " ".join(text.split())
    if len(text) <= width and font().getlength(text) <= width:
        return text
    text = text[:width]  # no letter is narrower than a pixel
    while text and font().getlength(text + "…") > width:
        text = text[:-1].rstrip()
    return text + "…"
