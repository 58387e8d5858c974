"""MTT (Cazenavette et al., CVPR 2022) in plain PyTorch: a student's steps, with all their graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.published.dc import train
from benchmarks.published.dsa import augment_one, draw_one


def expert_trajectory(
    network: nn.Module,
    epochs: Iterable[Iterable[tuple[Tensor, Tensor, Tensor | None]]],
    learning_rate: float,
) -> Tensor:
    """Train an expert; return its weights before the first epoch and after each, (E + 1, P).

    Parameters
    ----------
    network
        The expert, trained in place.
    epochs
        The batches of each epoch: normalised real images, labels, and a row of parameters for each
        image.
    learning_rate
        Of SGD without momentum or weight decay.
    """
    optimizer = torch.optim.SGD(network.parameters(), learning_rate)
    weights = [nn.utils.parameters_to_vector(network.parameters()).detach()]
    for batches in epochs:
        train(network, optimizer, batches)
        weights.append(nn.utils.parameters_to_vector(network.parameters()).detach())
    return torch.stack(weights)


def trajectory_loss(
    network: nn.Module,
    start: Tensor,
    target: Tensor,
    images: Tensor,
    labels: Tensor,
    rate: Tensor,
    batches: Sequence[Tensor],
    augmentations: Sequence[Tensor] | None,
) -> Tensor:
    """Distance of a student's end from an expert's, over that of the expert's start (equation 2).

    Parameters
    ----------
    network
        The layers; their weights are given.
    start, target
        Weights of the expert, flattened, (P,).
    images
        (N, C, S, S), normalised.
    labels
        (N,).
    rate
        Learning rate of the student, ().
    batches
        The images of each step.
    augmentations
        Rows of parameters of each step, one for each image; None for none.
    """
    names = [name for name, _ in network.named_parameters()]
    shapes = [weight.shape for weight in network.parameters()]
    weights = start.clone().requires_grad_()
    for number, chosen in enumerate(batches):
        seen = images[chosen]
        if augmentations is not None:
            seen = augment_one(seen, augmentations[number])
        parts = [
            part.view(shape)
            for part, shape in zip(
                weights.split([shape.numel() for shape in shapes]), shapes, strict=True
            )
        ]
        logits = functional_call(network, dict(zip(names, parts, strict=True)), (seen,))
        loss = F.cross_entropy(logits, labels[chosen])
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights = weights - rate * gradient
    distance: Tensor = torch.sum((weights - target) ** 2) / torch.sum((start - target) ** 2)
    return distance


def outer_iteration(
    network: nn.Module,
    expert: tuple[Tensor, Tensor],
    synthetic: Tensor,
    rate: Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    steps: int,
    batch: int,
) -> float:
    """Move `synthetic` (K, IPC, C, S, S) and the learning rate once, in place."""
    images = synthetic.flatten(0, 1)
    count, ipc = synthetic.shape[:2]
    labels = torch.arange(count).repeat_interleave(ipc).to(images.device)
    batches: list[Tensor] = []
    while len(batches) < steps:
        batches += torch.randperm(len(images)).split(batch)
    batches = batches[:steps]
    rows = [draw_one(len(chosen), images.shape[-1]) for chosen in batches]
    loss = trajectory_loss(network, *expert, images, labels, rate, batches, rows)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()
