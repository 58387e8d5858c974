"""Training targets of students, and the loss that compares students with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn import functional

from pydream.models import Observer
from pydream.students.views import MixedBatch

Targets: TypeAlias = Callable[[MixedBatch], torch.Tensor]
"""Function that returns the target class probabilities of a batch, (B, K) float32."""


def online_targets(observer: Observer, temperature: float, batch_size: int) -> Targets:
    """Query the observer about each batch, mixed as the student sees it.

    Parameters
    ----------
    observer
        The observer, with the set's order of classes.
    temperature
        Temperature that its logits are divided by before the softmax.
    batch_size
        Largest number of images in a batch. The observer's tiles are cut to fit, because a padded
        row costs as much as an image.
    """
    fitting = observer.with_tile(batch_size)

    def targets(batch: MixedBatch) -> torch.Tensor:
        return torch.softmax(fitting.logits(batch.images) / temperature, dim=1)

    return targets


def hard_targets(labels: torch.Tensor, num_classes: int) -> Targets:
    """Use the true classes of an image and of its partner, weighted by their shares.

    Parameters
    ----------
    labels
        (R,) int64, of all rows that batches may name, on the training device.
    num_classes
        Number of classes.
    """

    def targets(batch: MixedBatch) -> torch.Tensor:
        own, other = (
            functional.one_hot(labels[rows], num_classes).float()
            for rows in (batch.rows, batch.partners)
        )
        return torch.lerp(other, own, batch.share)

    return targets


def own_targets(soft_labels: torch.Tensor, temperature: float) -> Targets:
    """Use the set's own soft labels of an image and of its partner, weighted by their shares.

    Parameters
    ----------
    soft_labels
        (R, K) float32 logits of all rows that batches may name, on the training device.
    temperature
        Temperature that the logits are divided by before the softmax.
    """
    probabilities = torch.softmax(soft_labels / temperature, dim=1)

    def targets(batch: MixedBatch) -> torch.Tensor:
        return torch.lerp(probabilities[batch.partners], probabilities[batch.rows], batch.share)

    return targets


def soft_loss(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Kullback-Leibler divergence of the softened prediction from the targets, batch mean.

    RDED, section 4.3. No factor of temperature² compensates for the smaller gradients.

    Parameters
    ----------
    logits
        (B, K) floating point, of the student; converted to float32.
    targets
        (B, K) float32, rows sum to 1.
    temperature
        Temperature that the logits are divided by.

    Returns
    -------
    Tensor
        A scalar, float32.
    """
    predicted = torch.log_softmax(logits.float() / temperature, dim=1)
    return functional.kl_div(predicted, targets, reduction="batchmean")
