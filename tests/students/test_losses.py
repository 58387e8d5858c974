from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pydream.students.losses import gift_loss, loss_of
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import RDED

# float32 sums of seven rows of five, against the same formulas in float64.
CLOSE = 1e-5


def recipe(**changes: Any) -> ResolvedRecipe:
    plain = resolve(
        RDED, student="convnet3", num_images=9, num_classes=5, side=8, factor=1, overrides={}
    )
    return dataclasses.replace(plain, temperature=3.0, **changes)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A student's logits, an observer's, and the classes of seven images."""
    generator = torch.Generator().manual_seed(0)
    logits, wanted = 4 * torch.randn(2, 7, 5, generator=generator)
    return logits, wanted, torch.arange(7) % 5


def by_hand(
    loss: str, logits: torch.Tensor, wanted: torch.Tensor, classes: torch.Tensor, weight: float
) -> torch.Tensor:
    """Compute the losses in float64, from exponentials and logarithms alone."""
    logits, wanted = logits.double(), wanted.double()
    softened = [
        (values / 3).exp() / (values / 3).exp().sum(1, keepdim=True) for values in (logits, wanted)
    ]
    predicted, targets = softened
    if loss == "ce":
        return -(targets * predicted.log()).sum(1).mean()
    if loss in ("kl", "kl-t2"):
        divergence = (targets * (targets.log() - predicted.log())).sum(1).mean()
        return divergence * (9 if loss == "kl-t2" else 1)
    if loss == "mse":
        right = logits.exp()[torch.arange(7), classes] / logits.exp().sum(1)
        return ((logits - wanted) ** 2).sum() / 35 - weight * right.log().mean()
    smoothed = torch.full((7, 5), 0.1 / 4).double()
    smoothed[torch.arange(7), classes] = 0.9
    refined = wanted / (wanted**2).sum(1, keepdim=True).sqrt()
    refined = refined + weight * smoothed / (smoothed**2).sum(1, keepdim=True).sqrt()
    lengths = (logits**2).sum(1).sqrt() * (refined**2).sum(1).sqrt()
    return (1 - (logits * refined).sum(1) / lengths).mean()


@pytest.mark.parametrize("weight", [0.0, 0.025, 0.7])
@pytest.mark.parametrize("loss", ["kl", "kl-t2", "ce", "mse", "gift"])
def test_every_loss_is_its_formula(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], loss: Any, weight: float
) -> None:
    logits, wanted, classes = batch
    how = recipe(loss=loss, hard_weight=weight)
    targets = wanted if how.compares_logits else torch.softmax(wanted / 3, dim=1)
    found = loss_of(how, logits, targets, classes)
    right = by_hand(loss, logits, wanted, classes, weight).float()
    torch.testing.assert_close(found, right, rtol=CLOSE, atol=CLOSE)
    half = loss_of(how, logits.bfloat16(), targets, classes)
    assert half.dtype == torch.float32  # sums of a batch in bfloat16 would lose all but two digits


def test_mse_has_the_gradient_of_logits_and_classes(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    logits, wanted, classes = batch
    logits = logits.double().requires_grad_()
    loss_of(recipe(loss="mse", hard_weight=0.025), logits, wanted, classes).backward()
    with torch.no_grad():
        of_classes = torch.softmax(logits, dim=1) - torch.eye(5)[classes]
        slope = 2 * (logits - wanted) / 35 + 0.025 * of_classes / 7
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, slope, rtol=CLOSE, atol=CLOSE)


def test_gift_does_not_see_lengths(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    logits, wanted, classes = batch
    one, longer = (
        gift_loss(scale * logits, 7 * scale * wanted, classes, 0.1) for scale in (1.0, 5.0)
    )
    torch.testing.assert_close(one, longer, rtol=CLOSE, atol=CLOSE)
    aligned = gift_loss(wanted, wanted, classes, 0.0)
    torch.testing.assert_close(aligned, torch.tensor(0.0), rtol=0, atol=CLOSE)
