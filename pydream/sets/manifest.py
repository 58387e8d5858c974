"""The record that every distilled set keeps of itself, whatever method made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydream.data.source import Source
from pydream.sets.distilled import FORMAT_VERSION, hash_image_files
from pydream.sets.image_formats import ImageFormat
from pydream.versions import package_record


def describe_set(
    folder: Path,
    source: Source,
    *,
    method: str,
    identity: Mapping[str, Any],
    ipc: int,
    factor: int,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    image_format: ImageFormat,
    skipped: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the part of a manifest that all methods share.

    Parameters
    ----------
    folder
        The set, its images written.
    source
        Source that it was distilled from.
    method
        Name of the method.
    identity
        What decides its bytes, with ``seed`` and ``source_fingerprint``.
    ipc, factor, side
        Images per class, cells per side, pixels per side.
    mean, std
        Mean and standard deviation to normalise with, on the scale of [0, 1].
    image_format
        Format of the files.
    skipped
        Source images that could not be read: ``key`` and ``reason``.
    """
    files = list((folder / "images").glob("*/*"))
    return {
        "format": FORMAT_VERSION,
        "method": method,
        "package": package_record(),
        "config": dict(identity),
        "seed": identity["seed"],
        "source": {
            "description": source.description,
            "split": source.split,
            "fingerprint": identity["source_fingerprint"],
            **({"ignored": source.ignored_kinds} if source.ignored else {}),
        },
        "class_names": list(source.class_names),
        "class_to_idx": {name: index for index, name in enumerate(source.class_names)},
        "images_per_class": ipc,
        "factor": factor,
        "side": side,
        "mean": list(mean),
        "std": list(std),
        "image_format": image_format,
        "images_bytes": sum(file.stat().st_size for file in files),
        "images_sha256": hash_image_files(folder),
        "skipped": list(skipped),
    }
