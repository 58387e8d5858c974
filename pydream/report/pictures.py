"""Pictures of a distilled set: the contact sheet, and single images for a page."""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pydream.ops._checks import check_dtype, check_shape

MARGIN = 12
GAP = 2
FONT_SIZE = 16
LEAST_ROW = 20  # a line of text
WIDEST_NAME = 220
BEST_CELL = 96  # small images are enlarged to about this side
LEAST_CELL = 64  # large ones are reduced to no less, so that a photograph stays recognisable
LEAST_ENLARGED_CELL = 32
BACKGROUND = (250, 250, 250)
INK = (28, 28, 30)
FAINT_INK = (110, 110, 115)


def contact_sheet(
    images: torch.Tensor,
    labels: torch.Tensor,
    class_names: Sequence[str],
    *,
    per_class: int | None = None,
    largest_side: int = 4000,
) -> Image.Image:
    """Lay out a set on one picture: a row for each class, its name at the left.

    Small images are enlarged by a whole factor (nearest neighbour), large ones reduced by one
    (mean of the pixels), as far as needed. Where a set has more classes, or more images of a
    class, than the picture has room for, an even selection is shown and a last line says so.

    Parameters
    ----------
    images
        (N, S, S, 3) uint8, on the CPU.
    labels
        (N,) int64, in [0, len(class_names)).
    class_names
        Names of the classes; long ones are shortened.
    per_class
        The most images to show of a class; as many as there is room for if None.
    largest_side
        Limit of width and height, in pixels.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape, a label has no name, there is no image, or
        `largest_side` has no room for a single one.
    """
    _check(images, labels, class_names)
    by_class = indices_by_class(labels, len(class_names))
    most = max(len(indices) for indices in by_class.values())
    layout = _layout(
        side=images.shape[1],
        classes=len(by_class),
        columns=most if per_class is None else min(most, per_class),
        names=[class_names[label] for label in by_class],
        largest_side=largest_side,
    )
    shown = [list(by_class)[row] for row in even_selection(len(by_class), layout.rows)]
    caption = _caption(layout, len(class_names), most)
    sheet = Image.new("RGB", layout.size(caption), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = _font()
    for row, label in enumerate(shown):
        top = MARGIN + row * (layout.row_height + GAP)
        name = shorten(class_names[label], layout.name_width)
        middle = top + layout.row_height // 2
        draw.text((MARGIN, middle), name, fill=INK, font=font, anchor="lm")
        for column, place in enumerate(even_selection(len(by_class[label]), layout.columns)):
            picture = Image.fromarray(images[by_class[label][place]].numpy())
            left = layout.left + column * (layout.cell + GAP)
            sheet.paste(_resized(picture, layout.cell), (left, top))
    if caption:
        bottom = sheet.height - MARGIN - LEAST_ROW // 2
        draw.text((MARGIN, bottom), caption, fill=FAINT_INK, font=font, anchor="lm")
    return sheet


def indices_by_class(labels: torch.Tensor, classes: int) -> dict[int, list[int]]:
    """Map every class that has images to their indices, in order."""
    found: dict[int, list[int]] = {label: [] for label in range(classes)}
    for index, label in enumerate(labels.tolist()):
        found[label].append(index)
    return {label: indices for label, indices in found.items() if indices}


def even_selection(count: int, wanted: int) -> list[int]:
    """Choose up to `wanted` of range(count), evenly spread, the first and the last among them."""
    chosen = np.linspace(0, count - 1, min(count, wanted)).round()
    return [int(each) for each in chosen]


def shorten(text: str, width: float) -> str:
    """Cut a text, with an ellipsis, until it is no wider than `width` pixels on a sheet."""
    text = " ".join(text.split())
    font = _font()
    if len(text) <= width and font.getlength(text) <= width:
        return text
    text = text[: int(width)]  # no letter is narrower than a pixel
    while text and font.getlength(text + "…") > width:
        text = text[:-1].rstrip()
    return text + "…"


def data_uri(image: torch.Tensor) -> str:
    """Encode an (S, S, 3) uint8 image for a page: PNG up to a side of 64, JPEG above.

    Photographs of a set at full size would make a page of many megabytes as PNG.
    """
    picture = Image.fromarray(image.numpy())
    stream = io.BytesIO()
    if picture.width <= 64:
        picture.save(stream, "PNG")
        kind = "png"
    else:
        picture.save(stream, "JPEG", quality=88, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


@dataclass(frozen=True)
class _Layout:
    """Where things lie on a sheet; lengths in pixels."""

    rows: int
    columns: int
    cell: int
    name_width: int

    @property
    def row_height(self) -> int:
        return max(self.cell, LEAST_ROW)

    @property
    def left(self) -> int:
        return MARGIN + self.name_width + MARGIN

    def size(self, caption: str) -> tuple[int, int]:
        width = self.left + self.columns * (self.cell + GAP) - GAP + MARGIN
        height = MARGIN + self.rows * (self.row_height + GAP) - GAP + MARGIN
        if caption:
            width = max(width, math.ceil(_font().getlength(caption)) + 2 * MARGIN)
            height += LEAST_ROW + MARGIN
        return width, height


def _layout(
    *, side: int, classes: int, columns: int, names: Sequence[str], largest_side: int
) -> _Layout:
    """Take the largest cell with which all rows and columns fit; cut them if none does."""
    widest = min(WIDEST_NAME, largest_side // 3)
    name_width = max(math.ceil(_font().getlength(shorten(name, widest))) for name in names)
    room_across = largest_side - name_width - 3 * MARGIN + GAP
    room_down = largest_side - 3 * MARGIN - LEAST_ROW + GAP
    for cell in _cells(side):
        rows_that_fit = room_down // (max(cell, LEAST_ROW) + GAP)
        columns_that_fit = room_across // (cell + GAP)
        if rows_that_fit >= classes and columns_that_fit >= columns:
            break
    if min(rows_that_fit, columns_that_fit) < 1:
        raise ValueError(f"largest_side is {largest_side}: no room for one image of side {cell}")
    return _Layout(min(classes, rows_that_fit), min(columns, columns_that_fit), cell, name_width)


def _cells(side: int) -> list[int]:
    """List the sides that an image of this side may be shown at, the one liked best first."""
    if side < LEAST_CELL:
        factors = range(max(1, round(BEST_CELL / side)), 0, -1)
        return [side * f for f in factors if f == factors[0] or side * f >= LEAST_ENLARGED_CELL]
    enlarged = [side * 2] if side * 2 <= BEST_CELL * 1.5 else []
    return enlarged + [-(-side // divisor) for divisor in range(1, side // LEAST_CELL + 1)]


def _resized(picture: Image.Image, cell: int) -> Image.Image:
    if cell >= picture.width:
        return picture.resize((cell, cell), Image.Resampling.NEAREST)
    return picture.reduce(-(-picture.width // cell))


def _caption(layout: _Layout, classes: int, per_class: int) -> str:
    """Say what was left out, or nothing."""
    parts = []
    if layout.rows < classes:
        parts.append(f"{layout.rows} of {classes} classes")
    if layout.columns < per_class:
        parts.append(f"{layout.columns} of {per_class} images per class")
    return "… " + ", ".join(parts) if parts else ""


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _check(images: torch.Tensor, labels: torch.Tensor, class_names: Sequence[str]) -> None:
    check_shape(images, "images", ("N", "S", "S", 3))
    check_dtype(images, "images", torch.uint8)
    check_shape(labels, "labels", (len(images),))
    check_dtype(labels, "labels", torch.int64)
    if len(images) == 0 or images.shape[1] != images.shape[2] or images.shape[1] == 0:
        raise ValueError(f"images must be square, and one at least, got {tuple(images.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        worst = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise ValueError(f"labels must be in [0, {len(class_names)}), got {worst}")
