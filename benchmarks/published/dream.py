"""DREAM+'s matching as its authors run it (arXiv 2310.15052, on IDC's code), in plain PyTorch.

One class after another: all images of the class are embedded, clustered by fast_pytorch_kmeans and
the nearest to each centre taken, every ten steps; the class's real and synthetic images are
augmented by the published chain with one draw; features and gradients are matched layer by layer;
the optimiser steps. Then the network is trained. Images lie in memory as float tensors, so nothing
is decoded, and one pass of the network gives features and gradients at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.published.dsa import augment, draw_crop

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
INTERVAL = 10
BATCH = 64


@dataclass(frozen=True)
class Settings:
    """Numbers of a run; see `pydream.dream.DreamConfig`."""

    factor: int
    batch_real: int
    inner_loop: int
    network_images: int
    learning_rate: float
    pretrain: bool


def representatives(images: Tensor, network: Any, count: int) -> Tensor:
    """DREAM's choice of one class: the nearest image of each of `count` clusters."""
    from fast_pytorch_kmeans import KMeans

    with torch.no_grad():
        embedded = torch.cat([network.features(part) for part in images.split(256)])
    model = KMeans(n_clusters=count, mode="euclidean")
    model.fit_predict(embedded)
    return torch.cdist(model.centroids, embedded).argmin(dim=1)


def normalised(images: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD)
    )
    return (images - mean) / std


def multi_formation(images: Tensor, factor: int) -> Tensor:
    side = images.shape[2]
    cell = -(-side // factor)
    padded = F.pad(images, (0, cell * factor - side, 0, cell * factor - side), value=0.5)
    cells = [
        padded[:, :, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
        for y in range(factor)
        for x in range(factor)
    ]
    return F.interpolate(torch.cat(cells), size=side, mode="bilinear")


def matching_loss(network: Any, real: Tensor, synthetic: Tensor, label: int) -> Tensor:
    """Squared distances of mean features and of the gradients of convolutions."""
    weights = [parameter for parameter in network.parameters() if parameter.dim() == 4]

    def answers(images: Tensor, create_graph: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        features = network.features(images)
        labels = torch.full((len(images),), label, device=images.device)
        loss = F.cross_entropy(network.classifier(features), labels)
        gradients = torch.autograd.grad(loss, weights, create_graph=create_graph)
        return features.mean(0), gradients

    features, gradients = answers(real, False)
    own_features, own_gradients = answers(synthetic, True)
    loss = torch.sum((own_features - features.detach()) ** 2)
    for x, y in zip(own_gradients, gradients, strict=True):
        loss = loss + torch.sum((x - y.detach()) ** 2)
    return loss


def train(network: nn.Module, optimizer: torch.optim.SGD, images: Tensor, labels: Tensor) -> None:
    """One pass: an augmentation drawn for each image, CutMix in half of the batches."""
    for chosen in torch.randperm(len(images)).split(BATCH):
        batch = normalised(images[chosen])
        batch, target = (
            augment(batch, draw_crop(len(batch), batch.shape[2]), "crop"),
            labels[chosen],
        )
        if np.random.rand(1) < 0.5:
            batch, target, partner, share = cutmix(batch, target)
            logits = network(batch)
            loss = share * F.cross_entropy(logits, target)
            loss = loss + (1 - share) * F.cross_entropy(logits, partner)
        else:
            loss = F.cross_entropy(network(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def cutmix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    share, order = np.random.beta(1.0, 1.0), torch.randperm(len(images))
    side = images.shape[2]
    half = int(side * np.sqrt(1 - share)) // 2
    y, x = np.random.randint(side), np.random.randint(side)
    top, bottom = max(y - half, 0), min(y + half, side)
    left, right = max(x - half, 0), min(x + half, side)
    images[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return images, labels, labels[order], 1 - (bottom - top) * (right - left) / side**2


def outer_iteration(
    network: nn.Module,
    classes: Sequence[Tensor],
    synthetic: Tensor,
    optimizer: torch.optim.SGD,
    settings: Settings,
) -> float:
    """One network: `synthetic` (K, IPC, C, S, S) is moved on in place; returns the mean loss.

    Parameters
    ----------
    network
        A fresh one.
    classes
        The images of each class, float32 (n, C, S, S) in [0, 1].
    synthetic
        A leaf that the optimizer holds.
    optimizer
        Of the synthetic images.
    settings
        The numbers.
    """
    everything = torch.cat(list(classes))
    labels = torch.cat(
        [torch.full((len(members),), label) for label, members in enumerate(classes)]
    )
    labels = labels.to(everything.device)
    trainer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    if settings.pretrain:
        train(network, trainer, everything, labels)
    synthetic.data.clamp_(0, 1)
    chosen: list[Tensor] = [torch.empty(0)] * len(classes)
    total = 0.0
    for step in range(settings.inner_loop):
        for label, images in enumerate(classes):
            if step % INTERVAL == 0:
                chosen[label] = representatives(images, network, settings.batch_real)
            real = images[chosen[label]]
            formed = multi_formation(synthetic[label], settings.factor)
            both = normalised(torch.cat([real, formed]))
            both = augment(both, draw_crop(1, both.shape[2]), "crop")
            loss = matching_loss(network, both[: len(real)], both[len(real) :], label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        order = torch.randperm(len(everything))[: settings.network_images]
        train(network, trainer, everything[order], labels[order])
    return total / settings.inner_loop
