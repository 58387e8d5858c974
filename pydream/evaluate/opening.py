"""What an evaluation is made of, opened and seen to fit together: set, observer, real images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pydream.data import Source, has_split, open_source
from pydream.data.distilled import DistilledSet, images_sha256
from pydream.errors import PydreamError
from pydream.models import Observer, load_observer

_NAMES_LISTED = 5


def open_real(named: str | None, distilled: DistilledSet, split: str) -> Source:
    """Open the real images that were named, or that the set was distilled from.

    Raises
    ------
    PydreamError
        If there are none, without such a split, or with other classes than the set.
    """
    named = named or distilled.manifest.get("source", {}).get("description")
    if named is None:
        raise PydreamError(
            f"{distilled.path} does not say what it was distilled from; "
            "name real images with a test split with --source"
        )
    if split == "test" and not has_split(named, "test"):
        raise PydreamError(
            f"{named} has no test split; name real images that have one with --source"
        )
    source = open_source(named, split)
    check_class_names(source, distilled)
    return source


def check_class_names(source: Source, distilled: DistilledSet) -> None:
    """Raise PydreamError unless the real images have the classes of the set, in their order."""
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


def check_images(distilled: DistilledSet) -> None:
    """Raise PydreamError unless the image files are those that the manifest describes."""
    expected = distilled.manifest.get("images_sha256")
    if expected is not None and images_sha256(distilled.path) != expected:
        raise PydreamError(
            f"{distilled.path}: the image files are not those its manifest describes; "
            "`pydream inspect` tells more"
        )


def open_observer(
    given: nn.Module | str,
    distilled: DistilledSet,
    *,
    arch: str | None,
    precision: str,
    device: str,
) -> Observer:
    """Load the observer and put its classes in the order of the set's.

    Raises
    ------
    PydreamError
        If it cannot be loaded, or does not know the classes of the set.
    """
    observer = load_observer(
        given, arch=arch, side=distilled.manifest["side"], precision=precision, device=device
    )
    named = given if isinstance(given, str) else type(given).__name__
    names = distilled.class_names
    made_by = distilled.manifest.get("observer") or {}
    if made_by.get("weights_sha256") == observer.weights_sha256 and "class_order" in made_by:
        return observer.with_class_order(made_by["class_order"])
    if observer.class_names is not None:
        missing = sorted({*names} - {*observer.class_names})
        if missing:
            raise PydreamError(
                f"observer {named} does not know the classes {listed(missing)} of the "
                "set; give one trained on them"
            )
        return observer.with_class_order([observer.class_names.index(name) for name in names])
    if observer.num_classes != len(names):
        raise PydreamError(
            f"observer {named} has {observer.num_classes} classes, but the set has "
            f"{len(names)}; give one trained on them"
        )
    return observer


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
