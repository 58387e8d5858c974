"""Students on whitened images (ZCA): what they are fitted on, and what cannot go with them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch

from pydream.data import Source, open_source
from pydream.data.resized import LabelledImages
from pydream.data.whitening import Whitening, check_side, whitening_of
from pydream.errors import PydreamError
from pydream.evaluate.config import EvaluateConfig
from pydream.progress import say
from pydream.ranks import Ranks
from pydream.sets.distilled import DistilledSet
from pydream.sets.opening import check_fitted_on
from pydream.students.recipes import recipe_named

_WHOLE = ("dsa", "whole")  # views of whole images, since factor is 1


def fitted_when_asked(
    config: EvaluateConfig, train: Source | None
) -> Callable[[int], Whitening] | None:
    """Return a function of a side that fits a whitening once, for a set of another tool.

    It is None for sets of pydream, and if no whitening is asked for.

    Parameters
    ----------
    config
        The settings.
    train
        The training images, if they are neither a file nor a known set.

    Raises
    ------
    PydreamError
        If there are no training images, and the set is none of pydream, which names its own.
    """
    named = config.source
    if not config.zca or (config.set / "manifest.json").is_file():
        return None
    if train is None and named is None:
        raise PydreamError("whitening (ZCA) is fitted on training images: name them with --source")

    @functools.cache
    def fit(side: int) -> Whitening:
        source = train or open_source(str(named), "train", exif=config.exif or "ignore")
        return whitening_of(
            source, side, workers=config.workers, allow_skipped=config.allow_skipped
        )

    return fit


def fit_for(
    config: EvaluateConfig,
    distilled: DistilledSet,
    train: Source,
    known: Callable[[int], Whitening] | None,
    ranks: Ranks,
) -> Whitening:
    """Return the whitening of all images that students see.

    Parameters
    ----------
    config
        The settings.
    distilled
        The set, which is or is to be whitened.
    train
        The training images.
    known
        The function that has undone the whitening of a set of another tool.
    ranks
        The ranks that share the evaluation.

    Raises
    ------
    PydreamError
        If the set was whitened with other images, or the whitening cannot be fitted.
    """
    side = distilled.manifest.side
    if known is not None and distilled.values is not None:
        return known(side)
    if distilled.manifest.whitening is not None:
        advice = f"{train.description} has others: name them with --source"
        check_fitted_on(distilled, ranks.once(train.fingerprint), advice)
    return whitening_of(train, side, workers=config.workers, allow_skipped=config.allow_skipped)


def check_whitened(config: EvaluateConfig, distilled: DistilledSet) -> None:
    """Raise PydreamError if the settings or the side of a set do not fit whitened images."""
    kinds = {kind for recipe in config.named_recipes for kind in config.labels_of(recipe)}
    if {"online", "stored"} & kinds:
        raise PydreamError(
            "students see whitened images (ZCA), and observers none: give --labels hard or own"
        )
    if config.views not in (None, *_WHOLE):
        raise PydreamError(
            "students see whitened images (ZCA) whole, with DSA's augmentations: leave out --views"
        )
    factor = distilled.manifest.factor if config.factor is None else config.factor
    if factor != 1:
        raise PydreamError(
            f"students see whitened images (ZCA) whole, and factor is {factor}: give --factor 1, "
            "or leave out --zca"
        )
    check_side(distilled.manifest.side)


def seen_whole(config: EvaluateConfig) -> EvaluateConfig:
    """Return the settings of a recipe, with views of whole images if its own are others."""
    if config.views is not None or recipe_named(config.recipe).views in _WHOLE:
        return config
    say(f"views of {config.recipe}: whole, as of all whitened images (ZCA)")
    return dataclasses.replace(config, views="whole")


def whitened_set(distilled: DistilledSet, whitening: Whitening) -> LabelledImages:
    """Return the whitened images of a set.

    Those of a set that was made of whitened images are as fine as it has them; those of any other
    set come from its 8-bit levels, as its students see them otherwise.
    """
    if distilled.manifest.whitening is None:
        return whitening.of_split(
            LabelledImages(distilled.images, distilled.labels), torch.device("cpu")
        )
    images = whitening(distilled.float_images).movedim(1, -1).contiguous()
    return LabelledImages(images, distilled.labels)
