"""The anchors of a set: the crops that its cells were made of, at the size students see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import torch

from pydream.data import ImageError, Source, decode_ahead
from pydream.data.resized import whole_view_box
from pydream.errors import PydreamError
from pydream.ops import crop_resize
from pydream.tiling import Tiling

_WAITING = 64 << 20  # bytes of decoded images that may wait
# Root mean square, in levels of 255, by which an image may differ from one made again: lossy files
# and other decoders of JPEG stay below it.
_MOST_APART = 12.0
_MOST_NAMED = 4
_EARLIER = "give `pydream refine` the images of that time with --source"


class AnchorReader:
    """Reads the anchors of images from their source.

    Parameters
    ----------
    source
        The real images.
    factor
        Number of cells along each side of a distilled image.
    side
        Height and width of a distilled image and of an anchor, in pixels.
    workers
        Number of threads that decode.
    """

    def __init__(self, source: Source, *, factor: int, side: int, workers: int) -> None:
        self._source, self._workers = source, workers
        self._factor, self._side = factor, side
        self._index = {key: index for index, key in enumerate(source.keys)}

    def fingerprint(self, provenance: pa.Table) -> str:
        """Return the SHA-256, in hex, of the crops and of the facts known about their images.

        Parameters
        ----------
        provenance
            Rows of all classes, as `read` takes those of one.

        Raises
        ------
        PydreamError
            If a real image is gone.
        """
        images = sorted(map(self._find, provenance["source"].unique().to_pylist()))
        digest = hashlib.sha256(self._source.fingerprint(images).encode())
        digest.update(json.dumps(provenance.to_pydict()).encode())
        return digest.hexdigest()

    def read(
        self,
        rows: Sequence[Mapping[str, Any]],
        images: torch.Tensor,
        *,
        made_by: Tiling | None = None,
    ) -> torch.Tensor:
        """Read the anchors of the images of a class.

        Parameters
        ----------
        rows
            Rows of provenance: ``image``, ``cell``, ``source``, and ``top``, ``left``, ``height``
            and ``width`` of the crop, or None for the view of the whole image.
        images
            (n, 3, S, S) uint8, the images of the class.
        made_by
            Tiling that made the images. They are made again to check that the real images are
            still those of that time.

        Returns
        -------
        Tensor
            (f², n, 3, S, S) uint8.

        Raises
        ------
        PydreamError
            If a cell has no row, or its source image is gone, unreadable or another than it was.
        """
        ordered = self._ordered(rows, len(images))
        anchors = torch.empty((len(ordered), 3, self._side, self._side), dtype=torch.uint8)
        again = []
        indices = [self._find(row["source"]) for row in ordered]
        decoded = decode_ahead(self._source, indices, workers=self._workers, budget=_WAITING)
        with closing(decoded) as pictures:
            for anchor, row, read in zip(anchors, ordered, pictures, strict=True):
                picture = self._usable(row, read)
                box = torch.tensor([self._box(row, picture)], dtype=torch.int32)
                anchor[:] = crop_resize([picture], box, self._side, dtype=torch.uint8)[0]
                if made_by is not None:
                    again.append(made_by.cut([picture], box, [row["cell"]])[0])
        if made_by is not None:
            [tiled] = made_by.tile(torch.stack(again)[None])
            self._check_same(tiled, images, ordered)
        return anchors.view(self._factor**2, *images.shape)

    def _ordered(self, rows: Sequence[Mapping[str, Any]], images: int) -> list[Mapping[str, Any]]:
        """Return the row of cell k of image i as number k·n + i."""
        row_of = {(row["cell"], row["image"]): row for row in rows}
        places = [(cell, image) for cell in range(self._factor**2) for image in range(images)]
        missing = [place for place in places if place not in row_of]
        if missing:
            cell, image = missing[0]
            raise PydreamError(
                f"the provenance of the set lacks cell {cell} of image {image} of a class, so the "
                "cell has no anchor"
            )
        return [row_of[place] for place in places]

    def _check_same(
        self, tiled: torch.Tensor, images: torch.Tensor, ordered: Sequence[Mapping[str, Any]]
    ) -> None:
        """Raise PydreamError if the images of a class are no longer what their sources make."""
        apart = (tiled.float() - images.float()).square().mean((1, 2, 3)).sqrt()
        number = int(apart.argmax())
        if apart[number] > _MOST_APART:
            keys = [row["source"] for row in ordered if row["image"] == number]
            raise PydreamError(
                f"{self._source.description}: {', '.join(keys[:_MOST_NAMED])} no longer look like "
                f"the image that was made of them: {_EARLIER}"
            )

    def _find(self, key: str) -> int:
        if key not in self._index:
            raise PydreamError(
                f"{self._source.description} no longer has {key}, of which the set was made: "
                + _EARLIER
            )
        return self._index[key]

    def _usable(self, row: Mapping[str, Any], picture: torch.Tensor | ImageError) -> torch.Tensor:
        """Return a picture that was read and contains the crop of a row."""
        key = f"{self._source.description}: {row['source']}"
        if isinstance(picture, ImageError):
            raise PydreamError(f"{key}, which the set was made of, cannot be read: {picture}")
        height, width = picture.shape[:2]
        top, left, of_height, of_width = self._box(row, picture)
        if top + of_height > height or left + of_width > width:
            raise PydreamError(
                f"{key} has {width} x {height} pixels, fewer than the crop that the set was made "
                f"of: the image has changed since; {_EARLIER}"
            )
        return picture

    def _box(self, row: Mapping[str, Any], picture: torch.Tensor) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the crop of a row."""
        if row["top"] is None:
            return whole_view_box(picture.shape[0], picture.shape[1], self._side)
        return row["top"], row["left"], row["height"], row["width"]
