"""Pictures of a distilled set: the contact sheet, and single images for a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw

from pydream.formatting import count_words
from pydream.ops._checks import check_dtype, check_shape
from pydream.processors import usable_processors
from pydream.report.sheet_layout import (
    GAP,
    LEAST_ROW,
    MARGIN,
    SheetLayout,
    choose_layout,
    font,
    shorten,
)
from pydream.sets.stored_images import SMALL_SIDE

T = TypeVar("T")

BACKGROUND = (250, 250, 250)
INK = (28, 28, 30)
FAINT_INK = (110, 110, 115)


def contact_sheet(
    images: torch.Tensor | Sequence[torch.Tensor],
    labels: torch.Tensor,
    class_names: Sequence[str],
    *,
    per_class: int | None = None,
    largest_side: int = 4000,
) -> Image.Image:
    """Draw a set on one picture: a row for each class, its name at the left.

    Many classes with few images each form several blocks of rows, side by side. Small images are
    enlarged by a whole factor (nearest neighbour), large ones reduced by one (mean of the pixels),
    as far as needed. If the picture has no room for all classes, or all images of a class, it shows
    an even selection, and a last line says so.

    Parameters
    ----------
    images
        (N, S, S, 3) uint8, on the CPU; or N of (S, S, 3), of which only those shown are read.
    labels
        (N,) int64, in [0, len(class_names)).
    class_names
        Names of the classes; long ones are shortened.
    per_class
        Largest number of images of a class; None for as many as fit.
    largest_side
        Limit of width and height, in pixels.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape, a label has no name, there is no image, or
        `largest_side` is too small for a single image.
    """
    _check(images, labels, class_names)
    by_class = indices_by_class(labels, len(class_names))
    most = max(len(indices) for indices in by_class.values())
    layout = choose_layout(
        side=images[0].shape[0],
        classes=len(by_class),
        columns=most if per_class is None else min(most, per_class),
        names=[class_names[label] for label in by_class],
        largest_side=largest_side,
    )
    shown = [list(by_class)[row] for row in even_selection(len(by_class), layout.rows)]
    counts = [len(indices) for indices in by_class.values()]
    caption = shorten(_caption(layout, counts), largest_side - 2 * MARGIN)
    chosen = {
        label: [by_class[label][at] for at in even_selection(len(by_class[label]), layout.columns)]
        for label in shown
    }
    indices = [index for label in shown for index in chosen[label]]
    cells = of_images(partial(_cell, side=layout.cell), images, indices)
    sheet = Image.new("RGB", _size(layout, caption), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(shown):
        left, top = layout.corner(row)
        name = shorten(class_names[label], layout.name_width)
        middle = top + layout.row_height // 2
        draw.text((left + layout.name_width, middle), name, fill=INK, font=font(), anchor="rm")
        for column in range(len(chosen[label])):
            beside = layout.name_width + MARGIN + column * (layout.cell + GAP)
            sheet.paste(next(cells), (left + beside, top))
    if caption:
        bottom = sheet.height - MARGIN - LEAST_ROW // 2
        draw.text((MARGIN, bottom), caption, fill=FAINT_INK, font=font(), anchor="lm")
    return sheet


def indices_by_class(labels: torch.Tensor, classes: int) -> dict[int, list[int]]:
    """Map every class that has images to their indices, in order."""
    found: dict[int, list[int]] = {label: [] for label in range(classes)}
    for index, label in enumerate(labels.tolist()):
        found[label].append(index)
    return {label: indices for label, indices in found.items() if indices}


def even_selection(count: int, wanted: int) -> list[int]:
    """Choose up to `wanted` of range(count), evenly spread, including the first and the last."""
    chosen = np.linspace(0, count - 1, min(count, wanted)).round()
    return [int(index) for index in chosen]


def of_images(
    make: Callable[[torch.Tensor], T],
    images: torch.Tensor | Sequence[torch.Tensor],
    indices: Sequence[int],
) -> Iterator[T]:
    """Make something of each of some images, in order; of large ones in several threads.

    Parameters
    ----------
    make
        Function of an image, (S, S, 3) uint8.
    images, indices
        The images, which may be read on access, and which of them.
    """
    if images[0].shape[0] <= SMALL_SIDE:
        yield from (make(images[index]) for index in indices)
        return
    with ThreadPoolExecutor(usable_processors()) as pool:
        yield from pool.map(lambda index: make(images[index]), indices)


def data_uri(image: torch.Tensor) -> str:
    """Encode an (S, S, 3) uint8 image for a page: PNG up to a side of 64, JPEG above.

    Full-size photographs as PNG would make a page of many megabytes.
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


def _cell(image: torch.Tensor, side: int) -> Image.Image:
    """Enlarge or reduce an image to a side of the sheet."""
    picture = Image.fromarray(image.numpy())
    if side >= picture.width:
        return picture.resize((side, side), Image.Resampling.NEAREST)
    return picture.reduce(-(-picture.width // side))


def _size(layout: SheetLayout, caption: str) -> tuple[int, int]:
    """Add the space for a caption."""
    width, height = layout.size
    if not caption:
        return width, height
    return max(
        width, math.ceil(font().getlength(caption)) + 2 * MARGIN
    ), height + LEAST_ROW + MARGIN


def _caption(layout: SheetLayout, counts: Sequence[int]) -> str:
    """Describe the classes and images left out; empty if there are none."""
    parts = []
    if layout.rows < len(counts):
        parts.append(f"{layout.rows} of {len(counts)} classes")
    if layout.columns < max(counts):
        up_to = "" if min(counts) == max(counts) else "up to "
        parts.append(f"{up_to}{layout.columns} of {count_words(counts)} images per class")
    return "… " + ", ".join(parts) if parts else ""


def _check(
    images: torch.Tensor | Sequence[torch.Tensor], labels: torch.Tensor, class_names: Sequence[str]
) -> None:
    if isinstance(images, torch.Tensor):
        check_shape(images, "images", ("N", "S", "S", 3))
        check_dtype(images, "images", torch.uint8)
    check_shape(labels, "labels", (len(images),))
    check_dtype(labels, "labels", torch.int64)
    shape = tuple(images[0].shape) if len(images) else (0, 0)
    if shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"images must be square, and at least one, got {len(images)} of {shape}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        worst = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise ValueError(f"labels must be in [0, {len(class_names)}), got {worst}")
