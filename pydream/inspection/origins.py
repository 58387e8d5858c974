"""The source images that a distilled image was made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
from rich.table import Table
from rich.text import Text

from pydream.errors import PydreamError, printable
from pydream.formatting import score_words
from pydream.sets.distilled import DistilledSet, cells_of_class
from pydream.sets.image_formats import image_files


@dataclass(frozen=True)
class CellOrigin:
    """The origin of one cell of a distilled image.

    Attributes
    ----------
    cell
        Index of the cell, row by row.
    source
        Key of the source image.
    top, left, height, width
        The box in the source image, in its pixels. None for an optimised set, whose cell began as
        the whole source image.
    score
        Realism score of the patch; None for an optimised set.
    """

    cell: int
    source: str
    top: int | None
    left: int | None
    height: int | None
    width: int | None
    score: float | None


@dataclass(frozen=True)
class ImageOrigin:
    """The source images of a distilled image.

    Attributes
    ----------
    class_name
        Name of the class.
    image
        Index of the image in its class, from 0.
    file
        File of the image.
    cells
        Origins of the cells, row by row.
    """

    class_name: str
    image: int
    file: str
    cells: list[CellOrigin]

    def as_json(self) -> dict[str, Any]:
        """Return all fields, ready for JSON, with ``class`` for the name of the class."""
        facts = asdict(self)
        return {"class": facts.pop("class_name"), **facts}


def image_origin(distilled: DistilledSet, name: str) -> ImageOrigin:
    """Return the source images that a distilled image was made of.

    Parameters
    ----------
    distilled
        The set, as read by `pydream.sets.distilled.load_set`.
    name
        Class and index, such as ``robin/3``; the index counts from 0, like the names of the files.

    Raises
    ------
    PydreamError
        If there is no such class or image, or the set has no provenance.
    """
    class_name, _, index = name.rpartition("/")
    if class_name not in distilled.class_names:
        raise PydreamError(
            f"{distilled.path} has no class {class_name!r}; give --image CLASS/INDEX, "
            f"as {distilled.class_names[0]}/0"
        )
    label = distilled.class_names.index(class_name)
    counts = distilled.manifest.class_counts
    if not index.isdecimal() or int(index) >= counts[label]:
        raise PydreamError(
            f"{distilled.path} has no image {index!r} of {class_name}; give 0 to "
            f"{counts[label] - 1}"
        )
    if distilled.provenance is None:
        raise PydreamError(f"{distilled.path} does not say what it was made of: no provenance")
    number = int(index)
    return ImageOrigin(
        class_name=class_name,
        image=number,
        file=str(image_files(distilled.path)[sum(counts[:label]) + number]),
        cells=class_origins(distilled.provenance, label).get(number, []),
    )


def class_origins(provenance: pa.Table, label: int) -> dict[int, list[CellOrigin]]:
    """Return the cells of each image of a class, in order, by the index of the image."""
    own = cells_of_class(provenance, label).sort_by([("image", "ascending"), ("cell", "ascending")])
    names = [field.name for field in fields(CellOrigin)]
    origins: dict[int, list[CellOrigin]] = {}
    for row in own.to_pylist():
        origins.setdefault(row["image"], []).append(CellOrigin(*(row[name] for name in names)))
    return origins


def box_words(cell: CellOrigin) -> str:
    """Describe the part of its source image that a cell shows."""
    if cell.top is None:
        return "whole"
    return f"{cell.width} × {cell.height} at {cell.left}, {cell.top}"


def render_origin(origin: ImageOrigin) -> Table:
    """Format the result of `image_origin` for a terminal."""
    table = Table(title=Text(origin.file), title_justify="left", box=None, pad_edge=False)
    table.add_column("cell", justify="right")
    table.add_column("source", overflow="fold")
    table.add_column("width × height at left, top")
    table.add_column("score", justify="right")
    for cell in origin.cells:
        score = "" if cell.score is None else score_words(cell.score)
        table.add_row(str(cell.cell), Text(printable(cell.source)), box_words(cell), score)
    return table
