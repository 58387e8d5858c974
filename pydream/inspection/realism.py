"""Realism and diversity of a distilled set, measured without training on it.

RDED (Sun et al., arXiv 2312.03526, proposition 1) requires a distilled set to be diverse and
realistic, as judged by an observer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pydream import checks
from pydream.data import Source
from pydream.data.resized import whole_images
from pydream.data.unreadable import Unreadable
from pydream.errors import PydreamError
from pydream.formatting import count_words, listed
from pydream.inspection.observation import Observed, cell_boxes, features_of, observe, patch_scores
from pydream.models import Observer
from pydream.ops import random_keys
from pydream.processors import usable_processors
from pydream.ranks import Ranks
from pydream.seeds import Draw
from pydream.sets.distilled import DistilledSet

T = TypeVar("T")

_SEED = 0  # of the random real images, the same for every set
_BATCH = 256  # number of images decoded at a time


@dataclass(frozen=True)
class ImageMeasures:
    """Realism and diversity of images, as judged by an observer.

    Attributes
    ----------
    realism
        Mean log probability of the true class.
    patch_realism
        Mean log probability for the cells, each resized to a whole image; None for real images.
    agreement
        Share of images whose likeliest class is their own.
    entropy
        Mean entropy of the soft labels at temperature 1, in nats.
    pairwise_distance
        Mean distance of the features of two images of a class, averaged over classes; None for
        one image per class.
    coverage_distance
        Mean distance from the features of a real sample to the nearest of the images of its
        class; None without real samples.
    """

    realism: float | None
    patch_realism: float | None
    agreement: float | None
    entropy: float | None
    pairwise_distance: float | None
    coverage_distance: float | None


@dataclass(frozen=True)
class RealSamples:
    """The real images that a set was compared with.

    Attributes
    ----------
    source
        Description of the source.
    classes, samples
        Number of classes, and of images in all.
    """

    source: str
    classes: int
    samples: int


@dataclass(frozen=True)
class SetMeasures:
    """Measures of a distilled set; None for a measure that was not taken.

    Attributes
    ----------
    images_bytes
        Bytes of the image files, or of the pixels in a file of tensors.
    labels_bytes
        Bytes of the labels.
    effective_sources
        Number of equally frequent source images of the same diversity (`effective_number`); None
        without provenance.
    observer
        ``arch`` and ``weights_sha256`` of the observer.
    distilled, random_real
        Measures of the set, and of as many random real images.
    real
        The real images that both were compared with.
    """

    images_bytes: int
    labels_bytes: int
    effective_sources: float | None
    observer: Mapping[str, str] | None = None
    distilled: ImageMeasures | None = None
    random_real: ImageMeasures | None = None
    real: RealSamples | None = None


def measure_set(
    distilled: DistilledSet,
    observer: Observer | None = None,
    source: Source | None = None,
    *,
    most_real: int = 100,
    ranks: Ranks | None = None,
) -> SetMeasures:
    """Measure realism and diversity of a distilled set (arXiv 2312.03526, proposition 1).

    All measures except bytes and sources need an observer. With real images, as many as the set has
    are also drawn at random and measured like the set, so that its numbers can be judged. The real
    samples that both must cover are neither these nor sources of the set. Images are decoded a few
    hundred at a time.

    Parameters
    ----------
    distilled
        The set.
    observer
        Observer for images of the set's side, with the set's order of classes, as returned by
        `pydream.sets.opening.open_observer`.
    source
        Real images, of all classes of the set.
    most_real
        Largest number of real samples per class, drawn with a fixed seed.
    ranks
        Ranks that all call this; each measures some of the classes.

    Raises
    ------
    PydreamError
        If the observer accepts another side or has other classes, the source lacks a class or has
        too few images, or there is a source but no observer.
    """
    measures = SetMeasures(
        distilled.images_bytes, distilled.labels_bytes, _effective_sources(distilled)
    )
    if observer is None:
        if source is not None:
            raise PydreamError("real images are compared by an observer; give one with --observer")
        return measures
    _check(distilled, observer, source, most_real)
    ranks = ranks or Ranks()
    own = ranks.own(distilled.labels.bincount(minlength=observer.num_classes).tolist())
    seen = _observe_set(distilled, observer, own)
    judged = _of_all(
        ranks, {label: _judged(images, cells) for label, (images, cells) in seen.items()}
    )
    known = {"arch": observer.arch, "weights_sha256": observer.weights_sha256}
    of_set = _summary(judged, distilled.labels)
    measures = replace(measures, observer=known, distilled=of_set)
    if source is None:
        return measures
    features = {label: images.features for label, (images, _) in seen.items()}
    compared = _compare(features, distilled, observer, source, most_real, ranks)
    by_set, by_random = (
        torch.cat([getattr(found, name) for found in compared.values()])
        for name in ("by_set", "by_random")
    )
    random = {label: found.random for label, found in compared.items()}
    labels = torch.tensor(
        [label for label, found in random.items() for _ in range(len(found.scores))]
    )
    return replace(
        measures,
        distilled=replace(of_set, coverage_distance=_mean(by_set)),
        random_real=replace(_summary(random, labels), coverage_distance=_mean(by_random)),
        real=RealSamples(source=source.description, classes=len(compared), samples=len(by_set)),
    )


def effective_number(counts: Sequence[int]) -> float:
    """Return the number of equally frequent items of the same diversity: exp of the entropy.

    Parameters
    ----------
    counts
        Number of occurrences of each item; at least one is above 0.
    """
    weights = torch.tensor(counts, dtype=torch.float64)
    return float(torch.special.entr(weights / weights.sum()).sum().exp())


def pairwise_distance(features: torch.Tensor) -> float | None:
    """Return the mean Euclidean distance between two different rows; None for a single row.

    Parameters
    ----------
    features
        (n, D) floating point.
    """
    return _mean(torch.pdist(features))


def nearest_distances(samples: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distance from each sample to the nearest image.

    Parameters
    ----------
    samples
        (n, D) floating point, features of real images.
    images
        (m, D) of the same dtype, features of the images that represent them; m at least 1.

    Returns
    -------
    Tensor
        (n,), of the same dtype. Computed from differences, because a product of matrices would lose
        the distances of near duplicates to rounding.
    """
    distances = torch.cdist(samples, images, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.amin(dim=1)


def _check(
    distilled: DistilledSet, observer: Observer, source: Source | None, most_real: int
) -> None:
    """Raise PydreamError unless set, observer and source match."""
    if observer.side != distilled.stored.side:
        raise PydreamError(
            f"the observer ({observer.arch}) takes images of {observer.side} pixels a side, those "
            f"of {distilled.path} have {distilled.stored.side}; give one for this side"
        )
    if observer.num_classes != len(distilled.class_names):
        raise PydreamError(
            f"the observer ({observer.arch}) has {observer.num_classes} classes, but "
            f"{distilled.path} has {len(distilled.class_names)}; give one trained on them"
        )
    if source is not None:
        missing = sorted({*distilled.class_names} - {*source.class_names})
        if missing:
            raise PydreamError(
                f"{source.description} lacks the classes {listed(missing)} of {distilled.path}; "
                "give the images that it was distilled from"
            )
    checks.at_least(1, most_real=most_real)


def _effective_sources(distilled: DistilledSet) -> float | None:
    if distilled.provenance is None:
        return None
    counts = distilled.provenance["source"].value_counts().field("counts")
    return effective_number(counts.to_pylist())


def _of_all(ranks: Ranks, own: Mapping[int, T]) -> dict[int, T]:
    """Return what all ranks have found of their classes, in the order of the classes."""
    found = {label: entry for part in ranks.gather(dict(own)) for label, entry in part.items()}
    return dict(sorted(found.items()))


def _observe_set(
    distilled: DistilledSet, observer: Observer, own: range
) -> dict[int, tuple[Observed, torch.Tensor]]:
    """Return the answers to the images of some classes, and the scores of their cells, by class."""
    boxes = cell_boxes(distilled.stored.side, distilled.manifest.factor)
    batch = max(_BATCH, observer.tile)
    wanted = torch.isin(distilled.labels, torch.tensor([*own], dtype=torch.int64))
    seen, of_patches, of_labels = [], [], []
    for start in range(0, len(distilled.stored), batch):
        # The last bits of an answer may depend on the images that share its pass. So a batch with
        # images of several ranks is seen as a whole by each.
        if not wanted[start : start + batch].any():
            continue
        images = distilled.stored[start : start + batch].stack()
        labels = distilled.labels[start : start + batch]
        seen.append(observe(images, labels, observer))
        of_patches.append(patch_scores(images, labels, boxes, observer).view(-1, len(boxes)))
        of_labels.append(labels)
    if not seen:
        return {}
    answers, cells, labels = Observed.joined(seen), torch.cat(of_patches), torch.cat(of_labels)
    return {
        label: (Observed(*(column[labels == label] for column in answers)), cells[labels == label])
        for label in own
        if (labels == label).any()
    }


class _Judged(NamedTuple):
    """An observer's answers to the n images of a class."""

    scores: torch.Tensor  # (n,) float32
    right: torch.Tensor  # (n,) bool
    entropies: torch.Tensor  # (n,) float32
    cells: torch.Tensor | None  # (n, cells) float32, scores; None for real images
    distance: float | None  # mean distance of the features of two images


def _judged(images: Observed, cells: torch.Tensor | None = None) -> _Judged:
    return _Judged(
        images.scores, images.right, images.entropies, cells, pairwise_distance(images.features)
    )


class _Comparison(NamedTuple):
    """Random real images of a class, and the distances of real samples from them and from a set."""

    random: _Judged
    by_random: torch.Tensor  # (samples,) float32
    by_set: torch.Tensor  # (samples,) float32


def _compare(
    features: Mapping[int, torch.Tensor],
    distilled: DistilledSet,
    observer: Observer,
    source: Source,
    most_real: int,
    ranks: Ranks,
) -> dict[int, _Comparison]:
    """Draw as many real images as the set has, and samples that both must cover, by class."""
    provenance = distilled.provenance
    used = set() if provenance is None else {*provenance["source"].to_pylist()}
    counts = distilled.manifest.class_counts
    own = {}
    unreadable = Unreadable(source, len(source), None)
    for label, of_set in features.items():
        name, per_class = distilled.class_names[label], counts[label]
        drawn = _drawn(source, name, used)[: per_class + most_real].tolist()
        groups = whole_images(
            source,
            drawn,
            observer.side,
            workers=usable_processors(),
            unreadable=unreadable,
            rows=_BATCH,
        )
        real = (image for images, _ in groups for image in images)
        chosen = list(islice(real, per_class))
        samples = features_of(real, observer)
        if not len(samples):
            continue
        random = observe(torch.stack(chosen), torch.full((per_class,), label), observer)
        own[label] = _Comparison(
            _judged(random),
            nearest_distances(samples, random.features),
            nearest_distances(samples, of_set),
        )
    for reasons in ranks.gather(unreadable.reasons):
        unreadable.add(reasons)
    unreadable.say()
    compared = _of_all(ranks, own)
    if not compared:
        raise PydreamError(
            f"{source.description} has too few images to compare {distilled.path} with: a class "
            f"needs more than {count_words(counts)} that can be read and are not sources of the set"
        )
    return compared


def _drawn(source: Source, name: str, used: set[str]) -> npt.NDArray[np.int64]:
    """Return the images of a class that are not sources of the set, in random order."""
    indices = source.class_indices(source.class_names.index(name))
    free = indices[[source.keys[index] not in used for index in indices]]
    keys = random_keys(torch.from_numpy(source.ids[free]), seed=_SEED, draw=Draw.REAL_SAMPLES)
    return free[np.argsort(keys.numpy(), kind="stable")]


def _summary(judged: Mapping[int, _Judged], labels: torch.Tensor) -> ImageMeasures:
    """Average over images in their order, and over classes for measures within a class."""

    def mean(name: str) -> float | None:
        parts = {label: getattr(found, name) for label, found in judged.items()}
        first = next(iter(parts.values()), None)
        if first is None:
            return None
        values = first.new_empty(len(labels), *first.shape[1:])
        for label, part in parts.items():
            values[labels == label] = part
        return _mean(values.flatten())

    spreads = [found.distance for found in judged.values() if found.distance is not None]
    return ImageMeasures(
        realism=mean("scores"),
        patch_realism=mean("cells"),
        agreement=mean("right"),
        entropy=mean("entropies"),
        pairwise_distance=fmean(spreads) if spreads else None,
        coverage_distance=None,
    )


def _mean(values: torch.Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
