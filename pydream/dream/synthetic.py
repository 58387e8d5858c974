"""The images being optimised, and the optimiser's step over all classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

MOMENTUM = 0.5

LossAndSlope: TypeAlias = tuple[Tensor, Tensor]
"""One or more losses, and the derivatives of their sum with respect to the images."""


class SyntheticImages:
    """Images of classes under SGD with momentum, with one buffer for all of them.

    In IDC, the optimiser steps after each class: a step moves the images of that class by its
    gradient, and those of all other classes by the rest of their momentum. The state after a round
    over all classes is a geometric sum. So the gradients of all classes can be computed as one
    batch, with the images of each class as they are at its turn.

    Parameters
    ----------
    values
        float32 (k, IPC, C, S, S), in [0, 1]; optimised in place.
    learning_rate
        Learning rate of SGD.
    velocity
        Momentum of the images, of the same shape, in a resumed run; by default 0.
    classes
        The classes that these are, by default all.
    num_classes
        Number of all classes, by default that of these.
    rate
        Learning rate of a student and its velocity, float32 (2,), where it is optimised along with
        the images (MTT).

    Notes
    -----
    Source: the loop of DREAM+ (arXiv 2310.15052) and IDC (Kim et al., ICML 2022).
    """

    def __init__(
        self,
        values: Tensor,
        learning_rate: float,
        velocity: Tensor | None = None,
        *,
        classes: Sequence[int] | None = None,
        num_classes: int | None = None,
        rate: Tensor | None = None,
    ) -> None:
        self.values = values
        self.rate = rate
        self.velocity = torch.zeros_like(values) if velocity is None else velocity
        self.learning_rate = learning_rate
        count = len(values) if num_classes is None else num_classes
        self._whole = count == len(values)
        powers = MOMENTUM ** torch.arange(count + 1, dtype=torch.float64)
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), powers[1:].cumsum(0)])
        turn = torch.arange(count) if classes is None else torch.tensor(classes)

        def of_classes(numbers: Tensor) -> Tensor:
            return numbers.to(values.dtype).view(-1, 1, 1, 1, 1).to(values.device)

        # Momentum alone moves class c by c steps before its turn, and by K - 1 - c steps after it.
        self._moved_before = of_classes(sums[turn])
        self._decay_before = of_classes(powers[turn + 1])
        self._moved_after = of_classes(1 + sums[count - 1 - turn])
        self._decay_after = of_classes(powers[count - 1 - turn])

    def step_once(self, gradient: Callable[[Tensor], LossAndSlope]) -> Tensor:
        """Step once for all classes, by the sum of their losses.

        Parameters
        ----------
        gradient
            Function of the images, (k, IPC, C, S, S), that returns losses and slope.

        Returns
        -------
        Tensor
            The losses.
        """
        loss, slope = gradient(self.values)
        self.velocity.mul_(MOMENTUM).add_(slope)
        self.values.sub_(self.velocity, alpha=self.learning_rate)
        return loss

    def step_together(self, gradient: Callable[[Tensor], LossAndSlope]) -> Tensor:
        """Step once for each class, with the gradients of all classes computed as one batch.

        Parameters
        ----------
        gradient
            Function of the images, (k, IPC, C, S, S), each as they are at their class's turn, that
            returns losses and slope.

        Returns
        -------
        Tensor
            The losses.
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
            The loss of each class, (K,).

        Raises
        ------
        ValueError
            If these are not all classes.
        """
        if not self._whole:
            raise ValueError("only all classes together can be updated in turn")
        losses = []
        for label in range(len(self.values)):
            loss, slope = gradient(label, self.values[label])
            self.velocity.mul_(MOMENTUM)
            self.velocity[label] += slope
            self.values.sub_(self.velocity, alpha=self.learning_rate)
            losses.append(loss)
        return torch.stack(losses)

    def step_rate(self, slope: Tensor, learning_rate: float) -> None:
        """Step the student's learning rate by the derivative of the loss with respect to it, ()."""
        assert self.rate is not None
        value, velocity = self.rate
        velocity.mul_(MOMENTUM).add_(slope)
        value.sub_(velocity, alpha=learning_rate)

    def copy(self) -> SyntheticImages:
        """Return a copy that later steps do not change."""
        twin = copy.copy(self)
        twin.values, twin.velocity = self.values.clone(), self.velocity.clone()
        twin.rate = None if self.rate is None else self.rate.clone()
        return twin

    def clamp(self) -> None:
        """Clamp the images to [0, 1]."""
        self.values.clamp_(0, 1)
