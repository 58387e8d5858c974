"""The training of networks on real images between two steps of matching, as in IDC and DREAM+."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pydream.dream.real import ClassImages
from pydream.ops import diff_augment, random_augment
from pydream.seeds import derived_seed, drawn_order, own_random_numbers, uniform
from pydream.streams import to_device
from pydream.students.augmentation import one_operation_for_all
from pydream.students.mixing import cut_mix

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, BATCH = 0.01, 0.9, 5e-4, 64
CUTMIX_SHARE = 0.5  # of all batches
STRATEGY = "color_crop_cutout"

_ORDER, _AUGMENT, _MIX = range(3)


def fresh_network(make: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    """Make a network with weights drawn from a seed; torch's generators do not change."""
    with own_random_numbers(seed, device):
        network = make().to(device).train()
        return network.to(memory_format=torch.channels_last)


class NetworkTrainer:
    """Trains a network on real images, a few hundred at a time.

    SGD with batches of 64, one draw of the augmentation per image, and CutMix (arXiv 1905.04899) of
    every other batch, as IDC and DREAM+ do between two matching steps.

    Parameters
    ----------
    network
        The network, trained in place.
    real
        The images.
    """

    def __init__(self, network: nn.Module, real: ClassImages) -> None:
        self.network, self.real = network, real
        self._optimizer = torch.optim.SGD(
            network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )

    def train(self, count: int, seed: int) -> None:
        """Train once on `count` images, drawn without replacement, or on all if there are fewer."""
        real = self.real
        device = real.pixels.device
        rows = drawn_order(derived_seed(seed, _ORDER), len(real.labels))[:count]
        order = to_device(torch.from_numpy(rows), device)
        augment = to_device(
            random_augment(len(rows), real.side, STRATEGY, seed=derived_seed(seed, _AUGMENT)),
            device,
        )
        for step, (chosen, parameters) in enumerate(
            zip(torch.split(order, BATCH), torch.split(augment, BATCH), strict=True)
        ):
            images = diff_augment(real.normalise(real.take(chosen)), parameters)
            labels = real.labels[chosen]
            loss = mixed_loss(self.network, images, labels, derived_seed(seed, _MIX, step))
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()


def train_with_dsa(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    strategy: str,
    seed: int,
) -> None:
    """Train a network on some batches, each augmented by one operation of DSA.

    Parameters
    ----------
    network, optimizer
        Classifier of normalised images, and the optimiser of its weights.
    batches
        Normalised images, (B, C, S, S), and labels, int64 (B,).
    strategy
        Words of `pydream.ops.random_augment`; empty for no augmentation.
    seed
        Random seed of these batches.
    """
    for number, (images, labels) in enumerate(batches):
        if strategy:
            drawn = one_operation_for_all(
                len(images), images.shape[-1], strategy, seed=derived_seed(seed, number)
            )
            images = diff_augment(images, to_device(drawn, images.device))
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def mixed_loss(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Return the cross entropy of a batch, to which CutMix is applied in half of all cases.

    Parameters
    ----------
    network
        Network that returns logits.
    images
        (B, C, S, S), normalised; may be overwritten.
    labels
        int64 (B,).
    seed
        Random seed of this batch.
    """
    drawn = uniform(seed, 4 + len(images))
    if drawn[0] >= CUTMIX_SHARE:
        return functional.cross_entropy(network(images), labels)
    order = np.argsort(drawn[4:], kind="stable")
    partners = to_device(torch.from_numpy(order), images.device)
    share = cut_mix(images, partners, float(drawn[1]), drawn[2], drawn[3])
    logits = network(images)
    return torch.lerp(
        functional.cross_entropy(logits, labels[partners]),
        functional.cross_entropy(logits, labels),
        share,
    )
