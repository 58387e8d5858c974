"""Names of folders and files that denote a split, in all usual words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_TRAIN = ("train", "training", "trn")
# By preference: the first one with labels is used.
_TEST = (
    *("test", "testing", "tst", "val", "validation", "valid", "validate"),
    *("eval", "evaluation", "dev", "holdout"),
)
_UNLABELLED = ("pred", "predict", "prediction", "unlabeled", "unlabelled", "unsup", "inference")
# Part of any folder's name, so that train and test_images belong together.
_FILLERS = (
    *("set", "sets", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"),
    *("labels", "label"),
)

_WORDS = {
    **dict.fromkeys(_TRAIN, "train"),
    **dict.fromkeys(_TEST, "test"),
    **dict.fromkeys(_UNLABELLED, "unlabelled"),
}


_LISTS = ("split", "splits")  # in the name of a file that lists the split of each image


class SplitName(NamedTuple):
    """Meaning of a name that contains the name of a split."""

    split: str  # train, test or unlabelled
    word: str  # the word that denotes the split
    rest: tuple[str, ...]  # the other words, without those that fit any folder


def split_name(name: str) -> SplitName | None:
    """Interpret a name as that of a split; None if it has no word for one, or several.

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
    """Return the split of a word: train, test or unlabelled."""
    return _WORDS[word]


def preference(word: str) -> int:
    """Return the rank of a word of a split; the lowest is preferred."""
    return list(_WORDS).index(word)


def may_list_test(name: str) -> bool:
    """Return whether a file's name suggests that it lists test images."""
    return any(_WORDS.get(word) == "test" or word in _LISTS for word in _words(name))


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [_without_filler(word) for word in re.findall(r"[^\W\d_]+|\d+", spaced.lower())]


def _without_filler(word: str) -> str:
    """Return ``train`` for ``trainset``, for example."""
    for filler in _FILLERS:
        if word.endswith(filler) and word.removesuffix(filler) in _WORDS:
            return word.removesuffix(filler)
    return word


def split_folders(names: Iterable[str]) -> dict[str, list[str]] | None:
    """Find the splits among sibling folders.

    Folders are splits if a training and a testing one differ only in that word, or if all are named
    after splits; a single class named ``train`` is not a split.

    Returns
    -------
    dict[str, list[str]] or None
        The folders for ``"train"`` and ``"test"``, the preferred first; None if there are none, or
        if it is unclear which belong together.
    """
    names = list(names)
    read = {name: found for name in names if (found := split_name(name))}
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name, found in read.items():
        if found.split != "unlabelled":
            groups.setdefault(found.rest, {}).setdefault(found.split, []).append(name)
    whole = [group for group in groups.values() if len(group) == 2]
    # A single folder named after several splits is a set in a wrapper, such as imagenet-val.
    if not whole and len(read) == len(names) and (len(names) > 1 or () in groups):
        whole = list(groups.values())
    if len(whole) != 1:
        return None
    return {
        split: sorted(found, key=lambda name: (preference(read[name].word), name))
        for split, found in whole[0].items()
    }


def look_like_splits(names: Iterable[str]) -> bool:
    """Return whether all names contain the name of a split, so they can hardly be classes."""
    return all(split_name(name) for name in names)
