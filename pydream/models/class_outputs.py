"""Assignment of an observer's outputs to the classes of an image set."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from pydream.data.layout import WNID
from pydream.errors import PydreamError
from pydream.formatting import listed
from pydream.models.observer import Observer

_IMAGENET_CLASSES = 1000


def class_outputs(
    observer: Observer,
    class_names: Sequence[str],
    where: str,
    *,
    measured: bool,
    called: str = "the observer",
    otherwise: str = "",
) -> list[int]:
    """Find the outputs of an observer for the classes of an image set.

    Classes are identified by their names in the weights file. Without names there, an observer of
    ImageNet-1K recognises classes named by their WordNet IDs (``n01440764``), with timm's list of
    these. Any other observer must have as many outputs as classes, in the same order.

    Parameters
    ----------
    observer
        Observer with its outputs in their own order.
    class_names
        Names of the classes, in order.
    where
        Owner of the classes, for messages.
    measured
        True if the observer's accuracy on these classes is measured later, which would reveal a
        wrong order. If so, as many classes with other names are assumed to be in order.
    called
        The observer in messages.
    otherwise
        Other advice than another observer where it lacks classes.

    Returns
    -------
    list of int
        The output of each class, for `Observer.with_class_order`.

    Raises
    ------
    PydreamError
        If the observer lacks a class, or has another number of outputs and no names.
    """
    known: Sequence[str] | None = observer.class_names
    same_number = observer.num_classes == len(class_names)
    if measured and same_number and known is not None and not {*class_names} <= {*known}:
        known = None
    if known is None and not same_number and observer.num_classes == _IMAGENET_CLASSES:
        known = _imagenet_ids(class_names, where)
    if known is None:
        if same_number:
            return list(range(len(class_names)))
        infer = measured and observer.num_classes > len(class_names)
        raise PydreamError(
            f"{called} has {observer.num_classes} classes, but {where} has {len(class_names)}: "
            "give the observer trained on them (`pydream observer` trains one)"
            + (", or --class-order infer to pick its outputs for these classes" if infer else "")
        )
    missing = sorted({*class_names} - {*known})
    if missing:
        raise PydreamError(
            f"{called} does not know the classes {listed(missing)} of {where}; give one "
            f"trained on them{otherwise}"
        )
    places = {name: place for place, name in enumerate(known)}
    return [places[name] for name in class_names]


def _imagenet_ids(class_names: Sequence[str], where: str) -> list[str] | None:
    """Return ImageNet-1K's WordNet IDs in order if classes are named by such IDs, else None."""
    if not all(WNID.fullmatch(name) for name in class_names):
        return None
    try:
        timm_data: Any = importlib.import_module("timm.data")
    except ImportError as error:
        raise PydreamError(
            f"the classes of {where} are named by WordNet IDs, and timm has the list that tells "
            'which of the observer\'s 1000 outputs they are: pip install "pydream-distill[timm]"'
        ) from error
    names: list[str] = timm_data.ImageNetInfo("imagenet-1k").label_names()
    return names
