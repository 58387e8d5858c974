"""The images being optimised, and the optimiser's step over all classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

MOMENTUM = 0.5

LossAndSlope: TypeAlias = tuple[Tensor, Tensor]
"""A loss, and its derivatives with respect to the images."""


class SyntheticImages:
    """Images of K classes under SGD with momentum, with one buffer for all of them.

    As published, the optimiser steps after each class: a step moves the images of that class by its
    gradient, and those of all other classes by the rest of their momentum. The state after a round
    over all classes is a geometric sum. So the gradients of all classes can be computed as one
    batch, with the images of each class as they are at its turn.

    Parameters
    ----------
    values
        float32 (K, IPC, C, S, S), in [0, 1]; optimised in place.
    learning_rate
        Learning rate of SGD.
    velocity
        Momentum of the images, of the same shape, in a resumed run; by default 0.

    Notes
    -----
    Source: the loop of DREAM+ (arXiv 2310.15052) and IDC (Kim et al., ICML 2022).
    """

    def __init__(
        self, values: Tensor, learning_rate: float, velocity: Tensor | None = None
    ) -> None:
        self.values = values
        self.velocity = torch.zeros_like(values) if velocity is None else velocity
        self.learning_rate = learning_rate
        count = len(values)
        powers = MOMENTUM ** torch.arange(count + 1, dtype=torch.float64)
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), powers[1:].cumsum(0)])
        turn = torch.arange(count)

        def of_classes(numbers: Tensor) -> Tensor:
            return numbers.to(values.dtype).view(-1, 1, 1, 1, 1).to(values.device)

        # Momentum alone moves class c by c steps before its turn, and by K - 1 - c steps after it.
        self._moved_before = of_classes(sums[turn])
        self._decay_before = of_classes(powers[turn + 1])
        self._moved_after = of_classes(1 + sums[count - 1 - turn])
        self._decay_after = of_classes(powers[count - 1 - turn])

    def step_together(self, gradient: Callable[[Tensor], LossAndSlope]) -> Tensor:
        """Step once for each class, with the gradients of all classes computed as one batch.

        Parameters
        ----------
        gradient
            Function of the images of all classes, (K, IPC, C, S, S), each as they are at their
            class's turn, that returns the sum of the classes' losses, and its derivatives with
            respect to the images.

        Returns
        -------
        Tensor
            The sum of the losses.
        """
        at_turn = self.values - self.learning_rate * self._moved_before * self.velocity
        loss, slope = gradient(at_turn)
        velocity = self._decay_before * self.velocity + slope
        self.values.copy_(at_turn - self.learning_rate * self._moved_after * velocity)
        self.velocity.copy_(self._decay_after * velocity)
        return loss

    def step_in_turn(self, gradient: Callable[[int, Tensor], LossAndSlope]) -> Tensor:
        """Step once for each class, one after the other.

        Parameters
        ----------
        gradient
            Function of a class and its images, (IPC, C, S, S), that returns the loss, and its
            derivatives with respect to the images.

        Returns
        -------
        Tensor
            The sum of the losses.
        """
        losses = []
        for label in range(len(self.values)):
            loss, slope = gradient(label, self.values[label])
            self.velocity.mul_(MOMENTUM)
            self.velocity[label] += slope
            self.values.sub_(self.velocity, alpha=self.learning_rate)
            losses.append(loss)
        return torch.stack(losses).sum()

    def clamp(self) -> None:
        """Clamp the images to [0, 1]."""
        self.values.clamp_(0, 1)
