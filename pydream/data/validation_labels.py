"""The labels of ImageNet's validation images, in any file that ships them."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydream.data.cache import unpacked
from pydream.data.layout import WNID, Tree, join, visible
from pydream.data.matlab import read_structs
from pydream.data.tar_ends import TAR_ERRORS, forwards
from pydream.errors import PydreamError, first_line

_WNID_AS_WORD = re.compile(rf"\b{WNID.pattern}\b")
_NUMBER = re.compile(r"(\d{8})\.\w+$")  # of ILSVRC2012_val_00000001.JPEG
_GROUND_TRUTH = "ilsvrc2012_validation_ground_truth.txt"
_META = "meta.mat"
_ILSVRC_CLASSES = 1000
# Bytes of the development kit without compression, and of its MATLAB file, which is compressed by a
# thousand at most. The kit of 2012 has a small fraction of each.
_MOST_UNPACKED, _MOST_META = 1 << 26, 1 << 21
_ILSVRC_LISTS = ("loc_synset_mapping.txt", "synset_words.txt", "synsets.txt")  # of Kaggle and Caffe


@dataclass(frozen=True)
class ValidationLabels:
    """WordNet IDs of images, by name or by number.

    Attributes
    ----------
    path
        File with the labels.
    by_name
        ID of each image, by its name without extension.
    by_number
        ID of each image in the order of their numbers, which begin at 1.
    """

    path: str
    by_name: dict[str, str] = field(default_factory=dict)
    by_number: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of images that have a label."""
        return len(self.by_name) or len(self.by_number)

    def of(self, name: str) -> str | None:
        """Return the ID of the image with this file name; None if it has none.

        Raises
        ------
        PydreamError
            If labels go by number and there are too few for the number of this image: they belong
            to other images.
        """
        if self.by_name:
            return self.by_name.get(name.rpartition(".")[0])
        number = _NUMBER.search(name)
        place = int(number[1]) if number else 0
        if place > len(self.by_number):
            raise PydreamError(
                f"{self.path} has {len(self.by_number):,} labels in order, too few for {name}; it "
                "must be the file that came with the images"
            )
        return self.by_number[place - 1] if place else None


def find_validation_labels(
    tree: Tree, levels: Sequence[str], wnids: Sequence[str]
) -> ValidationLabels | None:
    """Look for labels in folders, and in the development kit and the annotations in them.

    Parameters
    ----------
    tree
        The files.
    levels
        Folders to look in.
    wnids
        The classes of the train split, sorted; empty if there is no train split.

    Raises
    ------
    PydreamError
        If a file of labels cannot be understood, or contains numbers for an unknown list of
        classes.
    """
    files = dict(_candidates(tree, levels))
    for name, read in _READERS.items():
        for path in files.get(name, ()):
            if name == _GROUND_TRUTH:
                meta = files.get(_META)
                if meta is None:
                    continue
                found = _from_devkit(path, tree.read(path), tree.read(meta[0]))
            elif read is None:
                found = _from_text(path, tree.read(path), partial(_numbered, tree, files, wnids))
            else:
                found = read(path, tree.read(path))
            if found.count:
                return found
    return _from_annotations(tree, levels)


def _candidates(tree: Tree, levels: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Return the files that may hold labels, by name in lower case."""
    found: dict[str, list[str]] = {}
    waiting = list(dict.fromkeys(level for start in levels for level in _with_parent(start)))
    while waiting:
        path = waiting.pop(0)
        folders, files = visible(tree, path)
        for name in files:
            found.setdefault(name.lower(), []).append(join(path, name))
        waiting += [
            join(path, name)
            for name in folders
            if "devkit" in name.lower() or ("devkit" in path.lower() and name == "data")
        ]
    yield from found.items()


def _with_parent(path: str) -> tuple[str, str]:
    return path.rpartition("/")[0], path


def _from_text(
    path: str, content: bytes, numbered: Callable[[str, set[int]], Sequence[str]]
) -> ValidationLabels:
    """Read labels by line: of named images, as IDs or numbers, or of the images in order."""
    by_name: dict[str, str] = {}
    numbers: dict[str, int] = {}
    by_number: list[str] = []
    for line in content.decode("utf-8", "replace").splitlines():
        words = re.split(r"[\s,]+", line.strip(), maxsplit=2)
        label = _WNID_AS_WORD.search(line)
        if label is None and len(words) == 2 and words[1].isdecimal():
            numbers[_stem(words[0])] = int(words[1])
        elif label is not None and words[0] == label[0]:
            by_number.append(label[0])
        elif label is not None:
            by_name[_stem(words[0])] = label[0]
    if numbers:
        classes = numbered(path, set(numbers.values()))
        by_name |= {name: classes[number] for name, number in numbers.items()}
    return ValidationLabels(path, by_name, [] if by_name else by_number)


def _numbered(
    tree: Tree,
    files: Mapping[str, Sequence[str]],
    wnids: Sequence[str],
    path: str,
    numbers: set[int],
) -> Sequence[str]:
    """Find the list of classes that the numbers in a file index, from 0.

    It is the train split's if exactly its classes occur, or if it is the whole of ILSVRC 2012.
    Other numbers, such as those beside the folders of some classes, index the 1,000 classes of
    ILSVRC 2012, sorted by ID.
    """
    if numbers == set(range(len(wnids))):
        return wnids
    highest = max(numbers)
    if highest < _ILSVRC_CLASSES:
        if len(wnids) == _ILSVRC_CLASSES:
            return wnids
        ilsvrc = _ilsvrc_classes(tree, files)
        if ilsvrc is None:
            raise PydreamError(
                f"{path} gives numbers that do not count in the {len(wnids):,} class folders of "
                f"train; if they count in the {_ILSVRC_CLASSES:,} classes of ILSVRC 2012, put "
                "LOC_synset_mapping.txt beside it, or install timm, which has their list"
            )
        if set(wnids) <= set(ilsvrc):
            return ilsvrc
    raise PydreamError(
        f"{path} gives numbers up to {highest:,}, which count neither in the {len(wnids):,} class "
        f"folders of train from 0 nor in the {_ILSVRC_CLASSES:,} classes of ILSVRC 2012; write the "
        "IDs of classes (n01440764) as labels, or put LOC_val_solution.csv beside it"
    )


def _ilsvrc_classes(tree: Tree, files: Mapping[str, Sequence[str]]) -> Sequence[str] | None:
    """Return the IDs of ILSVRC 2012, sorted: from a list beside the labels, or from timm."""
    for name in _ILSVRC_LISTS:
        for path in files.get(name, ()):
            lines = tree.read(path).decode("utf-8", "replace").splitlines()
            wnids = {found[0] for line in lines if (found := _WNID_AS_WORD.match(line))}
            if len(wnids) == _ILSVRC_CLASSES:
                return sorted(wnids)
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return None
    info: Any = ImageNetInfo("imagenet-1k")
    return sorted(info.label_names())


def _stem(name: str) -> str:
    """Return the name of an image without folders and extension."""
    return name.rpartition("/")[2].rpartition(".")[0] or name


def _from_devkit(path: str, truth: bytes, meta: bytes) -> ValidationLabels:
    """Read the development kit of 2012, whose own IDs a MATLAB file explains."""
    if len(meta) > _MOST_META:
        raise PydreamError(
            f"{_META} beside {path} has {len(meta):,} bytes, too many to be the kit's"
        )
    try:
        synsets = read_structs(meta, "synsets", ("ILSVRC2012_ID", "WNID"), _MOST_UNPACKED)
        wnids = {synset["ILSVRC2012_ID"]: str(synset["WNID"]) for synset in synsets}
        return ValidationLabels(path, by_number=[wnids[int(line)] for line in truth.split()])
    except (KeyError, ValueError) as error:
        raise PydreamError(
            f"{path} and the {_META} beside it are not those of ILSVRC2012_devkit_t12: "
            f"{first_line(error)}"
        ) from error


def _from_packed_devkit(path: str, content: bytes) -> ValidationLabels:
    """Read the development kit from its archive."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(unpacked(content, _MOST_UNPACKED))) as archive:
            for member in forwards(archive):
                name = member.name.rpartition("/")[2].lower()
                if member.issparse():
                    raise tarfile.ReadError(f"its member {member.name!r} is sparse")
                if name in (_GROUND_TRUTH, _META) and (file := archive.extractfile(member)):
                    found[name] = file.read()
    except (*TAR_ERRORS, OSError, zlib.error) as error:
        raise PydreamError(f"{path} cannot be unpacked: {first_line(error)}") from error
    if len(found) < 2:
        return ValidationLabels(path)
    return _from_devkit(path, found[_GROUND_TRUTH], found[_META])


def _from_torchvision(path: str, content: bytes) -> ValidationLabels:
    """Read torchvision's extract of the development kit."""
    from pydream.torch_files import load_torch_file

    try:
        _, wnids = load_torch_file(content, path)
        return ValidationLabels(path, by_number=[str(wnid) for wnid in wnids])
    except PydreamError:
        raise
    except Exception as error:
        raise PydreamError(
            f"{path} is not torchvision's meta.bin: {type(error).__name__}; remove it"
        ) from error


def _from_annotations(tree: Tree, levels: Sequence[str]) -> ValidationLabels | None:
    """Read the class from the annotation of each image, ``Annotations/CLS-LOC/val/*.xml``."""
    for level in levels:
        path = level
        for step in ("Annotations", "CLS-LOC", "val"):
            if step not in visible(tree, path)[0]:
                break
            path = join(path, step)
        else:
            by_name = {}
            for name in visible(tree, path)[1]:
                found = re.search(rb"<name>\s*(n\d{8})\s*</name>", tree.read(join(path, name)))
                if found and name.endswith(".xml"):
                    by_name[name.removesuffix(".xml")] = found[1].decode()
            if by_name:
                return ValidationLabels(path, by_name)
    return None


# By preference: files that name their images before those that rely on their order. None: text.
_READERS: dict[str, Callable[[str, bytes], ValidationLabels] | None] = {
    "val_annotations.txt": None,
    "loc_val_solution.csv": None,
    _GROUND_TRUTH: None,
    "ilsvrc2012_devkit_t12.tar.gz": _from_packed_devkit,
    "ilsvrc2012_devkit_t12.tar": _from_packed_devkit,
    "meta.bin": _from_torchvision,
    "imagenet_2012_validation_synset_labels.txt": None,
    "val.txt": None,
    "val_map.txt": None,
}
