"""What MTT matches: the weights that training on the synthetic images leads to, and an expert's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pydream.dream.draws import Draw
from pydream.dream.moving_networks import ExpertNetworks
from pydream.dream.real import ClassImages
from pydream.dream.recipes import PRESETS
from pydream.dream.resolved import ResolvedConfig
from pydream.dream.synthetic import LossAndSlope, SyntheticImages
from pydream.dream.trajectory import trajectory_gradient
from pydream.ops import multi_formation
from pydream.seeds import derived_seed, drawn_order
from pydream.streams import to_device
from pydream.students.augmentation import one_operation_for_all


class TrajectoryInputs(NamedTuple):
    """Inputs of a step besides the synthetic images.

    Attributes
    ----------
    start, target
        float32 (P,): weights of an expert, which the student starts from, and those that it is to
        reach.
    batches
        int64 (b,) for each of the student's steps: the synthetic images that it sees.
    augmentations
        float32 (b, 13) for each of these steps: a draw for each image.
    """

    start: Tensor
    target: Tensor
    batches: Sequence[Tensor]
    augmentations: Sequence[Tensor]


class TrajectoryMatching:
    """Matches the end of a student's training on the synthetic images to that of an expert's.

    Parameters
    ----------
    config
        Resolved settings.
    real
        The real images, whose mean and standard deviation normalise the others.
    networks
        The experts.

    Notes
    -----
    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (CVPR 2022),
    algorithm 1.
    """

    def __init__(self, config: ResolvedConfig, real: ClassImages, networks: ExpertNetworks) -> None:
        self.config, self.real, self.device = config, real, real.pixels.device
        self._networks = networks
        formed = config.ipc * config.factor**2
        labels = torch.arange(real.num_classes, device=self.device)
        self._labels = labels.repeat_interleave(formed)

    def inputs(self, seed: int) -> Iterator[TrajectoryInputs]:
        """Draw an expert, its epochs, and what the student sees, for each step of an iteration."""
        config = self.config
        assert config.max_start is not None
        assert config.expert_epochs is not None
        for step in range(config.inner_loop):
            of_step = derived_seed(seed, Draw.REAL, step)
            start, target = self._networks.experts.draw(
                of_step, config.max_start, config.expert_epochs, self.device
            )
            batches = self._batches(derived_seed(seed, Draw.SYNTHETIC, step))
            augment_seed = derived_seed(seed, Draw.AUGMENT, step)
            yield TrajectoryInputs(
                start,
                target,
                [to_device(batch, self.device) for batch in batches],
                [
                    to_device(self._augmentation(len(batch), augment_seed, number), self.device)
                    for number, batch in enumerate(batches)
                ],
            )

    def example(self) -> TrajectoryInputs:
        """Return inputs of the shapes of a step's, for its capture."""
        return next(self.inputs(0))

    def step(self, synthetic: SyntheticImages, inputs: TrajectoryInputs) -> Tensor:
        """Update the images and the student's learning rate; return the loss, (1,)."""
        rate, of_rate = synthetic.rate, self.config.rate_learning_rate
        assert rate is not None
        assert of_rate is not None
        slopes: list[Tensor] = []

        def gradient(images: Tensor) -> LossAndSlope:
            images = images.detach().requires_grad_()
            formed = multi_formation(images, self.config.factor, self.real.side).flatten(0, 1)
            loss, of_formed, of_student_rate = trajectory_gradient(
                self._networks.network,
                inputs.start,
                inputs.target,
                self.real.normalise(formed.detach()),
                self._labels,
                rate[0],
                inputs.batches,
                inputs.augmentations,
            )
            slopes.append(of_student_rate)
            # The optimiser moves the normalised image, by the slope there: a step of x / std moves
            # the image x by std times that.
            (slope,) = torch.autograd.grad(formed, images, self.real.colour_step(of_formed))
            return loss[None], slope

        loss = synthetic.step_once(gradient)
        synthetic.step_rate(slopes[0], of_rate)
        return loss

    def _batches(self, seed: int) -> list[Tensor]:
        """Draw the images of each of the student's steps: pass after pass over all, shuffled.

        The batch that may be short comes first in a pass, as published.
        """
        config, batches, number = self.config, list[Tensor](), 0
        assert config.student_steps is not None
        while len(batches) < config.student_steps:
            order = torch.from_numpy(drawn_order(derived_seed(seed, number), len(self._labels)))
            batches += reversed(torch.split(order, config.batch_synthetic))
            number += 1
        return batches[: config.student_steps]

    def _augmentation(self, count: int, seed: int, step: int) -> Tensor:
        strategy = self.config.of_framework.strategy(flip=PRESETS[self.config.recipe].flip)
        seed = derived_seed(seed, step)
        return one_operation_for_all(count, self.real.side, strategy, seed=seed)
