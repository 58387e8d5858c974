"""Training targets of students."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch.nn import functional

from pydream.models import Observer
from pydream.students.recipe import Combine
from pydream.students.views import MixedBatch

Targets: TypeAlias = Callable[[MixedBatch], torch.Tensor]
"""Function that returns the targets of a batch, (B, K) float32: class probabilities, or logits for
a recipe that compares logits."""


def online_targets(
    observers: Observer | Sequence[Observer],
    temperature: float | None,
    batch_size: int,
    *,
    combine: Combine = "logits",
) -> Targets:
    """Query observers about each batch, mixed as the student sees it.

    Parameters
    ----------
    observers
        The observers, with the set's order of classes. Views are normalised for the first.
    temperature
        Temperature that logits are divided by before the softmax; None for logits as targets.
    batch_size
        Largest number of images in a batch. The observers' tiles are cut to fit, because a padded
        row costs as much as an image.
    combine
        What is averaged over several observers: their logits, or their logarithms of probabilities
        at the temperature (at 1 if it is None).
    """
    mean_logits = labelling(observers, temperature, batch_size, combine=combine)

    def targets(batch: MixedBatch) -> torch.Tensor:
        logits = mean_logits(batch.images)
        return logits if temperature is None else torch.softmax(logits / temperature, dim=1)

    return targets


def labelling(
    observers: Observer | Sequence[Observer],
    temperature: float | None,
    batch_size: int,
    *,
    combine: Combine = "logits",
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that labels images by one observer or by several together.

    It takes (B, 3, S, S) images, normalised for the first observer, and returns (B, K) float32
    logits. The parameters are those of `online_targets`.
    """
    several = [observers] if isinstance(observers, Observer) else observers
    fitting = [observer.with_tile(batch_size) for observer in several]

    def mean_logits(images: torch.Tensor) -> torch.Tensor:
        answers = [one.logits(_for_observer(images, fitting[0], one)) for one in fitting]
        if len(answers) == 1:
            return answers[0]
        if combine == "logits":
            return torch.stack(answers).mean(dim=0)
        divisor = 1.0 if temperature is None else temperature
        softened = [torch.log_softmax(logits / divisor, dim=1) for logits in answers]
        return divisor * torch.stack(softened).mean(dim=0)

    return mean_logits


def _for_observer(images: torch.Tensor, of: Observer, to: Observer) -> torch.Tensor:
    """Return images that are normalised for one observer, normalised for another."""
    if (of.mean, of.std) == (to.mean, to.std):
        return images
    mean, std, new_mean, new_std = (
        torch.tensor(values, device=images.device).view(3, 1, 1)
        for values in (of.mean, of.std, to.mean, to.std)
    )
    return (images * std + (mean - new_mean)) / new_std


def hard_targets(labels: torch.Tensor, num_classes: int, smoothing: float = 0.0) -> Targets:
    """Use the true classes of an image and of its partner, weighted by their shares.

    Parameters
    ----------
    labels
        (R,) int64, of all rows that batches may name, on the training device.
    num_classes
        Number of classes.
    smoothing
        Share of each label that all classes have in equal parts.
    """

    def targets(batch: MixedBatch) -> torch.Tensor:
        own, other = (
            functional.one_hot(labels[rows], num_classes).float()
            for rows in (batch.rows, batch.partners)
        )
        mixed = torch.lerp(other, own, batch.share)
        return mixed * (1 - smoothing) + smoothing / num_classes if smoothing else mixed

    return targets


def own_targets(soft_labels: torch.Tensor, temperature: float | None) -> Targets:
    """Use the set's own soft labels of an image and of its partner, weighted by their shares.

    Parameters
    ----------
    soft_labels
        (R, K) float32 logits of all rows that batches may name, on the training device.
    temperature
        Temperature that the logits are divided by before the softmax; None for logits as targets.
    """
    wanted = soft_labels
    if temperature is not None:
        wanted = torch.softmax(soft_labels / temperature, dim=1)

    def targets(batch: MixedBatch) -> torch.Tensor:
        return torch.lerp(wanted[batch.partners], wanted[batch.rows], batch.share)

    return targets
