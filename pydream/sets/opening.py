"""Open an evaluation's inputs and check that they match: set, observer, real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from pydream.data import Source, open_source
from pydream.data.whitening import Whitening
from pydream.errors import MissingSplitError, PydreamError
from pydream.formatting import listed
from pydream.models import Observer, ObserverSettings
from pydream.models.class_outputs import class_outputs
from pydream.models.loading import load_configured_observer
from pydream.sets.config import SetSettings
from pydream.sets.distilled import DistilledSet
from pydream.sets.image_formats import hash_image_files
from pydream.sets.imported import numbers_of, open_distilled
from pydream.urls import is_url, without_secrets


def open_named_set(
    settings: SetSettings,
    class_names: Sequence[str] | None = None,
    zca: Callable[[int], Whitening] | None = None,
) -> DistilledSet:
    """Open a distilled set of any tool; `class_names` apply if it only numbers its classes.

    `zca` is as for `open_distilled`.

    Raises
    ------
    PydreamError
        If it cannot be read.
    """
    return open_distilled(
        settings.set,
        class_names=class_names,
        classes=settings.classes,
        mean=settings.image_mean,
        std=settings.image_std,
        zca=zca,
    )


def open_set(
    settings: SetSettings,
    class_names: Sequence[str] | None = None,
    zca: Callable[[int], Whitening] | None = None,
) -> DistilledSet:
    """Open a distilled set as `open_named_set` does, and check its image files.

    Raises
    ------
    PydreamError
        If it cannot be read, or its image files do not match its manifest.
    """
    distilled = open_named_set(settings, class_names, zca)
    check_image_files(distilled)
    return distilled


def check_image_files(distilled: DistilledSet) -> None:
    """Raise PydreamError if a set of pydream has other image files than its manifest describes."""
    if distilled.is_ours and hash_image_files(distilled.path) != distilled.images_sha256:
        raise PydreamError(
            f"{distilled.path}: the image files are not those its manifest describes; "
            "`pydream inspect` tells more"
        )


def open_real(
    named: str | None,
    distilled: DistilledSet,
    split: str,
    exif: Literal["ignore", "apply"] | None = None,
) -> Source:
    """Open the named real images, or those that the set was distilled from.

    Their EXIF orientation is applied as the settings say, by default as in the distillation.

    Raises
    ------
    PydreamError
        If there are no images, they lack this split, or their classes are not those of the set.
    """
    own = (distilled.manifest.source or {}).get("description")
    if named is None and is_url(own):  # a set may come from anyone, and so the hosts that it names
        raise PydreamError(
            f"{distilled.path} was distilled from {without_secrets(str(own))}, and only hosts that "
            "you name are asked; name the real images with --source"
        )
    named = named or own
    if named is None:
        raise PydreamError(
            f"{distilled.path} does not say what it was distilled from; "
            "name real images with a test split with --source"
        )
    try:
        source = open_source(named, split, exif=exif or exif_of(distilled))
    except MissingSplitError as error:
        raise PydreamError(f"{error}; name real images that have one with --source") from error
    check_class_names(source, distilled)
    return source


def check_fitted_on(distilled: DistilledSet, fingerprint: str, otherwise: str) -> None:
    """Raise PydreamError unless the images of a fingerprint are those that a set was whitened by.

    `otherwise` says what to do.
    """
    known = (distilled.manifest.whitening or {}).get("source_fingerprint", fingerprint)
    if known != fingerprint:
        raise PydreamError(
            f"{distilled.path} was made of images whitened (ZCA) by the training images that it "
            f"was distilled from: {otherwise}"
        )


def exif_of(distilled: DistilledSet) -> Literal["ignore", "apply"]:
    """Return the treatment of the EXIF orientation when a set was distilled."""
    config = distilled.manifest.config or {}
    return "apply" if config.get("exif") == "apply" else "ignore"


def check_class_names(source: Source, distilled: DistilledSet) -> None:
    """Raise PydreamError unless the real images have the classes of the set, in order."""
    real, own = source.class_names, distilled.class_names
    if real == own:
        return
    parts = [
        f"only {where} has {listed(sorted(names))}"
        for where, names in (
            (source.description, {*real} - {*own}),
            (str(distilled.path), {*own} - {*real}),
        )
        if names
    ]
    raise PydreamError(
        f"the {source.split} images of {source.description} have other classes than the set: "
        f"{'; '.join(parts) or 'they come in another order'}"
    )


def open_observer(
    given: nn.Module | str,
    distilled: DistilledSet,
    settings: ObserverSettings,
    *,
    arch: str | None,
    precision: str,
    device: torch.device,
) -> Observer:
    """Load the observer like `load_set_observer`, with its classes in the order of the set.

    Raises
    ------
    PydreamError
        If it cannot be loaded, or lacks a class of the set.
    """
    observer = load_set_observer(
        given, distilled, settings, arch=arch, precision=precision, device=device
    )
    return observer.with_class_order(class_order(observer, distilled))


def load_set_observer(
    given: nn.Module | str,
    distilled: DistilledSet,
    settings: ObserverSettings,
    *,
    arch: str | None,
    precision: str,
    device: str | torch.device,
) -> Observer:
    """Load an observer for the images of a set.

    The observer that made the set keeps its side, mean and std of that time, unless the settings
    override them.

    Raises
    ------
    PydreamError
        If it cannot be loaded.
    """

    def kept(weights_sha256: str) -> dict[str, Any]:
        made_by = distilled.manifest.record_of(weights_sha256)
        names = ("arch", "side", "mean", "std")
        return {name: made_by[name] for name in names if made_by.get(name) is not None}

    return load_configured_observer(
        given,
        settings,
        arch=arch,
        side=distilled.manifest.side,
        kept=kept if "weights_sha256" in (distilled.manifest.observer or {}) else None,
        precision=precision,
        device=device,
    )


def class_order(observer: Observer, distilled: DistilledSet) -> list[int]:
    """Find the classes of a set among those of an observer.

    The observer that made the set keeps the order found then. For any other observer see
    `pydream.models.class_outputs.class_outputs`.

    Parameters
    ----------
    observer
        Observer, with the classes in the order of its weights.
    distilled
        The set.

    Returns
    -------
    list of int
        The observer's class for each class of the set, for `Observer.with_class_order`.

    Raises
    ------
    PydreamError
        If the observer lacks a class, or has another number of classes and no names.
    """
    names = distilled.class_names
    made_by = distilled.manifest.record_of(observer.weights_sha256)
    if "class_order" in made_by:
        order = list(made_by["class_order"])
        if len(order) != len(names) or not {*order} <= {*range(observer.num_classes)}:
            raise PydreamError(
                f"{distilled.path}: the manifest's class_order does not fit the observer and the "
                f"{len(names)} classes of the set"
            )
        return order
    unnamed = not distilled.is_ours and numbers_of(names) is not None
    otherwise = ", or name the classes of the set with --source or --classes" if unnamed else ""
    where = str(distilled.path)
    return class_outputs(observer, names, where, measured=False, otherwise=otherwise)
