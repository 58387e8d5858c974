"""Names of folders and files that stand for a split, in any of the usual words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_TRAIN = ("train", "training", "trn")
# By preference: the first with labels counts.
_TEST = (
    *("test", "testing", "tst", "val", "validation", "valid", "validate"),
    *("eval", "evaluation", "dev", "holdout"),
)
_UNLABELLED = ("pred", "predict", "prediction", "unlabeled", "unlabelled", "unsup", "inference")
# Said of any folder, so that train and test_images belong together.
_FILLERS = (
    *("set", "sets", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"),
    *("labels", "label"),
)

_WORDS = {
    **dict.fromkeys(_TRAIN, "train"),
    **dict.fromkeys(_TEST, "test"),
    **dict.fromkeys(_UNLABELLED, "unlabelled"),
}


_LISTS = ("split", "splits")  # in the name of a file that tells which image is of which split


class SplitName(NamedTuple):
    """Meaning of a name that contains a split's name."""

    split: str  # train, test or unlabelled
    word: str  # the word that says so
    rest: tuple[str, ...]  # the other words, without those that fit any folder


def split_name(name: str) -> SplitName | None:
    """Read a name as that of a split; None when it has no word of one, or several.

    >>> split_name("seg_train")
    SplitName(split='train', word='train', rest=('seg',))
    """
    words = _words(name)
    splits = [word for word in words if word in _WORDS]
    if len(splits) != 1:
        return None
    rest = tuple(word for word in words if word not in _WORDS and word not in _FILLERS)
    return SplitName(_WORDS[splits[0]], splits[0], rest)


def split_of(word: str) -> str:
    """Split that a word is of: train, test or unlabelled."""
    return _WORDS[word]


def preference(word: str) -> int:
    """Place of a word of a split among those of all: the first is preferred."""
    return list(_WORDS).index(word)


def may_list_test(name: str) -> bool:
    """Whether a file's name says that it may tell which images are for testing."""
    return any(_WORDS.get(word) == "test" or word in _LISTS for word in _words(name))


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [_without_filler(word) for word in re.findall(r"[^\W\d_]+|\d+", spaced.lower())]


def _without_filler(word: str) -> str:
    """Take ``trainset`` as ``train``."""
    for filler in _FILLERS:
        if word.endswith(filler) and word.removesuffix(filler) in _WORDS:
            return word.removesuffix(filler)
    return word


def split_folders(names: Iterable[str]) -> dict[str, list[str]] | None:
    """Find which of the folders beside each other are splits.

    Folders are splits when one for training and one for testing are named alike but for that
    word, or when all are named after splits; a class that happens to be called ``train`` is none.

    Returns
    -------
    dict[str, list[str]] or None
        The folders for ``"train"`` and ``"test"``, the preferred first; None when there are none,
        or when it cannot be told which belong together.
    """
    names = list(names)
    read = {name: found for name in names if (found := split_name(name))}
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name, found in read.items():
        if found.split != "unlabelled":
            groups.setdefault(found.rest, {}).setdefault(found.split, []).append(name)
    whole = [group for group in groups.values() if len(group) == 2]
    # A single folder called after more than a split is a set in a wrapper, as imagenet-val.
    if not whole and len(read) == len(names) and (len(names) > 1 or () in groups):
        whole = list(groups.values())
    if len(whole) != 1:
        return None
    return {
        split: sorted(found, key=lambda name: (preference(read[name].word), name))
        for split, found in whole[0].items()
    }


def look_like_splits(names: Iterable[str]) -> bool:
    """Whether all names contain a split's name, so that they can hardly be classes."""
    return all(split_name(name) for name in names)
