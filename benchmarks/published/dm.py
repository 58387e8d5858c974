"""DM (Zhao and Bilen, WACV 2023) in plain PyTorch: mean features of each class by new networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.published.dsa import augment_one, draw_one


def matching_step(
    network: Any,
    optimizer: torch.optim.Optimizer,
    synthetic: Tensor,
    real: Sequence[Tensor],
    augmentation: Sequence[Tensor],
) -> float:
    """Move the images of all classes once.

    Parameters
    ----------
    network
        A fresh one, with a method ``features``.
    optimizer
        Of the synthetic images.
    synthetic
        (K, IPC, C, S, S), normalised; a leaf.
    real
        The normalised real images of each class, (n, C, S, S).
    augmentation
        For each class a row of parameters, (1, 13).
    """
    seen = [augment_one(images, row) for images, row in zip(real, augmentation, strict=True)]
    own = [augment_one(images, row) for images, row in zip(synthetic, augmentation, strict=True)]
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        expected = network.features(torch.cat(seen)).detach().split([*map(len, seen)])
        found = network.features(torch.cat(own)).split([*map(len, own)])
    else:
        expected = [network.features(images).detach() for images in seen]
        found = [network.features(images) for images in own]
    loss = torch.zeros((), dtype=synthetic.dtype, device=synthetic.device)
    for of_real, of_synthetic in zip(expected, found, strict=True):
        loss = loss + torch.sum((of_real.mean(dim=0) - of_synthetic.mean(dim=0)) ** 2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def outer_iteration(
    network: Any,
    classes: Sequence[Tensor],
    synthetic: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_real: int,
) -> float:
    """One network and one step: `synthetic` (K, IPC, C, S, S) is moved on in place."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    real = [images[torch.randperm(len(images))[:batch_real]] for images in classes]
    rows = [draw_one(1, synthetic.shape[-1]) for _ in classes]
    return matching_step(network, optimizer, synthetic, real, rows)
