"""Opening of the source named by the user."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydream.data import arrays, files
from pydream.data.archives import ARCHIVE_SUFFIXES
from pydream.data.cache import fetched
from pydream.data.class_lists import chosen_labels
from pydream.data.label_tables import is_table
from pydream.data.layout import Tree, ignored_words
from pydream.data.parquet_files import SUFFIX as PARQUET
from pydream.data.parquet_files import ParquetFiles, find_parquet
from pydream.data.remote import AnyPath, RemotePath, located
from pydream.data.shard_files import ShardFiles, find_shards, is_pattern, pattern_files
from pydream.data.source import Source
from pydream.data.source_options import COLUMNS, divided
from pydream.data.subset import Subset
from pydream.errors import MissingSplitError, PydreamError
from pydream.files import expand_home
from pydream.progress import say
from pydream.urls import without_secrets

__all__ = ["Source", "SourceSpec", "check_classes", "has_split", "open_source"]

SourceSpec = str | os.PathLike[str] | Source | tuple[Any, Any]
"""Anything that names a source; see `open_source`."""

_KINDS = ", ".join(
    (
        "a folder of class folders, a table of file and label (.csv), .zip, .tar, .tar.gz, .npz, "
        "a folder of parquet files or of WebDataset's shards, a URL of any of these",
        "digits",
        *(f"{name}:ROOT" for name in arrays.TORCHVISION_SETS),
    )
)

_TENSORS = (
    "is not a source of real images; save it by numpy.savez(FILE, images=…, labels=…), or in "
    "Python give pydream.open_source((images, labels))"
)
_ADVICE = {
    ".npy": "a single array; put images and labels into one file by "
    "numpy.savez(FILE, images=…, labels=…)",
    **dict.fromkeys((".pt", ".pth", ".pkl", ".pickle", ".mat", ".h5", ".hdf5"), _TENSORS),
}


def open_source(
    spec: SourceSpec, split: str = "train", *, exif: Literal["ignore", "apply"] = "ignore"
) -> Source:
    """Open a labelled set of images.

    Parameters
    ----------
    spec
        One of

        - a folder, ``.zip`` or ``.tar``, read in place, or a compressed tar, which is decompressed
          once into a cache, with

          - one folder per class, of any name (``ROOT/<class>/…/<image>``), or with splits above
            them (``ROOT/train/<class>/…`` and ``ROOT/test/…``, also by other usual names as
            ``val``, ``Testing``, ``seg_train``), below any number of wrapper folders;
          - ImageNet as it is shipped: ILSVRC 2012 of image-net.org, of Kaggle and of torchvision,
            with the labels of its flat validation images; and Tiny-ImageNet;
          - a table of file and label beside the images (``labels.csv``, ``train.csv``,
            ``metadata.jsonl``).

          Files that systems and tools leave behind (hidden files, ``__MACOSX``, ``@eaDir``) are
          ignored.
        - such a table itself, in the folder of its images or above them.
        - an ``.npz`` file with ``images``, (N, H, W), (N, H, W, C) or (N, C, H, W), from 0 to 255
          (floats must reach 8) or floats from 0 to 1, and ``labels``, integers (N,) without gaps,
          strings, or one-hot (N, K); optionally ``class_names``, strings (C,), and ``test_images``
          and ``test_labels``. The names of MedMNIST (``train_images``), Keras (``x_train``) and
          scikit-learn (``data``, ``target``) are read, too.
        - a ``.parquet`` file or a folder of them, as on the Hugging Face Hub, with a column of
          encoded images and one of labels. ``"ROOT:image=COLUMN,label=COLUMN"`` names the columns
          where they are not evident.
        - any of these names with ``":classes=LIST"``: some of its classes, in the order of LIST,
          which is a text file with a class on each line, a range A:B of class numbers without B, or
          the name of a subset of ImageNet-1K: imagenette, imagewoof, imagefruit, imagemeow,
          imagesquawk, imageyellow, imagenet-100.
        - a ``datasets.Dataset`` or ``DatasetDict``.
        - a folder of WebDataset's shards, a shard, or a pattern as ``ROOT/train-{000..146}.tar``:
          tars with ``KEY.jpg`` and its label beside it in ``KEY.cls`` or ``KEY.json``.
        - a URL that fsspec opens, as ``s3://BUCKET/…``, ``gs://…``, ``https://…`` or
          ``hf://datasets/NAME``, of any of these files and folders. Archives, shards and parquet
          files are read in parts, a ``.tar`` that is no shard and an ``.npz`` are fetched once into
          a cache.
        - ``"digits"``, the digits of scikit-learn, 8 × 8.
        - ``"cifar10:ROOT"``, ``"cifar100:ROOT"``, ``"mnist:ROOT"``, ``"fashion-mnist:ROOT"``,
          ``"svhn:ROOT"``: the files of torchvision's sets below ROOT. Nothing is downloaded.
        - a pair (images, labels) of tensors or arrays as in an ``.npz`` file.
        - a source, which is returned as it is.
    split
        ``"train"`` or ``"test"``. A set without splits is all train.
    exif
        Treatment of the EXIF orientation of image files: ``"apply"``, or ``"ignore"``, as in
        torchvision's ImageFolder.

    Returns
    -------
    Source
        The images of the split.

    Raises
    ------
    PydreamError
        If the source is missing, empty, damaged or in another layout; `MissingSplitError` if it has
        no such split.
    ValueError
        If `split` or `exif` is any other word.

    Notes
    -----
    Standard error reports the number and kinds of ignored files, and the file of the labels if
    folders do not name the classes.
    """
    _check_split(split)
    if exif not in ("ignore", "apply"):
        raise ValueError(f'exif must be "ignore" or "apply", got {exif!r}')
    if isinstance(spec, Source):
        if spec.split != split:
            raise MissingSplitError(
                f"{spec.description}: no {split} split: it is open as {spec.split}"
            )
        return spec
    if isinstance(spec, str):
        name, options = divided(spec)
        shown = without_secrets(spec)
        source = _open(name, split, shown, options)
        if "classes" in options:
            labels = chosen_labels(options["classes"], source.class_names, without_secrets(name))
            source = Subset(source, labels, description=shown)
    else:
        source = _open(spec, split)
    _report(source)
    source.upright = exif == "apply"
    source.remote = isinstance(spec, str) and isinstance(located(divided(spec)[0]), RemotePath)
    return source


def check_classes(source: Source) -> None:
    """Raise PydreamError if all images are of one class, which leaves nothing to learn."""
    if len(source.class_names) > 1:
        return
    raise PydreamError(
        f"{source.description}: only one class, {source.class_names[0]!r}, and nothing to tell it "
        "from; put the images of each class into a folder of their own, ROOT/<class>/<image>, or "
        "a table of file and label beside them, as labels.csv with the columns file and label"
    )


def check_outside(source: Source, out: Path) -> None:
    """Raise PydreamError if an output would lie among the class folders that it is made of.

    What a run writes there would be one more class, also for the run itself if it is killed.
    """
    if not os.path.isdir(source.description):
        return
    root = Path(source.description).resolve()
    for folder in out.resolve().parents:
        among = folder == root or root in folder.parents
        if among and all(os.path.isdir(folder / name) for name in source.class_names):
            raise PydreamError(
                f"{out} is among the class folders of {source.description}, and would be one more: "
                "give an --out outside of them"
            )


def _report(source: Source) -> None:
    """Report how images were found, in a line or two."""
    where = f"{source.description} ({source.split})"
    for note in source.notes:
        _say_once(f"{where}: {note}")
    if source.ignored:
        _say_once(f"{where}: ignored {ignored_words(source.ignored_kinds)}")


@lru_cache(maxsize=256)
def _say_once(line: str) -> None:
    """Print a line once: one run may open a source several times."""
    say(line)


def _open(
    spec: Any, split: str, description: str = "", options: Mapping[str, str] | None = None
) -> Source:
    """Open all classes of a source; `description` is its name with the options behind it."""
    if isinstance(spec, tuple):
        return arrays.open_arrays(*_pair(spec), split)
    if _is_dataset(spec):
        from pydream.data.dataset_source import open_dataset

        return open_dataset(spec, split)
    spec = _named(spec)
    if columns := _columns(options or {}):
        parquet = open_parquet(_existing(spec), split, description, columns)
        assert parquet is not None  # else it has been refused
        return parquet
    if spec == "digits":
        return arrays.open_digits(split)
    if (named := _torchvision_name(spec)) is not None:
        return arrays.open_torchvision(*named, split)
    if (shards := _shards(spec)) is not None:
        from pydream.data.shards import ShardSource  # pyarrow takes a while to import

        return ShardSource(shards, without_secrets(str(spec)), split)
    path = _existing(spec)
    if path.suffix.lower() == ".npz" and path.is_file():
        return arrays.open_npz(fetched(path), split, str(path))
    if (parquet := open_parquet(path, split)) is not None:
        return parquet
    tree, table = _tree(path)
    return files.FileSource(tree, str(path), split, table)


def has_split(spec: SourceSpec, split: str) -> bool:
    """Return whether a source has a split; arguments as for `open_source`.

    Raises
    ------
    PydreamError
        If the source is missing or damaged.
    ValueError
        If `split` is neither ``"train"`` nor ``"test"``.
    """
    _check_split(split)
    if isinstance(spec, Source):
        return spec.split == split
    if isinstance(spec, tuple):
        return split == "train"
    if _is_dataset(spec):
        from pydream.data.dataset_source import dataset_splits

        return split in dataset_splits(spec)
    spec, options = divided(spec) if isinstance(spec, str) else (spec, {})
    spec, columns = _named(spec), _columns(options)
    if spec == "digits" or _torchvision_name(spec) is not None:
        return True
    if (shards := _shards(spec)) is not None:
        return split in shards.splits
    path = _existing(spec)
    if path.suffix.lower() == ".npz" and path.is_file():
        return split == "train" or arrays.npz_has_test(fetched(path))
    if (found := _parquet(path, columns)) is not None:
        from pydream.data.parquet import parquet_splits

        return split in parquet_splits(found, columns, str(path))
    tree, table = _tree(path)
    return split in files.find_splits(tree, str(path), table).lay_out


def _is_dataset(spec: object) -> bool:
    """Return whether an object is of Hugging Face's library `datasets`."""
    return type(spec).__module__.partition(".")[0] == "datasets"


def _shards(spec: str | os.PathLike[str]) -> ShardFiles | None:
    """Find the shards of a source; None if it is of another kind."""
    if is_pattern(str(spec)):
        return pattern_files(str(spec))
    path = located(spec)
    with _unreadable_as_error(path):
        return find_shards(path) if path.exists() else None


def _columns(options: Mapping[str, str]) -> dict[str, str]:
    return {kind: name for kind, name in options.items() if kind in COLUMNS}


def open_parquet(
    path: AnyPath,
    split: str = "train",
    description: str = "",
    columns: Mapping[str, str] | None = None,
) -> Source | None:
    """Open a split of the parquet files of a source; None if it has none with images.

    Parameters
    ----------
    path
        A file or a folder.
    split
        ``"train"`` or ``"test"``.
    description
        What the user gave, by default the path.
    columns
        Columns that the user named: ``"image"`` and ``"label"``.

    Raises
    ------
    PydreamError
        If they are damaged or have no such split, or if it is unclear which columns are meant.
    """
    found = _parquet(path, columns or {})
    if found is None:
        return None
    from pydream.data.parquet import ParquetSource  # pyarrow takes a while to import

    return ParquetSource(found, description or str(path), split, columns or {})


def _parquet(path: AnyPath, columns: Mapping[str, str]) -> ParquetFiles | None:
    """Find the parquet files of a source; None if it has none, or only tables without images."""
    with _unreadable_as_error(path):
        is_folder = path.is_dir()
        is_file = path.suffix.lower() == PARQUET and path.is_file()
        found = find_parquet(path) if is_folder or is_file else None
    if found is not None and is_folder:
        from pydream.data.parquet import has_images

        found = found if has_images(found) else None
    if found is None and columns:
        raise PydreamError(f"{path}: only sources of parquet files have columns; leave them out")
    return found


def _tree(path: AnyPath) -> tuple[Tree, str | None]:
    """Open the files of a folder or archive, or those around a table of labels; return its name."""
    with _unreadable_as_error(path):
        if is_table(path.name) and path.is_file():
            return files.open_tree(path.parent), path.name
        return files.open_tree(path), None


@contextmanager
def _unreadable_as_error(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PydreamError(
            f"{error.filename or path}: cannot be read: {error.strerror or error}"
        ) from error


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')


def _named(spec: str | os.PathLike[str]) -> str | Path:
    """Return the name of a source with ``~`` expanded."""
    if isinstance(spec, str):
        if not spec.strip():
            raise PydreamError(f"an empty name was given for a source; give {_KINDS}")
        return expand_home(spec)
    if isinstance(spec, os.PathLike):
        return expand_home(Path(spec))
    raise PydreamError(
        f"{type(spec).__name__} is not a source; give the name of one ({_KINDS}), or a pair "
        "(images, labels)"
    )


def _pair(spec: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(spec) != 2:
        raise PydreamError(f"a source in memory is a pair (images, labels), got {len(spec)} items")
    return spec[0], spec[1]


def _torchvision_name(spec: str | Path) -> tuple[str, Path] | None:
    """Return name and root of ``name:ROOT``; None for any other spec."""
    name, colon, root = str(spec).partition(":")
    if name not in arrays.TORCHVISION_SETS:
        return None
    if not root:
        if not colon and Path(name).exists():
            return None
        raise PydreamError(f"{name}: which files? Name the folder that holds them: {name}:ROOT")
    return name, Path(root)


def _existing(spec: str | Path) -> AnyPath:
    """Return the path of a source that exists and has a readable kind."""
    path = located(spec)
    with _unreadable_as_error(path):
        there = path.exists()
        named = arrays.torchvision_spec(path) if isinstance(path, Path) else None
    if not there and isinstance(path, RemotePath):
        raise PydreamError(f"{path}: there is no such bucket, folder or object")
    if not there:
        raise PydreamError(f"{path}: no such source; give {_KINDS}")
    if named is not None:
        raise PydreamError(f"{path}: the files of a set that torchvision reads; name it as {named}")
    if (advice := _ADVICE.get(path.suffix.lower())) is not None and path.is_file():
        raise PydreamError(f"{path}: {advice}")
    known = path.name.lower().endswith((*ARCHIVE_SUFFIXES, ".npz", PARQUET)) or is_table(path.name)
    if path.is_dir() or known:
        return path
    raise PydreamError(f"{path}: not a source; give {_KINDS}")
