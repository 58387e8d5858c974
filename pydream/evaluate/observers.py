"""Which of an observer's classes is which of a set's."""

from __future__ import annotations

from collections.abc import Sequence

from pydream.data.distilled import DistilledSet
from pydream.errors import PydreamError
from pydream.models import Observer

_NAMES_LISTED = 5


def class_order(observer: Observer, distilled: DistilledSet) -> list[int]:
    """Find the classes of a set among those of an observer.

    The observer that made the set keeps the order found then; another one is asked for its class
    names, and without such must have as many classes, which are then taken to be in order.

    Parameters
    ----------
    observer
        Its classes as its weights have them.
    distilled
        The set.

    Returns
    -------
    list of int
        By class of the set, the observer's class; for `Observer.with_class_order`.

    Raises
    ------
    PydreamError
        If the observer does not know a class, or has another number of classes and no names.
    """
    names = distilled.class_names
    made_by = distilled.manifest.get("observer") or {}
    if made_by.get("weights_sha256") == observer.weights_sha256 and "class_order" in made_by:
        return list(made_by["class_order"])
    if observer.class_names is not None:
        missing = sorted({*names} - {*observer.class_names})
        if missing:
            raise PydreamError(
                f"the observer does not know the classes {listed(missing)} of {distilled.path}; "
                "give one trained on them"
            )
        return [observer.class_names.index(name) for name in names]
    if observer.num_classes != len(names):
        raise PydreamError(
            f"the observer has {observer.num_classes} classes, but {distilled.path} has "
            f"{len(names)}; give one trained on them"
        )
    return list(range(len(names)))


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
