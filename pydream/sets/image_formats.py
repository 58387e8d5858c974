"""The image files of a distilled set: formats, paths and hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]
SUFFIXES: Mapping[ImageFormat, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}


def image_files(path: Path) -> list[Path]:
    """List the image files of a set, class by class."""
    suffixes = tuple(SUFFIXES.values())
    folders = sorted(folder for folder in (path / "images").glob("*") if folder.is_dir())
    return [
        folder / name
        for folder in folders
        for name in sorted(os.listdir(folder))
        if name.endswith(suffixes)
    ]


def hash_image_files(path: Path) -> str:
    """Hash the image files of a set: their paths inside it and their bytes."""
    digest = hashlib.sha256()
    for file in image_files(path):
        inner = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"images/{file.parent.name}/{file.name}\0{inner}\n".encode())
    return digest.hexdigest()
