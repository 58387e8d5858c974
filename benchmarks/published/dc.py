"""DC and DSA (Zhao et al., ICLR 2021; Zhao and Bilen, ICML 2021) in plain PyTorch.

Class by class, real and synthetic images pass through the network, and the distances of their
gradients are summed; one backward pass and one step of SGD move the images of all classes. Between
two steps the network is trained on the synthetic images. Images are normalised all along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.published.dsa import augment_one, draw_one

BATCH = 256


@dataclass(frozen=True)
class Settings:
    """Numbers of a run; see `pydream.dream.DreamConfig`."""

    batch_real: int
    inner_loop: int
    synthetic_epochs: int
    augmented: bool


def distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers and rows of 1 − cos; layers of one dimension are left out."""
    total = torch.zeros((), dtype=synthetic[0].dtype, device=synthetic[0].device)
    for x, y in zip(synthetic, real, strict=True):
        if x.dim() > 1:
            a, b = x.reshape(len(x), -1), y.reshape(len(y), -1)
            product = torch.sum(a * b, dim=1)
            total = total + torch.sum(1 - product / (a.norm(dim=1) * b.norm(dim=1) + 1e-6))
    return total


def matching_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    synthetic: Tensor,
    real: Sequence[Tensor],
    augmentation: Sequence[Tensor | None],
) -> float:
    """Move the images of all classes once.

    Parameters
    ----------
    network
        The network at this step.
    optimizer
        Of the synthetic images.
    synthetic
        (K, IPC, C, S, S), normalised; a leaf.
    real
        The normalised real images of each class, (n, C, S, S).
    augmentation
        For each class a row of parameters, (1, 13), or None.
    """
    weights = list(network.parameters())
    loss = torch.zeros((), dtype=synthetic.dtype, device=synthetic.device)
    for label, (images, row) in enumerate(zip(real, augmentation, strict=True)):
        own = synthetic[label]
        if row is not None:
            images, own = augment_one(images, row), augment_one(own, row)
        gradients = torch.autograd.grad(_loss(network, images, label), weights)
        expected = [gradient.detach().clone() for gradient in gradients]
        found = torch.autograd.grad(_loss(network, own, label), weights, create_graph=True)
        loss = loss + distance(found, expected)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _loss(network: nn.Module, images: Tensor, label: int) -> Tensor:
    labels = torch.full((len(images),), label, device=images.device)
    return F.cross_entropy(network(images), labels)


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
) -> None:
    """Train on batches of normalised images and labels, with a row of parameters for each image."""
    for images, labels, rows in batches:
        seen = images if rows is None else augment_one(images, rows)
        optimizer.zero_grad()
        F.cross_entropy(network(seen), labels).backward()
        optimizer.step()


def outer_iteration(
    network: Any,
    classes: Sequence[Tensor],
    synthetic: Tensor,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> float:
    """One network: `synthetic` (K, IPC, C, S, S) is moved on in place; returns the mean loss."""
    trainer = torch.optim.SGD(network.parameters(), 0.01)
    count, ipc, side = len(classes), synthetic.shape[1], synthetic.shape[-1]
    labels = torch.arange(count).repeat_interleave(ipc).to(synthetic.device)
    total = 0.0
    for step in range(settings.inner_loop):
        real = [images[torch.randperm(len(images))[: settings.batch_real]] for images in classes]
        rows = [draw_one(1, side) if settings.augmented else None for _ in classes]
        total += matching_step(network, optimizer, synthetic, real, rows)
        if step + 1 == settings.inner_loop:
            break
        images = synthetic.detach().clone().flatten(0, 1)
        for _ in range(settings.synthetic_epochs):
            train(
                network,
                trainer,
                (
                    (
                        images[chosen],
                        labels[chosen],
                        draw_one(len(chosen), side) if settings.augmented else None,
                    )
                    for chosen in torch.randperm(len(images)).split(BATCH)
                ),
            )
    return total / settings.inner_loop
