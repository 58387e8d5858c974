"""Shards of a source, and the split that each belongs to."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydream.data.remote import AnyPath, folders_and_files, located
from pydream.data.split_names import preference, split_name
from pydream.data.stores import AT_ONCE
from pydream.data.tar_ends import TAR_ERRORS
from pydream.errors import PydreamError
from pydream.urls import without_secrets

SUFFIX = ".tar"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MEMBERS_TRIED = 16
_MOST_TRIED = 1 << 20  # bytes of a JSON file in which a label is looked for


@dataclass(frozen=True)
class ShardFiles:
    """The shards of a source by split, and the folder that they lie in."""

    root: AnyPath
    splits: Mapping[str, tuple[AnyPath, ...]]


def is_pattern(spec: str) -> bool:
    """Return whether a name is a pattern of shards, such as ``train-{000..146}.tar``."""
    return spec.lower().endswith(SUFFIX) and _RANGE.search(spec) is not None


def pattern_files(spec: str) -> ShardFiles:
    """Return the shards of a pattern, all of the train split.

    Raises
    ------
    PydreamError
        If one does not exist.
    """
    names = [spec]
    while any(map(_RANGE.search, names)):
        names = [filled for name in names for filled in _filled(name)]
    files = tuple(map(located, names))
    with ThreadPoolExecutor(AT_ONCE) as waiting:
        there = list(waiting.map(lambda file: file.is_file(), files))
    missing = [file for file, found in zip(files, there, strict=True) if not found]
    if missing:
        shown = without_secrets(spec)
        raise PydreamError(
            f"{shown}: {len(missing)} of {len(files)} shards are missing, first {missing[0]}"
        )
    return ShardFiles(files[0].parent, {"train": files})


def _filled(name: str) -> list[str]:
    """Fill the first range of a pattern; numbers keep their leading zeros."""
    found = _RANGE.search(name)
    if found is None:
        return [name]
    first, last = found.groups()
    return [
        f"{name[: found.start()]}{number:0{len(first)}d}{name[found.end() :]}"
        for number in range(int(first), int(last) + 1)
    ]


def find_shards(path: AnyPath) -> ShardFiles | None:
    """Find the shards of a source; None if it is another kind of source.

    They lie in the named folder or in folders of splits.
    """
    if path.is_file():
        is_shard = path.suffix.lower() == SUFFIX and _has_labels(path)
        return ShardFiles(path.parent, {"train": (path,)}) if is_shard else None
    folders, files = folders_and_files(path, SUFFIX)
    found = [(file, split_name(file.stem)) for file in files]
    if not found and folders and all(map(split_name, folders)):
        found = [
            (file, split_name(name))
            for name in folders
            for file in folders_and_files(path / name, SUFFIX)[1]
        ]
    if not found or not _has_labels(found[0][0]):
        return None
    if all(name is None for _, name in found):
        return ShardFiles(path, {"train": tuple(files)})
    words: dict[str, dict[str, list[AnyPath]]] = {}
    for file, name in found:
        if name is not None and name.split != "unlabelled":
            words.setdefault(name.split, {}).setdefault(name.word, []).append(file)
    return ShardFiles(
        path,
        {
            split: tuple(sorted(own[min(own, key=preference)]))
            for split, own in sorted(words.items(), reverse=True)
        },
    )


def _has_labels(path: AnyPath) -> bool:
    """Return whether the first members of a tar are images with labels beside them."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for _ in range(_MEMBERS_TRIED):
                member = archive.next()
                if member is None:
                    return False
                if member.isfile() and member.name.lower().endswith(".cls"):
                    return True
                if member.isfile() and member.name.lower().endswith(".json"):
                    content = archive.extractfile(member)
                    return content is not None and b'"label"' in content.read(_MOST_TRIED)
    except (*TAR_ERRORS, OSError):
        pass
    return False
