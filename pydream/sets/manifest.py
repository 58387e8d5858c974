"""``manifest.json``: the record that a distilled set keeps of itself, for all methods."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from pydream.data.source import Source
from pydream.entry_types import check_entries, parse_json
from pydream.errors import PydreamError, error_words
from pydream.sets.image_formats import ImageFormat, hash_image_files, image_files
from pydream.sets.manifest_entries import OTHERS, REQUIRED
from pydream.versions import check_format, package_record

FORMAT_VERSION = 1
_FILE = "manifest.json"


class SourceRecord(TypedDict, total=False):
    """The real images that a set was distilled from; ``ignored`` only if files were ignored."""

    description: str
    split: str
    fingerprint: str
    ignored: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a distilled set; None for facts that a set does not record.

    The fields have the order and the names of the file.

    Attributes
    ----------
    format
        Version of the file's format.
    method
        ``"rded"``, ``"dream"``; ``"imported"`` for a set of another tool.
    package
        ``name`` and ``version`` of the package that made the set; None for a set of another tool.
    config
        The settings that decide the bytes of the set, and hashes of the files they name.
    seed
        The random seed.
    source
        The real images.
    class_names
        Names of the classes, in the order of the labels.
    images_per_class
        IPC; a number for each class, in their order, if they differ.
    factor
        Patches or cells along each side of an image.
    side
        Height and width of the images, in pixels.
    views
        Views that the images are made for: ``"dsa"`` if students see their cells, each enlarged to
        a whole image. None leaves the choice to the recipe.
    mean, std
        Normalisation of the images, per channel, on the scale of [0, 1].
    whitening
        ``method`` (``"zca"``), ``epsilon``, ``side`` and, if it is known, ``source_fingerprint`` of
        the images that it is fitted on, if students are to see whitened images; None if not.
    image_format
        Format of the image files.
    images_bytes, images_sha256
        Bytes and SHA-256 of all image files together.
    skipped
        Unreadable source images: ``key`` and ``reason`` of each.
    enlarged
        Number of source images that were smaller than a patch (RDED).
    filled
        Number of key patches chosen by realism where a class had fewer distinct patches than
        clusters (RDED); None if there are none.
    observer
        The observer (RDED): ``arch``, ``weights_sha256``, ``precision``; its input (``side``,
        ``mean``, ``std`` and their ``origins``, which older sets lack); its accuracy on real images
        (``top1``, ``images``, ``held_out``); and the order of its classes (``class_order``).
    further_observers
        The other observers, described likewise, if several scored the patches (RDED).
    network
        ``arch`` of the matched networks (DREAM+).
    history
        Loss and accuracy by iteration (DREAM+).
    student_rate
        Learning rate of students, learned with the images (MTT).
    refinement
        The refinement of the images, if they were refined: ``steps``, ``learning_rate``, ``seed``;
        ``observers``, the facts of each; ``layers``, the layer matched of each; ``loss``, one
        value for each step; and ``distances``, the loss without augmentation of the images
        ``unrefined``, ``refined`` (in float32) and ``rounded`` to 8 bits.
    labels_bytes, labels
        Bytes of the stored labels, and their description by seed (`pydream relabel`).
    others
        All other entries of a file.
    """

    format: int
    method: str
    package: Mapping[str, str] | None = None
    config: Mapping[str, Any] | None = None
    seed: int | None = None
    source: SourceRecord | None = None
    class_names: tuple[str, ...]
    images_per_class: int | tuple[int, ...]
    factor: int = 1
    side: int
    views: Literal["crop", "dsa"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    whitening: Mapping[str, Any] | None = None
    image_format: ImageFormat | None = None
    images_bytes: int | None = None
    images_sha256: str | None = None
    skipped: Sequence[Mapping[str, str]] | None = None
    enlarged: int | None = None
    filled: int | None = None
    observer: Mapping[str, Any] | None = None
    further_observers: Sequence[Mapping[str, Any]] | None = None
    network: Mapping[str, str] | None = None
    history: list[dict[str, Any]] | None = None
    student_rate: float | None = None
    refinement: Mapping[str, Any] | None = None
    labels_bytes: int | None = None
    labels: Mapping[str, Any] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of images of each class, in the order of the classes."""
        count = self.images_per_class
        return count if isinstance(count, tuple) else (count,) * len(self.class_names)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read ``manifest.json`` of a set.

        Raises
        ------
        PydreamError
            If there is none, it lacks a required entry, or its format is newer.
        """
        file = folder / _FILE
        if not file.is_file():
            raise PydreamError(f"{folder}: no distilled set here ({_FILE} is missing)")
        try:
            content = dict(parse_json(file.read_bytes()))
            version = int(content["format"])
        except OSError as error:
            raise PydreamError(f"{file} cannot be read: {error.strerror or error}") from error
        except (ArithmeticError, ValueError, KeyError, TypeError) as error:
            raise PydreamError(
                f"{file}: not a manifest of a distilled set ({error_words(error)})"
            ) from error
        check_format(file, version, FORMAT_VERSION)
        try:
            return cls.from_json(content)
        except (KeyError, TypeError) as error:
            raise PydreamError(
                f"{file}: not a manifest of a distilled set ({error_words(error)})"
            ) from error

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        """Make a manifest from the content of the file.

        Raises
        ------
        KeyError
            If it lacks a required entry.
        TypeError
            If an entry is of another type.
        """
        check_entries(content, REQUIRED, OTHERS)
        values = {"method": "unknown", **content}
        values.pop("class_to_idx", None)  # follows from the names
        for name in ("format", "class_names", "images_per_class", "side"):
            values[name] = content[name]
        for name in ("class_names", "mean", "std"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        if isinstance(values["images_per_class"], list):
            values["images_per_class"] = tuple(values["images_per_class"])
        known = {setting.name for setting in dataclasses.fields(cls)} - {"others"}
        others = {name: values.pop(name) for name in [*values] if name not in known}
        return cls(**values, others=others)

    def record_of(self, weights_sha256: str) -> Mapping[str, Any]:
        """Return the record of the observer with these weights; empty if none made the set."""
        made_by = [self.observer or {}, *(self.further_observers or ())]
        return next((one for one in made_by if one.get("weights_sha256") == weights_sha256), {})

    def as_json(self) -> dict[str, Any]:
        """Return the content of the file, without facts that are None."""
        content: dict[str, Any] = {}
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if setting.name == "others" or value is None:
                continue
            content[setting.name] = list(value) if isinstance(value, tuple) else value
            if setting.name == "class_names":
                content["class_to_idx"] = {name: index for index, name in enumerate(value)}
        return {**content, **self.others}

    def as_text(self) -> str:
        """Return the text of the file."""
        return json.dumps(self.as_json(), indent=2) + "\n"


@contextmanager
def reading_entries(file: Path | str) -> Iterator[None]:
    """Raise PydreamError if a block misses an entry of a manifest, or finds no words for it."""
    try:
        yield
    except KeyError as error:
        raise PydreamError(
            f"{file}: its manifest lacks an entry, or has an unknown value there "
            f"({error_words(error)})"
        ) from error


def one_count_or_each(counts: Sequence[int]) -> int | tuple[int, ...]:
    """Return `Manifest.images_per_class` for the numbers of images of the classes."""
    return counts[0] if len({*counts}) == 1 else tuple(counts)


def describe_set(
    source: Source,
    *,
    method: str,
    identity: Mapping[str, Any],
    ipc: int | Sequence[int],
    factor: int,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    image_format: ImageFormat,
) -> Manifest:
    """Return the manifest of a set that is to be made, with the entries that all methods share.

    Parameters
    ----------
    source
        Source that the set is distilled from.
    method
        Name of the method.
    identity
        Facts that decide the bytes of the set, including ``seed`` and ``source_fingerprint``.
    ipc, factor, side
        Images per class, or of each class; cells per side; pixels per side.
    mean, std
        Mean and standard deviation to normalise with, on the scale of [0, 1].
    image_format
        Format of the files.
    """
    described: SourceRecord = {
        "description": source.description,
        "split": source.split,
        "fingerprint": identity["source_fingerprint"],
    }
    if source.ignored:
        described["ignored"] = source.ignored_kinds
    return Manifest(
        format=FORMAT_VERSION,
        method=method,
        package=package_record(),
        config=dict(identity),
        seed=identity["seed"],
        source=described,
        class_names=tuple(source.class_names),
        images_per_class=ipc if isinstance(ipc, int) else one_count_or_each(ipc),
        factor=factor,
        side=side,
        mean=tuple(mean),
        std=tuple(std),
        image_format=image_format,
    )


def with_images(manifest: Manifest, folder: Path) -> Manifest:
    """Return a manifest with bytes and hash of the images in the folder of its set."""
    files = image_files(folder)
    return dataclasses.replace(
        manifest,
        images_bytes=sum(file.stat().st_size for file in files),
        images_sha256=hash_image_files(folder),
    )
