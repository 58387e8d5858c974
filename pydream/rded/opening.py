"""The inputs of an RDED run, opened and matched: real images and an observer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pydream.data import Source, check_classes, has_split, open_source
from pydream.data.device_jpeg import no_decoder
from pydream.errors import PydreamError
from pydream.processors import usable_processors
from pydream.rded.config import RdedConfig
from pydream.tiling import Tiling

# A rule of thumb, not a measurement: with fewer, a GPU would wait for the host's decoding.
_MANY_PROCESSORS = 8


def open_images(config: RdedConfig, given: Source | None) -> Source:
    """Return the images to distil: those that were given, or the train split of the source."""
    source = open_source(config.source, exif=config.exif) if given is None else given
    check_classes(source)
    return source


def open_held_out(config: RdedConfig, given: Source | None) -> Source | None:
    """Return the test split beside the images to distil, if there is one and none were given."""
    if given is not None or not has_split(config.source, "test"):
        return None
    return open_source(config.source, "test", exif=config.exif)


def where_to_decode(wanted: str, device: torch.device) -> Literal["host", "device"]:
    """Return the decoder of JPEGs; raise PydreamError if the wanted device cannot decode."""
    why = no_decoder(device)
    able = why is None
    if wanted == "device" and not able:
        raise PydreamError(
            f"--decode device: torchvision decodes no JPEG on {device}: {why}; take --decode host"
        )
    few = usable_processors() < _MANY_PROCESSORS
    return "device" if able and (wanted == "device" or (wanted == "auto" and few)) else "host"


def check_sizes(
    source: Source, config: RdedConfig, counts: Sequence[int], factor: int, side: int
) -> None:
    """Raise PydreamError if the cells do not fit, or a class has too few images for them.

    Parameters
    ----------
    source, config
        The real images, and the settings.
    counts
        Number of distilled images of each class.
    factor, side
        Patches and pixels along each side of a distilled image.
    """
    Tiling(side, factor, config.method.cells)
    if config.method.refine and factor == 1:
        raise PydreamError(
            "refine moves the cells of images towards whole patches, and factor 1 has no cells: "
            "give --factor 2 or more"
        )
    sizes = np.bincount(source.labels, minlength=len(source.class_names))
    if config.small_classes == "reuse":
        _check_reuse(source, config, counts, factor, sizes)
    else:
        _check_enough(source, config, counts, factor, sizes)


def _check_enough(
    source: Source,
    config: RdedConfig,
    counts: Sequence[int],
    factor: int,
    sizes: npt.NDArray[np.int64],
) -> None:
    """Raise PydreamError unless every class has an image for each key patch."""
    needed = np.array(counts) * factor**2
    least = int((sizes - needed).argmin())
    if sizes[least] < needed[least]:
        words = "{} images of it with --factor {}"
        if not isinstance(config.ipc, str):
            words = "--ipc {} --factor {}"
        fitting = [
            words.format(sizes[least] // smaller**2, smaller)
            for smaller in range(factor, 0, -1)
            if sizes[least] >= smaller**2
        ]
        raise PydreamError(
            f"{source.description}: class {source.class_names[least]} has {sizes[least]} images, "
            f"fewer than the {needed[least]} that ipc {counts[least]} and factor {factor} take; "
            f"what would fit: {' or '.join(fitting[:2])}, or --small-classes reuse, "
            "which takes several crops of an image"
        )
    most = int(needed.argmax())
    if config.preselect < needed[most]:
        raise PydreamError(
            f"preselect {config.preselect} looks at fewer images of a class than the "
            f"{needed[most]} that ipc {counts[most]} and factor {factor} take: give --preselect "
            f"{needed[most]} or more"
        )


def _check_reuse(
    source: Source,
    config: RdedConfig,
    counts: Sequence[int],
    factor: int,
    sizes: npt.NDArray[np.int64],
) -> None:
    """Raise PydreamError if a class has too few crops, or images left while it reuses others."""
    needed = np.array(counts) * factor**2
    least = int((sizes * config.method.crops - needed).argmin())
    if sizes[least] * config.method.crops < needed[least]:
        raise PydreamError(
            f"{source.description}: class {source.class_names[least]} has {sizes[least]} images of "
            f"{config.method.crops} crops, fewer than the {needed[least]} patches that ipc "
            f"{counts[least]} and factor {factor} take; raise --crops, or lower --ipc or --factor"
        )
    looked_at = np.minimum(needed, sizes)
    most = int(looked_at.argmax())
    if config.preselect < looked_at[most]:
        raise PydreamError(
            f"preselect {config.preselect} looks at fewer images of class "
            f"{source.class_names[most]} than the {looked_at[most]} that it has for its "
            f"{needed[most]} patches: give --preselect {looked_at[most]} or more"
        )
