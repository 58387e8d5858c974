"""Parquet files of a source, and the split that each belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydream.data.remote import AnyPath, folders_and_files
from pydream.data.split_names import preference, split_name
from pydream.errors import PydreamError

SUFFIX = ".parquet"

_DEEPEST = 3  # folders that only wrap another
_MOST_SETS = 8  # folders that are looked into for sets of their own


@dataclass(frozen=True)
class Parts:
    """The files of one split that one word names, such as validation."""

    word: str
    files: tuple[AnyPath, ...]


@dataclass(frozen=True)
class ParquetFiles:
    """The files of a source by split, the preferred word of a split first."""

    splits: Mapping[str, tuple[Parts, ...]]
    others: Sequence[AnyPath] = field(default=())  # which belong to no split


def find_parquet(path: AnyPath) -> ParquetFiles | None:
    """Find the parquet files of a source; None if it is another kind of source.

    They are the named file, or lie in the named folder, in ``data`` below it or in folders of
    splits, as on the Hugging Face Hub; a folder that only wraps another is skipped.

    Raises
    ------
    PydreamError
        If the folder holds several sets.
    """
    files = _below(path) if path.is_dir() else [(path, "")]
    if not files:
        return None
    words: dict[str, dict[str, list[AnyPath]]] = {}
    others = []
    for file, folder in files:
        found = split_name(file.stem) or split_name(folder)
        if found is None:
            others.append(file)
        elif found.split != "unlabelled":
            words.setdefault(found.split, {}).setdefault(found.word, []).append(file)
    if not words:
        return ParquetFiles({"train": (Parts("train", tuple(file for file, _ in files)),)})
    if "train" in words:  # a file of train may be named by any of its words
        every = sorted(file for own in words["train"].values() for file in own)
        words["train"] = {"train": every}
    splits = {
        split: tuple(Parts(word, tuple(own[word])) for word in sorted(own, key=preference))
        for split, own in words.items()
    }
    return ParquetFiles(splits, others)


def _below(path: AnyPath, depth: int = 0) -> list[tuple[AnyPath, str]]:
    """Return the parquet files of a folder, sorted, and the name of the folder of its split.

    The list is empty if the folder holds something else.
    """
    folders, files = folders_and_files(path, SUFFIX)
    if files:
        return [(file, "") for file in files]
    if "data" in folders and (found := folders_and_files(path / "data", SUFFIX)[1]):
        return [(file, "") for file in found]
    if folders and all(map(split_name, folders)):
        return [
            (file, name) for name in folders for file in folders_and_files(path / name, SUFFIX)[1]
        ]
    if depth == _DEEPEST:
        return []
    if len(folders) == 1:
        return _below(path / folders[0], depth + 1)
    if len(folders) <= _MOST_SETS:
        sets = [name for name in folders if _holds(path / name)]
        if len(sets) > 1:
            raise PydreamError(
                f"{path}: holds several sets of parquet files: name the folder of one, for example "
                f"{path / sets[0]} or {path / sets[1]}"
            )
        if sets:
            return _below(path / sets[0], depth + 1)
    return []


def _holds(folder: AnyPath) -> bool:
    folders, files = folders_and_files(folder, SUFFIX)
    return bool(files) or any(
        folders_and_files(folder / name, SUFFIX)[1] for name in folders if split_name(name)
    )
