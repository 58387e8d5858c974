"""Losses that compare students with their targets."""

from __future__ import annotations

import torch
from torch.nn import functional

from pydream.students.recipe import ResolvedRecipe

_SMOOTHING_OF_GIFT = 0.1


def loss_of(
    recipe: ResolvedRecipe, logits: torch.Tensor, wanted: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """Compare a student with its targets as a recipe does.

    Parameters
    ----------
    recipe
        Recipe with the loss, its temperature and the weight of the classes.
    logits
        (B, K) floating point, of the student; converted to float32.
    wanted
        (B, K) float32, the targets: probabilities, or logits for ``"mse"`` and ``"gift"``.
    classes
        (B,) int64, the classes of the images, whatever they are mixed with.

    Returns
    -------
    Tensor
        A scalar, float32, the mean over the batch.
    """
    if recipe.loss == "ce":
        return functional.cross_entropy(logits.float() / recipe.temperature, wanted)
    if recipe.loss == "mse":
        loss = functional.mse_loss(logits.float(), wanted)
        if recipe.hard_weight == 0:
            return loss
        return loss + recipe.hard_weight * functional.cross_entropy(logits.float(), classes)
    if recipe.loss == "gift":
        return gift_loss(logits, wanted, classes, recipe.hard_weight)
    loss = soft_loss(logits, wanted, recipe.temperature)
    return loss * recipe.temperature**2 if recipe.loss == "kl-t2" else loss


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


def gift_loss(
    logits: torch.Tensor, wanted: torch.Tensor, classes: torch.Tensor, weight: float
) -> torch.Tensor:
    """One minus the cosine between a student's logits and labels refined by their class.

    GIFT (arXiv 2405.14736): the observer's logits and the smoothed class, both of unit length, are
    added.

    Parameters
    ----------
    logits
        (B, K) floating point, of the student; converted to float32.
    wanted
        (B, K) float32 logits of the observer.
    classes
        (B,) int64.
    weight
        Weight of the smoothed class.

    Returns
    -------
    Tensor
        A scalar, float32, the mean over the batch.
    """
    others = _SMOOTHING_OF_GIFT / max(wanted.shape[1] - 1, 1)
    smoothed = torch.full_like(wanted, others)
    smoothed = smoothed.scatter(1, classes[:, None], 1 - _SMOOTHING_OF_GIFT)
    refined = functional.normalize(wanted, dim=1) + weight * functional.normalize(smoothed, dim=1)
    return 1 - functional.cosine_similarity(logits.float(), refined, dim=1).mean()
