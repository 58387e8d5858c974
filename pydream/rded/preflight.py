"""Check that an observer fits the images, by its accuracy on real ones before distillation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import bdtrc

from pydream.data import ImageError, Source, decode_ahead
from pydream.data.resized import whole_views
from pydream.data.unreadable import Unreadable
from pydream.errors import PydreamError
from pydream.models import Observer
from pydream.models.class_outputs import class_outputs
from pydream.models.inputs import IMAGENET_MEAN, IMAGENET_STD, LARGEST_SMALL_STEM_SIDE
from pydream.ops import random_keys
from pydream.seeds import Draw

# An observer passes if chance alone would reach its accuracy with less than this probability.
_SIGNIFICANCE = 1e-3

# Number of images measured: enough to tell a good observer from chance, and few compared with those
# that will be scored. An observer near chance is measured again on more before it is refused.
_SHARE = 0.01
_LEAST, _MOST = 16, 512
_SECOND_LOOK = 4  # times as many images
_PER_CLASS_TO_INFER = 16
_PER_CLASS_TO_TELL = 4

_MISORDERED = "its classes are in another order: try --class-order infer"
_WEAK = (
    "give the observer trained on these classes (pydream observer trains one), --class-order infer "
    "if its classes are in another order, or --allow-weak-observer to go on"
)

# Below this accuracy, the observer may have been trained with another normalisation or side. Such a
# network is often still far above chance.
_LOW = 0.5
# Means and standard deviations that checkpoints of the field were trained with: ImageNet's, those
# of vision transformers and GANs, plain pixels, CIFAR-10's and MNIST's.
_NORMALISATIONS = (
    (IMAGENET_MEAN, IMAGENET_STD),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    ((0.1307, 0.1307, 0.1307), (0.3081, 0.3081, 0.3081)),
)
_SIDES = (32, 64, 128, 224)


@dataclass(frozen=True)
class Preflight:
    """Performance of the observer on real images.

    Attributes
    ----------
    top1
        Share of images that the observer classifies correctly.
    images
        Number of images measured.
    held_out
        Origin of these images, for the report.
    order
        Observer output of each class.
    """

    top1: float
    images: int
    held_out: str
    order: tuple[int, ...]


def sample_size(patches: int, tile: int) -> int:
    """Return the number of images to measure before `patches` patches are scored: whole passes."""
    count = int(np.clip(patches * _SHARE, _LEAST, _MOST))
    return max(1, count // tile) * tile


def draw_evenly(source: Source, among: npt.NDArray[np.int64], count: int, seed: int) -> list[int]:
    """Draw up to `count` images, as evenly over the classes as they allow.

    Parameters
    ----------
    source
        The source of the images.
    among
        (n,) indices to draw from.
    count
        Largest number of images to draw.
    seed
        Random seed, which decides the draw together with the identity of each image.

    Returns
    -------
    list[int]
        Indices, ascending.
    """
    keys = random_keys(torch.from_numpy(source.ids[among]), seed=seed, draw=Draw.PREFLIGHT).numpy()
    labels = source.labels[among]
    by_class = np.lexsort((keys, labels))
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rounds = np.arange(len(by_class)) - starts  # 0 for the first image of each class, then 1, …
    chosen = by_class[np.lexsort((keys[by_class], rounds))][:count]
    return sorted(int(index) for index in among[chosen])


def measure(
    source: Source,
    indices: Sequence[int],
    observers: Sequence[Observer],
    *,
    workers: int,
    budget: int,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Run observers on whole real images, which are decoded once.

    Returns
    -------
    tuple[list of torch.Tensor, torch.Tensor]
        For each observer, log-probabilities (n, K) float32; then the labels (n,) int64 of the
        readable images.
    """
    logits: list[list[torch.Tensor]] = [[] for _ in observers]
    labels = []
    waiting: list[torch.Tensor] = []

    def classify() -> None:
        for seen, observer in zip(logits, observers, strict=True):
            views = whole_views(waiting, observer.side, observer.mean, observer.std)
            seen.append(observer.logits(views).cpu())
        waiting.clear()

    unreadable = Unreadable(source, len(indices), None)
    images = decode_ahead(source, indices, workers=workers, budget=budget)
    for index, image in zip(indices, images, strict=True):
        if isinstance(image, ImageError):
            unreadable.add({index: str(image)})
            continue
        waiting.append(image)
        labels.append(int(source.labels[index]))
        if len(waiting) == observers[0].tile:
            classify()
    if waiting:
        classify()
    unreadable.say()
    if not labels:
        raise PydreamError(f"{source.description}: none of {len(indices)} images can be read")
    log_probabilities = [torch.log_softmax(torch.cat(batches), dim=1) for batches in logits]
    return log_probabilities, torch.tensor(labels)


def infer_order(log_probability: torch.Tensor, labels: torch.Tensor, classes: int) -> list[int]:
    """Find the output of the observer for each class.

    The result is the one-to-one assignment of outputs to classes under which the images are most
    likely.

    Parameters
    ----------
    log_probability
        (n, K) float32.
    labels
        (n,) int64.
    classes
        Number of classes C, at most K.

    Returns
    -------
    list[int]
        The output of each of the C classes.
    """
    from scipy.optimize import linear_sum_assignment  # takes half a second to import

    likelihood = torch.zeros(classes, log_probability.shape[1], dtype=torch.float64)
    likelihood.index_add_(0, labels, log_probability.clamp(min=-50.0).double())
    _, outputs = linear_sum_assignment(likelihood.numpy(), maximize=True)
    return [int(output) for output in outputs]


def is_near_chance(right: int, images: int, classes: int) -> bool:
    """Return whether luck may well explain `right` of `images` with that many classes."""
    return bool(bdtrc(right - 1, images, 1 / classes) > _SIGNIFICANCE)


def preflight(
    source: Source,
    held_out: Source,
    among: npt.NDArray[np.int64],
    observer: Observer,
    *,
    patches: int,
    infer: bool,
    allow_weak: bool,
    seed: int,
    workers: int,
    budget: int,
    called: str = "the observer",
) -> Preflight:
    """Measure the observer on held-out images, and refuse an observer near chance.

    Parameters
    ----------
    source
        The images that will be distilled.
    held_out, among
        Images to measure on: a split with the same classes, and the indices to draw from.
    observer
        The observer, its outputs in their own order.
    patches
        Number of patches that will be scored, which decides the number of images measured.
    infer
        Find the order of the outputs from the images. The accuracy is then measured on images that
        the inference did not see.
    allow_weak
        Continue with an observer near chance.
    seed, workers, budget
        The settings of `RdedConfig`; the budget in bytes.
    called
        The observer in messages.

    Raises
    ------
    PydreamError
        If the observer is near chance, or its classes do not fit or are in another order.
    """
    classes = len(source.class_names)
    if infer and observer.num_classes < classes:
        raise PydreamError(
            f"{called} has {observer.num_classes} classes, fewer than the {classes} of "
            f"{source.description}: give the observer trained on this set (`pydream observer` "
            "trains one)"
        )
    given = [] if infer else _given_order(observer, source, called)
    count = sample_size(patches, observer.tile)
    if infer:
        count = max(count, 2 * _PER_CLASS_TO_INFER * classes)
    where = "test split" if held_out.split != source.split else "training images"
    for wanted in (count, _SECOND_LOOK * count):
        indices = draw_evenly(held_out, among, wanted, seed)
        look = partial(measure, held_out, indices, workers=workers, budget=budget)
        (log_probability,), labels = look([observer])
        order = given
        if infer:
            order, log_probability, labels = _inferred(log_probability, labels, classes)
        said = log_probability[:, order].argmax(dim=1) == labels
        right = int(said.sum())
        misordered = not infer and _is_misordered(right, log_probability, labels, classes)
        weak = misordered or is_near_chance(right, len(labels), classes)
        if allow_weak or not weak:
            break
    accuracy = f"right on {right} of {len(labels)} images of {source.description}"
    better = None
    if right < _LOW * len(labels) and not (infer or misordered or allow_weak):
        better = _better_inputs(observer, look, order, said)
    if weak and not allow_weak:
        advice = better or (_MISORDERED if misordered else _WEAK)
        raise PydreamError(f"{called} is {accuracy}, where chance is {1 / classes:.1%}: {advice}")
    if better is not None:
        warnings.warn(f"{called} is {accuracy}: {better}", stacklevel=2)
    return Preflight(right / len(labels), len(labels), where, tuple(order))


def _given_order(observer: Observer, source: Source, called: str) -> list[int]:
    """Map classes to outputs by their names, or one to one."""
    names, where = source.class_names, source.description
    return class_outputs(observer, names, where, measured=True, called=called)


def _better_inputs(
    observer: Observer,
    look: Callable[[Sequence[Observer]], tuple[list[torch.Tensor], torch.Tensor]],
    order: Sequence[int],
    said: torch.Tensor,
) -> str | None:
    """Name the normalisation and side with which the observer does far better, if there are any.

    Parameters
    ----------
    observer
        The observer that was measured.
    look
        Function that measures observers on the same images.
    order
        Observer output of every class.
    said
        (n,) bool: True where the observer was right.
    """
    best, best_said = observer, said
    for variants in (_other_normalisations, _other_sides):
        tried = variants(best)
        if not tried:
            continue
        outputs, labels = look(tried)
        for variant, logits in zip(tried, outputs, strict=True):
            right = logits[:, order].argmax(dim=1) == labels
            if right.sum() > best_said.sum():
                best, best_said = variant, right
    gained, lost = int((best_said & ~said).sum()), int((said & ~best_said).sum())
    if best is observer or bdtrc(gained - 1, gained + lost, 0.5) > _SIGNIFICANCE:
        return None
    options = []
    if (best.mean, best.std) != (observer.mean, observer.std):
        for name, values in (("mean", best.mean), ("std", best.std)):
            options.append(f"--observer-{name} {' '.join(f'{value:g}' for value in values)}")
    if best.side != observer.side:
        options.append(f"--observer-side {best.side}")
    return f"with {' '.join(options)} it is right on {int(best_said.sum())}; give that"


def _other_normalisations(observer: Observer) -> list[Observer]:
    own = (observer.mean, observer.std)
    return [
        observer.with_normalisation(*normalisation)
        for normalisation in _NORMALISATIONS
        if normalisation != own
    ]


def _other_sides(observer: Observer) -> list[Observer]:
    """Return the observer at the other sides that its network accepts."""
    most = LARGEST_SMALL_STEM_SIDE if observer.arch.endswith("-modified") else max(_SIDES)
    others = []
    for side in _SIDES:
        if side != observer.side and side <= most:
            with suppress(PydreamError):
                others.append(observer.with_side(side))
    return others


def _inferred(
    log_probability: torch.Tensor, labels: torch.Tensor, classes: int
) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Infer the order from half of the images, and return it with the other half."""
    if len(labels) == 1:
        return infer_order(log_probability, labels, classes), log_probability, labels
    half = torch.arange(len(labels)) % 2 == 0
    order = infer_order(log_probability[half], labels[half], classes)
    return order, log_probability[~half], labels[~half]


def _is_misordered(
    right: int, log_probability: torch.Tensor, labels: torch.Tensor, classes: int
) -> bool:
    """Return whether the outputs fit the classes far better in another order.

    Never with few images: some order fits any few of them.
    """
    most = max(0.5, 2 * right / len(labels))  # share that another order must exceed
    if most >= 1 or len(labels) < _PER_CLASS_TO_TELL * classes:
        return False
    if bool(log_probability.isnan().any()):
        return False
    best = infer_order(log_probability, labels, classes)
    reordered = float((log_probability[:, best].argmax(dim=1) == labels).float().mean())
    return reordered > most
