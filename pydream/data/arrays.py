"""Images as arrays: in memory, in ``.npz`` files, and the small sets of torchvision and sklearn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pydream.data.array_forms import as_images, as_labels
from pydream.data.source import Source
from pydream.errors import MissingSplitError, PydreamError, first_line
from pydream.formatting import byte_words
from pydream.memory_limits import usable_memory

_FLOATS_OF_NUMPY = (torch.float16, torch.float32, torch.float64)
_DIGIT_NAMES = tuple("0123456789")
# In lower case; the first pair present is used. Ours; MedMNIST's; Keras'; scikit-learn's.
_NPZ_NAMES = {
    "train": (
        ("images", "labels"),
        ("train_images", "train_labels"),
        ("x_train", "y_train"),
        ("x", "y"),
        ("data", "target"),
        ("data", "labels"),
    ),
    "test": (
        ("test_images", "test_labels"),
        ("x_test", "y_test"),
        ("val_images", "val_labels"),
        ("x_val", "y_val"),
    ),
}


class ArraySource(Source):
    """Pixels in memory."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        *,
        description: str,
        split: str,
        positions: np.ndarray | None = None,
    ) -> None:
        """Sort checked arrays by class.

        Parameters
        ----------
        images
            uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3).
        labels
            Integers (N,), below the number of class names.
        class_names
            Name of each label.
        description, split
            See `Source`.
        positions
            Integers (N,): index of each image in the user's array, which is its name in the keys;
            by default 0 … N - 1.
        """
        if positions is None:
            positions = np.arange(len(labels))
        self._order = np.argsort(labels, kind="stable")
        self._images = np.ascontiguousarray(images)
        ordered = labels[self._order].astype(np.int64)
        keys = [
            f"{class_names[label]}/{position:08d}"
            for label, position in zip(ordered, positions[self._order], strict=True)
        ]
        super().__init__(
            description=description, split=split, class_names=class_names, keys=keys, labels=ordered
        )

    def read(self, index: int) -> np.ndarray:
        """View the pixels; see `Source.read`."""
        pixels: np.ndarray = self._images[self._order[index]]
        return pixels

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """SHA-256 over class names, keys and pixels; see `Source.fingerprint`."""
        digest = self._hash_of_names()
        digest.update(str(self._images.shape).encode())
        for index in range(len(self)) if indices is None else indices:
            digest.update(self.read(index).tobytes())
        return digest.hexdigest()


def open_arrays(images: Any, labels: Any, split: str) -> Source:
    """Check the user's tensors or arrays in memory, and wrap them."""
    pixels, numbers = _to_numpy(images), _to_numpy(labels)
    description = f"arrays of shape {pixels.shape}"
    if split != "train":
        raise MissingSplitError(
            f"{description}: no {split} split; give its arrays as a source of its own"
        )
    pixels = as_images(pixels, "images", description)
    numbers, named = as_labels(numbers, "labels", description)
    names = _check_labels(numbers, len(pixels), "labels", description, named)
    return ArraySource(pixels, numbers, names, description=description, split=split)


def open_npz(path: Path, split: str, description: str) -> Source:
    """Open the train or test arrays of an npz file, by any of the names in `_NPZ_NAMES`."""
    with _load_npz(path) as archive:
        of_train = _npz_names(archive.files, "train")
        found = _npz_names(archive.files, split)
        if of_train is None or found is None:
            raise _missing_arrays(path, archive.files, split)
        names = None
        if "class_names" in archive.files:
            names = _check_names(_entry(archive, "class_names", path), description)
        labels, named = as_labels(
            _entry(archive, of_train[1], path), of_train[1], description, names
        )
        names = _check_labels(labels, None, of_train[1], description, names or named)
        if split == "test":
            labels = _entry(archive, found[1], path)
        images = as_images(_entry(archive, found[0], path), found[0], description)
    if split == "train":
        _check_labels(labels, len(images), found[1], description, names)
    else:
        labels, _ = as_labels(labels, found[1], description, names)
        _check_integers(labels, len(images), found[1], description)
        if labels.max() >= len(names):
            raise PydreamError(
                f"{path}: {found[1]} go up to {labels.max()}, but there are {len(names)} classes"
            )
    return ArraySource(images, labels, names, description=description, split=split)


def npz_has_test(path: Path) -> bool:
    """Return whether an npz file has a test split."""
    with _load_npz(path) as archive:
        found = _npz_names(archive.files, "test")
        return found is not None and {*found} <= {*archive.files}


def _npz_names(present: Sequence[str], split: str) -> tuple[str, str] | None:
    """Return the names of images and labels as spelled in the file; None if both are missing."""
    written = {name.lower(): name for name in reversed(present)}
    pairs = _NPZ_NAMES[split]
    for enough in (all, any):
        for pair in pairs:
            if enough(name in written for name in pair):
                images, labels = (written.get(name, name) for name in pair)
                return images, labels
    return None


def _missing_arrays(path: Path, present: Sequence[str], split: str) -> PydreamError:
    if split == "test" and _npz_names(present, "train") is not None:
        return MissingSplitError(f"{path}: no test split: it has no test_images and test_labels")
    known = ", ".join("/".join(pair) for pair in _NPZ_NAMES["train"])
    return PydreamError(
        f"{path}: no images and labels ({known}), only {', '.join(present) or 'nothing'}; rename "
        "them with numpy.savez"
    )


def open_digits(split: str) -> Source:
    """Open scikit-learn's 1,797 digits; every fifth of a class, in order, is for testing."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    rank_in_class = np.empty(len(images), dtype=np.int64)
    for digit in range(10):
        members = np.flatnonzero(bunch.target == digit)
        rank_in_class[members] = np.arange(len(members))
    positions = np.flatnonzero((rank_in_class % 5 == 4) == (split == "test"))
    return ArraySource(
        images[positions],
        bunch.target[positions],
        _DIGIT_NAMES,
        description="digits",
        split=split,
        positions=positions,
    )


def _cifar(dataset: Any) -> tuple[np.ndarray, Any, Sequence[str]]:
    return dataset.data, dataset.targets, dataset.classes


def _mnist(dataset: Any) -> tuple[np.ndarray, Any, Sequence[str]]:
    return dataset.data.numpy(), dataset.targets, _DIGIT_NAMES


def _fashion(dataset: Any) -> tuple[np.ndarray, Any, Sequence[str]]:
    return dataset.data.numpy(), dataset.targets, dataset.classes


def _svhn(dataset: Any) -> tuple[np.ndarray, Any, Sequence[str]]:
    return dataset.data.transpose(0, 2, 3, 1), dataset.labels, _DIGIT_NAMES


_Unpack = Callable[[Any], tuple[np.ndarray, Any, Sequence[str]]]
_IDX = "train-images-idx3-ubyte*"  # also compressed
_MAT = "train_32x32.mat"
# Name in a spec: the name of torchvision's class, which takes a second to import; the folder of its
# files below the root; a pattern for one of these files; and the function that reads the set.
TORCHVISION_SETS: dict[str, tuple[str, str, str, _Unpack]] = {
    "cifar10": ("CIFAR10", "cifar-10-batches-py", "data_batch_1", _cifar),
    "cifar100": ("CIFAR100", "cifar-100-python", "train", _cifar),
    "mnist": ("MNIST", "MNIST/raw", _IDX, _mnist),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw", _IDX, _fashion),
    "svhn": ("SVHN", "", _MAT, _svhn),
}


def torchvision_spec(path: Path) -> str | None:
    """Return the spec of one of `TORCHVISION_SETS` if a path contains only its files.

    Raises
    ------
    OSError
        If a folder cannot be listed.
    """
    if path.name in (_MAT, "test_32x32.mat", "extra_32x32.mat"):
        return f"svhn:{path.parent}"
    if not path.is_dir():
        return None
    folders = tuple(member.name for member in path.iterdir() if member.is_dir())
    for name, (_, folder, pattern, _) in TORCHVISION_SETS.items():
        inner = Path(folder).parts
        if folders == inner[:1] and _holds(path / folder, pattern):
            return f"{name}:{path}"
        if inner and path.parts[-len(inner) :] == inner and _holds(path, pattern):
            return f"{name}:{path.parents[len(inner) - 1]}"
    return None


def _holds(folder: Path, pattern: str) -> bool:
    return any(file.is_file() for file in folder.glob(pattern))


def open_torchvision(name: str, root: Path, split: str) -> Source:
    """Open one of `TORCHVISION_SETS` from existing files; nothing is downloaded."""
    class_name, folder, _, unpack = TORCHVISION_SETS[name]
    dataset_class = getattr(importlib.import_module("torchvision.datasets"), class_name)
    choice = {"split": split} if name == "svhn" else {"train": split == "train"}
    try:
        dataset = dataset_class(root, download=False, **choice)
    except (RuntimeError, OSError, ValueError) as error:
        raise PydreamError(
            f"{name}: its files are missing or damaged in {root / folder}; fetch them with "
            f"torchvision.datasets.{class_name}({str(root)!r}, download=True)"
        ) from error
    images, targets, names = unpack(dataset)
    description = f"{name}:{root}"
    return ArraySource(images, np.asarray(targets), names, description=description, split=split)


def _check_labels(
    labels: np.ndarray, count: int | None, name: str, description: str, names: list[str] | None
) -> list[str]:
    """Refuse labels that are not 0 … C - 1, each at least once; return the C class names."""
    _check_integers(labels, count, name, description)
    classes = int(labels.max()) + 1
    counts = np.bincount(labels.astype(np.int64)) if classes <= len(labels) else None
    if counts is None or not counts.all():
        present = set(labels.tolist())
        missing = next(label for label in range(classes) if label not in present)
        raise PydreamError(
            f"{description}: {name} go up to {classes - 1}, but no image has label {missing}; "
            "number the classes 0, 1, 2, … without gaps"
        )
    if names is not None and len(names) != classes:
        raise PydreamError(
            f"{description}: {len(names)} class_names for {classes} classes in {name}"
        )
    return [str(label) for label in range(classes)] if names is None else names


def _check_integers(labels: np.ndarray, count: int | None, name: str, description: str) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise PydreamError(
            f"{description}: {name} must be integers of shape (N,), "
            f"but are {labels.dtype} of shape {labels.shape}"
        )
    if count is not None and len(labels) != count:
        raise PydreamError(f"{description}: {count} images but {len(labels)} {name}")
    if len(labels) == 0:
        raise PydreamError(f"{description}: {name} are empty")
    if labels.min() < 0:
        raise PydreamError(f"{description}: {name} hold the negative value {labels.min()}")


def _check_names(names: np.ndarray, description: str) -> list[str]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise PydreamError(
            f"{description}: class_names must be strings of shape (C,), "
            f"but are {names.dtype} of shape {names.shape}"
        )
    result: list[str] = names.tolist()
    if len(set(result)) < len(result):
        double = next(name for name in result if result.count(name) > 1)
        raise PydreamError(f"{description}: class_names hold {double!r} more than once")
    return result


def _load_npz(path: Path) -> Any:
    try:
        loaded = np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile and numpy raise anything on damaged files
        raise PydreamError(f"{path}: not a readable npz file: {first_line(error)}") from error
    if not hasattr(loaded, "files"):
        raise PydreamError(f"{path}: a single array; save images and labels with numpy.savez")
    room = usable_memory()
    needed = sum(member.file_size for member in loaded.zip.infolist())
    if room is not None and needed > room:
        loaded.close()
        raise PydreamError(
            f"{path}: its arrays take {byte_words(needed)}, and this process may use "
            f"{byte_words(room)}; save fewer images, or save them as files"
        )
    return loaded


def _entry(archive: Any, name: str, path: Path) -> np.ndarray:
    if name not in archive.files:
        found = ", ".join(archive.files) or "nothing"
        raise PydreamError(f"{path}: no array {name!r}, only {found}")
    try:
        array: np.ndarray = archive[name]
    except Exception as error:  # as above
        raise PydreamError(f"{path}: array {name!r} cannot be read: {first_line(error)}") from error
    return array


def _to_numpy(values: Any) -> np.ndarray:
    """Return the values of a tensor of any floating-point type, or of an array-like, for NumPy."""
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            if values.is_floating_point() and values.dtype not in _FLOATS_OF_NUMPY:
                values = values.float()
            values = values.numpy()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PydreamError(
            f"a source in memory must be arrays or dense tensors: {first_line(error)}"
        ) from error
