"""Distilled sets as shards of WebDataset."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from pydream.sets.distilled import DistilledSet
from pydream.sets.image_formats import image_files

_SHARD_IMAGES = 10_000


def write_shards(distilled: DistilledSet, folder: Path) -> None:
    """Write ``train-000000.tar`` and so on, and ``classnames.txt``.

    A sample is ``KEY.png``, a file of the set byte for byte, and ``KEY.cls``, the number of its
    class. The bytes of a shard depend on nothing but the set.

    Parameters
    ----------
    distilled
        A set of pydream.
    folder
        An empty folder.
    """
    files = image_files(distilled.path)
    for number, start in enumerate(range(0, len(files), _SHARD_IMAGES)):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w") as archive:
            for file in files[start : start + _SHARD_IMAGES]:
                key = f"{file.parent.name}_{file.stem}"
                _add(archive, f"{key}.cls", str(int(file.parent.name)).encode())
                _add(archive, key + file.suffix, file.read_bytes())
    names = "".join(f"{name}\n" for name in distilled.class_names)
    (folder / "classnames.txt").write_text(names, encoding="utf-8")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of the time 0
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
