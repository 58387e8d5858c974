"""Realism and diversity of a distilled set, measured without training on it.

RDED (Sun et al., arXiv 2312.03526, proposition 1) requires a distilled set to be diverse and
realistic, as judged by an observer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean
from typing import NamedTuple

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
from pydream.seeds import Draw
from pydream.sets.distilled import DistilledSet

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
    images, of_patches = _observe_set(distilled, observer)
    of_set = _summary(images, distilled.labels, patch_realism=_mean(of_patches))
    known = {"arch": observer.arch, "weights_sha256": observer.weights_sha256}
    measures = replace(measures, observer=known, distilled=of_set)
    if source is None:
        return measures
    compared = _compare(images, distilled, observer, source, most_real)
    return replace(
        measures,
        distilled=replace(of_set, coverage_distance=_mean(compared.by_set)),
        random_real=_summary(
            compared.random, compared.labels, coverage_distance=_mean(compared.by_random)
        ),
        real=RealSamples(
            source=source.description,
            classes=len({*compared.labels.tolist()}),
            samples=len(compared.by_set),
        ),
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


def _observe_set(distilled: DistilledSet, observer: Observer) -> tuple[Observed, torch.Tensor]:
    """Return the observer's answers to all images, and the scores of all their cells."""
    boxes = cell_boxes(distilled.stored.side, distilled.manifest.factor)
    batch = max(_BATCH, observer.tile)
    seen, of_patches = [], []
    for start in range(0, len(distilled.stored), batch):
        images = distilled.stored[start : start + batch].stack()
        labels = distilled.labels[start : start + batch]
        seen.append(observe(images, labels, observer))
        of_patches.append(patch_scores(images, labels, boxes, observer))
    return Observed.joined(seen), torch.cat(of_patches)


class _Comparison(NamedTuple):
    """Random real images, and the distances of real samples from them and from a set."""

    random: Observed
    labels: torch.Tensor  # (n,) int64, of the random images
    by_random: torch.Tensor  # (samples,) float32
    by_set: torch.Tensor  # (samples,) float32


def _compare(
    images: Observed, distilled: DistilledSet, observer: Observer, source: Source, most_real: int
) -> _Comparison:
    """Draw as many real images as the set has, and samples that both must cover."""
    provenance = distilled.provenance
    used = set() if provenance is None else {*provenance["source"].to_pylist()}
    counts = distilled.manifest.class_counts
    parts = []
    unreadable = Unreadable(source, len(source), None)
    for label, name in enumerate(distilled.class_names):
        per_class = counts[label]
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
        labels = torch.full((per_class,), label)
        random = observe(torch.stack(chosen), labels, observer)
        parts.append(
            _Comparison(
                random,
                labels,
                nearest_distances(samples, random.features),
                nearest_distances(samples, images.features[distilled.labels == label]),
            )
        )
    unreadable.say()
    if not parts:
        raise PydreamError(
            f"{source.description} has too few images to compare {distilled.path} with: a class "
            f"needs more than {count_words(counts)} that can be read and are not sources of the set"
        )
    randoms, *others = zip(*parts, strict=True)
    return _Comparison(Observed.joined(randoms), *(torch.cat(values) for values in others))


def _drawn(source: Source, name: str, used: set[str]) -> npt.NDArray[np.int64]:
    """Return the images of a class that are not sources of the set, in random order."""
    indices = source.class_indices(source.class_names.index(name))
    free = indices[[source.keys[index] not in used for index in indices]]
    keys = random_keys(torch.from_numpy(source.ids[free]), seed=_SEED, draw=Draw.REAL_SAMPLES)
    return free[np.argsort(keys.numpy(), kind="stable")]


def _summary(
    images: Observed,
    labels: torch.Tensor,
    *,
    patch_realism: float | None = None,
    coverage_distance: float | None = None,
) -> ImageMeasures:
    """Average over images, and over classes for measures within a class."""
    classes = sorted({*labels.tolist()})
    distances = [pairwise_distance(images.features[labels == label]) for label in classes]
    spreads = [distance for distance in distances if distance is not None]
    return ImageMeasures(
        realism=_mean(images.scores),
        patch_realism=patch_realism,
        agreement=_mean(images.right),
        entropy=_mean(images.entropies),
        pairwise_distance=fmean(spreads) if spreads else None,
        coverage_distance=coverage_distance,
    )


def _mean(values: torch.Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
