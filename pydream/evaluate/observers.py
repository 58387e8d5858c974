"""Which of an observer's classes is which of a set's."""

from __future__ import annotations

from pydream.data.distilled import DistilledSet
from pydream.models import Observer
from pydream.models.class_outputs import class_outputs


def class_order(observer: Observer, distilled: DistilledSet) -> list[int]:
    """Find the classes of a set among those of an observer.

    The observer that made the set keeps the order found then; for another one see
    `pydream.models.class_outputs.class_outputs`.

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
    return class_outputs(observer, names, str(distilled.path), measured=False)
