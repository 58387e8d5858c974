"""Writing of a distilled set to disk, such that a killed run loses nothing.

An unfinished set is in ``<out>.partial``: the future set in ``set/``, and one record per finished
class in ``state/``. Every file and class folder is written under another name there, brought to
the disk and renamed, and the last step renames ``set/`` to ``<out>``. So ``<out>`` is either a
whole set or does not exist.
"""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from pydream.data.arrow_arrays import optional_numbers, strings
from pydream.durable import make_folder, rename, sync, sync_tree
from pydream.errors import PydreamError
from pydream.files import RESUME, check_place, disk_errors
from pydream.partial import PartialRun, differences, forget_finished
from pydream.ranks import ALONE, Ranks
from pydream.sets.distilled import PROVENANCE_SCHEMA
from pydream.sets.encoders import Encoders
from pydream.sets.image_formats import SUFFIXES, ImageFormat
from pydream.sets.manifest import Manifest

# Runs of one byte alone, of zlib's strategies: of forty collages of 224 pixels, the files are 2 %
# smaller than by zlib's fastest level and take four fifths of its time (benchmarks/encoders.py).
_PNG_STRATEGY = zlib.Z_RLE


class SetWriter(PartialRun):
    """Writes a distilled set class by class, and can continue a killed run.

    Parameters
    ----------
    out
        Folder of the finished set. It must not exist, or be empty.
    identity
        Facts that decide the bytes of the set: its configuration, source and observer. A partial
        set is continued only if its identity is the same.
    resume
        Continue a partial set. Without one, a new set is begun.

    Raises
    ------
    PydreamError
        If ``out`` is not empty, if a partial set exists and `resume` is false, if it was begun with
        another identity, or if the folder cannot be written.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
        super().__init__(out, identity, resume=resume, what="set", check=check_free)
        self.set = self.partial / "set"
        self._scratch = self.partial / "scratch"

    @contextmanager
    def begin(self, ranks: Ranks = ALONE) -> Iterator[None]:
        """Make the folders, and keep other runs out of them during the block.

        Nothing is written before this.

        Parameters
        ----------
        ranks
            The processes that share the run.

        Raises
        ------
        PydreamError
            If another process writes to the partial set, or the folders cannot be made.
        """
        with super().begin(ranks):
            with disk_errors(self.partial, RESUME):
                for folder in (self.set / "images", self._scratch):
                    make_folder(folder)
            with Encoders() as self._encoders:
                yield

    def finished_class(self, label: int) -> dict[str, Any] | None:
        """Return the record of a class whose images are written, or None."""
        # A run killed while it deleted a finished set's state leaves records of images that are
        # gone.
        return self.record(f"{label:05d}") if self._images_of(label).is_dir() else None

    def _images_of(self, label: int) -> Path:
        return self.set / "images" / f"{label:05d}"

    def write_class(
        self,
        label: int,
        images: torch.Tensor,
        record: Mapping[str, Any],
        *,
        image_format: ImageFormat,
        quality: int,
        waiting: int | None = None,
    ) -> None:
        """Write the images of a class, then its record, in threads.

        Parameters
        ----------
        label
            The class.
        images
            (IPC, 3, S, S) uint8.
        record
            Value that `finished_class` will return.
        image_format, quality
            File format of the images, and its quality; the quality counts for WebP and JPEG only.
        waiting
            Bytes of images, of this class and those before, that need not be encoded when the call
            returns. Those that are encoded are brought to the disk and recorded meanwhile. `settle`
            waits for all of that, and so does the end of `begin`. By default the call does, too.
        """
        # Another process that shares the run may have written the same class, or write it now, to
        # the same bytes.
        if self.finished_class(label) is not None:
            return
        scratch = self._scratch / f"{label:05d}-{platform.node()}-{os.getpid()}"
        place, suffix = self._images_of(label), SUFFIXES[image_format]
        with disk_errors(scratch, RESUME):
            for leftover in (scratch, place):  # of a run killed before it recorded the class
                if leftover.exists():
                    shutil.rmtree(leftover)
            scratch.mkdir()

        def save(number: int) -> None:
            save_image(images[number], scratch / f"{number:05d}{suffix}", quality)

        def end(saved: Sequence[Future[None]]) -> None:
            with disk_errors(scratch, RESUME):
                for image in saved:
                    image.result()
                sync_tree(scratch)
                _put(scratch, place)
            self.keep(f"{label:05d}", record)

        self._encoders.submit(save, images, end)
        self._encoders.wait(waiting)

    def settle(self) -> None:
        """Wait until all classes given to `write_class` are written; PydreamError if one is not."""
        self._encoders.wait()

    def take_over(self, part: SetWriter, labels: Sequence[int]) -> None:
        """Copy some finished classes of another partial set, and all that is kept beside them."""
        for label in labels:
            scratch, place = self._scratch / f"{label:05d}", self._images_of(label)
            with disk_errors(scratch, RESUME):
                for leftover in (scratch, place):
                    if leftover.exists():
                        shutil.rmtree(leftover)
                shutil.copytree(part._images_of(label), scratch)
                sync_tree(scratch)
                rename(scratch, place)
        for name in part.kept_names("*"):
            if not name.endswith(".claimed"):
                data = part.kept_bytes(name)
                assert data is not None
                self.keep_bytes(name, data)

    def write_provenance(self, rows: list[dict[str, Any]]) -> None:
        """Write ``provenance.parquet``."""
        columns = []
        for field in PROVENANCE_SCHEMA:
            values: list[Any] = [row.get(field.name) for row in rows]
            if pa.types.is_string(field.type):
                columns.append(strings(values).cast(field.type))
            else:
                columns.append(optional_numbers(values, field.type.to_pandas_dtype()))
        table = pa.Table.from_arrays(columns, schema=PROVENANCE_SCHEMA)
        with disk_errors(self.set, RESUME):
            scratch = self._scratch / "provenance.parquet"
            pq.write_table(table, scratch, compression="zstd")
            sync(scratch)
            rename(scratch, self.set / "provenance.parquet")

    def keep_values(self, label: int, values: torch.Tensor) -> None:
        """Store the images of a class, (n, 3, S, S) float32, before they are rounded to 8 bits."""
        self.keep_bytes(f"{label:05d}.values", values.numpy().tobytes())

    def kept_values(self, counts: Sequence[int], side: int) -> torch.Tensor | None:
        """Return the images that `keep_values` stored of all classes; None if of one it did not.

        Parameters
        ----------
        counts
            Number of images of each class.
        side
            Side of the images, in pixels.

        Returns
        -------
        Tensor or None
            (N, 3, S, S) float32.
        """
        kept = [self.kept_bytes(f"{label:05d}.values") for label in range(len(counts))]
        found = [values for values in kept if values is not None]
        if len(found) < len(kept):
            return None
        images = torch.frombuffer(bytearray(b"".join(found)), dtype=torch.float32)
        return images.view(sum(counts), 3, side, side)

    def write_tensors(self, counts: Sequence[int], side: int) -> None:
        """Write ``images.pt``, a list of images and labels as in DC, IDC and DREAM.

        The images, (N, 3, S, S) float32 in [0, 1], are those of `kept_values`; nothing is written
        if there are none.
        """
        images = self.kept_values(counts, side)
        if images is None:
            return
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        stream = io.BytesIO()
        torch.save([images, labels], stream)
        self.write_bytes(self.set / "images.pt", stream.getvalue())

    def finish(self) -> Path:
        """Move the set to its place and delete the state."""
        check_free(self.out)
        with disk_errors(self.out, RESUME):
            rename(self.set, self.out)
        self.forget()
        return self.out


def finished_manifest(out: Path, identity: Mapping[str, Any]) -> Manifest | None:
    """Return the manifest of the set that a run would resume, if it is finished; else None.

    Remaining state of the run beside the set is removed, in case the run was killed before that.

    Raises
    ------
    PydreamError
        If the set was made with other settings, or the state cannot be removed.
    """
    if not (out / "manifest.json").is_file():
        return None
    manifest = Manifest.read(out)
    if differing := differences(dict(manifest.config or {}), json.loads(json.dumps(identity))):
        raise PydreamError(
            f"{out} holds a finished set made with other settings ({'; '.join(differing)}): "
            "choose another --out"
        )
    forget_finished(out, identity)
    return manifest


def check_place_of_set(out: Path, *, resume: bool) -> None:
    """Check, before any work, that a set can be written to its place.

    Raises
    ------
    PydreamError
        If something else is there, or the place cannot be written. A run that resumes may find its
        finished set.
    """
    check_place(out)
    if not resume:
        check_free(out)


def check_free(out: Path) -> None:
    """Raise PydreamError if the place of a set is not free."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if (out / "manifest.json").is_file():
        raise PydreamError(f"{out} already holds a distilled set: choose another --out")
    if out.exists() or out.is_symlink():
        raise PydreamError(
            f"{out} exists and is not a distilled set of ours; nothing in it was touched: "
            "choose another --out"
        )


def png(image: torch.Tensor) -> bytes:
    """Encode a (3, H, W) uint8 image as PNG."""
    stream = io.BytesIO()
    _picture(image).save(stream, "PNG", compress_type=_PNG_STRATEGY)
    return stream.getvalue()


def _put(scratch: Path, place: Path) -> None:
    """Move the images of a class to their place, unless another process has put the same there."""
    try:
        rename(scratch, place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not place.is_dir():
            raise
        shutil.rmtree(scratch)


def save_image(image: torch.Tensor, file: Path, quality: int) -> None:
    """Store a (3, H, W) uint8 image in the format of the file's suffix."""
    if file.suffix == ".png":
        file.write_bytes(png(image))
    elif file.suffix == ".webp":
        _picture(image).save(file, quality=quality, method=4)
    else:
        _picture(image).save(file, quality=quality, subsampling=0)


def _picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
