"""Trees of small image files for the tests, as folders and archives."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from pictures import encode, hash_of, make_pixels

from pydream.data import Source


def write_images(root: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Write a small picture of its own under each name; return their bytes."""
    written = {}
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        written[name] = encode(make_pixels(4, 4, seed=hash_of(name)), "PNG")
        path.write_bytes(written[name])
    return written


def pack(root: Path, kind: str) -> Path:
    """Return the folder, or pack what is in it into an archive beside it."""
    if kind == "folder":
        return root
    path = root.with_name(f"{root.name}-packed.{kind}")
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(root, root.name)
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent).as_posix())
    return path


def labels_by_name(source: Source) -> dict[str, str]:
    """Class of each image, by the last part of its key."""
    return {
        key.rpartition("/")[2]: source.class_names[label]
        for key, label in zip(source.keys, source.labels, strict=True)
    }
