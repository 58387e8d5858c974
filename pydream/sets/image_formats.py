"""The image files of a distilled set: formats, paths and hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from pydream.errors import PydreamError

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]
SUFFIXES: Mapping[ImageFormat, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}


def image_files(path: Path) -> list[Path]:
    """List the image files of a set, class by class.

    Raises
    ------
    PydreamError
        If one is a link out of the set, by which an export would copy any file of the disk.
    """
    suffixes = tuple(SUFFIXES.values())
    images = path / "images"
    folders = sorted(folder for folder in images.glob("*") if folder.is_dir())
    links = [str(folder) for folder in (images, *folders) if folder.is_symlink()]
    files = []
    for folder in folders:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.name.endswith(suffixes)]
        links += [entry.path for entry in found if entry.is_symlink()]
        files += [folder / name for name in sorted(entry.name for entry in found)]
    root = os.path.realpath(path)
    for link in links:
        if os.path.commonpath((root, os.path.realpath(link))) != root:
            raise PydreamError(f"{link}: links out of the set; put what it links to in its place")
    return files


def hash_image_files(path: Path) -> str:
    """Hash the image files of a set: their paths inside it and their bytes."""
    digest = hashlib.sha256()
    for file in image_files(path):
        inner = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"images/{file.parent.name}/{file.name}\0{inner}\n".encode())
    return digest.hexdigest()
