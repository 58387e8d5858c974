"""Gradient matching with representative real images, in a plain loop.

    python examples/representative_matching.py

Distils scikit-learn's digits to one image a class, by matching the gradients of a small network on
it to those on real images: on images chosen by RepresentativeSampler, and on random ones. Prints
how well networks that are trained on the result alone read the other digits, for three seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from pydream.dream import RepresentativeSampler
from pydream.models.convnet import ConvNet

CLASSES, IPC, BATCH, SEEDS = 10, 1, 16, 3
Choose = Callable[[nn.Module], list[Tensor]]


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels to distil, sorted by class, and others to test on."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    labels = torch.tensor(labels)
    train = torch.arange(len(labels)) % 4 != 0
    order = labels[train].argsort(stable=True)
    return images[train][order], labels[train][order], images[~train], labels[~train]


def network() -> ConvNet:
    """Return a network as it is before training."""
    return ConvNet(CLASSES, side=8, channels=1, depth=2, width=32, norm="instance")


def gradients(
    model: nn.Module, images: Tensor, label: int, create_graph: bool = False
) -> Sequence[Tensor]:
    """Return the gradients of the loss on images of one class."""
    loss = F.cross_entropy(model(images), torch.full((len(images),), label))
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    return torch.autograd.grad(loss, weights, create_graph=create_graph)


def distil(images: Tensor, choose: Choose, start: list[Tensor], steps: int) -> Tensor:
    """Move synthetic images until their gradients are those of the real images chosen."""
    synthetic = torch.cat([images[rows[:IPC]] for rows in start]).clone().requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=0.05, momentum=0.5)
    for step in range(steps):
        if step % 10 == 0:
            model = network()
        for label, rows in enumerate(choose(model)):
            real = gradients(model, images[rows], label)
            mine = synthetic[label * IPC : (label + 1) * IPC]
            matched = gradients(model, mine, label, create_graph=True)
            apart = [(a - b.detach()).square().sum() for a, b in zip(matched, real, strict=True)]
            loss = sum(apart, torch.zeros(()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return synthetic.detach().clamp(0, 1)


def accuracy(synthetic: Tensor, images: Tensor, labels: Tensor) -> float:
    """Train a fresh network on the synthetic images, and test it."""
    model, own = network(), torch.arange(CLASSES).repeat_interleave(IPC)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(synthetic), own).backward()
        optimizer.step()
    return float((model(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Distil both ways and print the accuracies."""
    images, labels, test_images, test_labels = load()
    members = [(labels == label).nonzero()[:, 0] for label in range(CLASSES)]
    ways: dict[str, Choose] = {
        "representative": RepresentativeSampler(images, labels, BATCH, interval=5),
        "random": lambda _: [rows[torch.randperm(len(rows))[:BATCH]] for rows in members],
    }
    for name, choose in ways.items():
        found = []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            synthetic = distil(images, choose, choose(network()), steps=40)
            found.append(accuracy(synthetic, test_images, test_labels))
        shares = ", ".join(f"{value:.1%}" for value in found)
        print(f"{name:15s} {sum(found) / SEEDS:.1%} ({shares})")


if __name__ == "__main__":
    main()
