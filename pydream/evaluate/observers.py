"""An observer whose outputs mean the classes of a distilled set, in its order."""

from __future__ import annotations

from pydream.data.distilled import DistilledSet
from pydream.errors import PydreamError
from pydream.models import Observer

_NAMES_LISTED = 5


def in_class_order(observer: Observer, distilled: DistilledSet) -> Observer:
    """Return the observer with its classes in the order of the set's labels.

    The order is the one that the set was made with, where this observer made it; else that of the
    names, where the weights file has them; else the observer's own.

    Parameters
    ----------
    observer
        As loaded.
    distilled
        The set.

    Raises
    ------
    PydreamError
        If the observer does not know a class of the set, or has another number of classes and no
        names.
    """
    names = distilled.class_names
    made_by = distilled.manifest.get("observer", {})
    if made_by.get("weights_sha256") == observer.weights_sha256 and "class_order" in made_by:
        return observer.with_class_order(made_by["class_order"])
    if observer.class_names is not None:
        missing = sorted({*names} - {*observer.class_names})
        if missing:
            more = len(missing) - _NAMES_LISTED
            raise PydreamError(
                f"the observer ({observer.arch}) does not know the classes "
                f"{', '.join(missing[:_NAMES_LISTED])}{f' and {more} more' if more > 0 else ''} "
                f"of {distilled.path}; give one trained on them"
            )
        return observer.with_class_order([observer.class_names.index(name) for name in names])
    if observer.num_classes != len(names):
        raise PydreamError(
            f"the observer ({observer.arch}) has {observer.num_classes} classes, but "
            f"{distilled.path} has {len(names)}; give one trained on them"
        )
    return observer
