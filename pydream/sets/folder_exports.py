"""Distilled sets as class folders named by five digits, as several tools read them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from pydream.sets.distilled import DistilledSet
from pydream.sets.image_formats import SUFFIXES, image_files
from pydream.sets.writer import save_image

QUALITY = 95
"""Quality of JPEG files, if none is given."""


def copy_images(distilled: DistilledSet, folder: Path, name: str) -> None:
    """Copy the image files byte for byte.

    Parameters
    ----------
    distilled
        A set of pydream.
    folder
        Folder for the class folders.
    name
        Name of a copy without its suffix, with ``{label}`` and ``{number}`` to be filled in.
    """
    for file, place in _places(distilled, folder, name):
        shutil.copyfile(file, place.with_suffix(file.suffix))


def write_patches(distilled: DistilledSet, folder: Path, quality: int | None) -> None:
    """Write ``medium/00000/class00000_id00000.jpg`` and so on.

    CV-DD, SRe²L++ (which is in CV-DD's code) and FADRM begin image k of every class from its file
    of number k in the folder of a difficulty, ``medium`` by default.

    Parameters
    ----------
    distilled
        A set of pydream.
    folder
        Folder that becomes ``--patch-dir`` of these tools.
    quality
        Quality of the JPEG files, 1 to 100. None copies JPEG files of the set byte for byte, and
        takes 95 for others.
    """
    name, suffix = "class{label:05d}_id{number:05d}", SUFFIXES["jpeg"]
    places = _places(distilled, folder / "medium", name)
    for row, (file, place) in enumerate(places):
        if file.suffix == suffix and quality is None:
            shutil.copyfile(file, place.with_suffix(suffix))
        else:
            image = distilled.stored[row].permute(2, 0, 1)
            save_image(image, place.with_suffix(suffix), quality or QUALITY)


def _places(distilled: DistilledSet, folder: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """Give out each image file, and its place in a class folder, which is made."""
    number = dict.fromkeys(range(len(distilled.class_names)), 0)
    for file in image_files(distilled.path):
        label = int(file.parent.name)
        place = folder / f"{label:05d}"
        place.mkdir(parents=True, exist_ok=True)
        yield file, place / name.format(label=label, number=number[label])
        number[label] += 1
