"""What is matched: the answers of a network to real and to synthetic images of each class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pydream.dream.batches import RealBatches
from pydream.dream.draws import Draw
from pydream.dream.moving_networks import Networks
from pydream.dream.real import ClassImages
from pydream.dream.recipes import PRESETS
from pydream.dream.resolved import ResolvedConfig
from pydream.dream.synthetic import LossAndSlope, SyntheticImages
from pydream.matching import Matcher, answer_distance_and_slopes, is_batch_norm
from pydream.ops import diff_augment, multi_formation, random_augment
from pydream.seeds import derived_seed, drawn_order
from pydream.streams import to_device
from pydream.students.augmentation import one_operation_each
from pydream.timeline import stage


class StepInputs(NamedTuple):
    """Inputs of a matching step besides the synthetic images and the network.

    Attributes
    ----------
    rows, weights, counts
        The real images to match: `pydream.dream.batches.Rows`.
    formations
        int64 (k, Y): the images to match, of the IPC · f² of a multi-formation; None for all.
    augmentation
        float32 (k, 13): one draw of the augmentation for each class; None without augmentation.
    """

    rows: Tensor
    weights: Tensor | None
    counts: tuple[int, ...] | None
    formations: Tensor | None
    augmentation: Tensor | None


def sees_all_classes(config: ResolvedConfig, network: nn.Module) -> bool:
    """Return whether a batch norm sees the images of all classes at once, as published for DM."""
    exact = config.exact and config.framework == "dm" and config.match == "feature"
    return exact and any(map(is_batch_norm, network.modules()))


class AnswersOfClasses:
    """Matches gradients, features or both, class by class.

    Parameters
    ----------
    config
        Resolved settings.
    real
        The real images.
    networks
        The networks that answer.
    batches
        The real images of each step.
    parts
        The parts of the classes, whose gradients are computed together.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        real: ClassImages,
        networks: Networks,
        batches: RealBatches,
        parts: Sequence[range],
    ) -> None:
        self.config, self.real, self.device = config, real, real.pixels.device
        self._framework = config.of_framework
        self._networks, self._batches = networks, batches
        self._classes = [label for part in parts for label in part]
        ends = itertools.accumulate(map(len, parts), initial=0)
        self._places = [slice(*pair) for pair in itertools.pairwise(ends)]  # of the parts
        self._labels = torch.tensor(self._classes, device=self.device)
        assert config.match != "trajectory"
        self._match = config.match
        self._matcher = Matcher(
            networks.network,
            config.match,
            with_norm_and_bias=config.with_norm_and_bias,
            with_classifier=config.with_classifier,
            one_pass=sees_all_classes(config, networks.network),
        )

    def inputs(self, seed: int) -> Iterator[StepInputs]:
        """Draw the inputs of the steps of an iteration, each when the network has come to it."""
        self._batches.restart()
        augmentations = self._augmentations(seed)
        for step in range(self.config.inner_loop):
            self._networks.prepare(seed, step)
            with stage("choose real images", self.device):
                real = self._batches.of_step(self._networks.chooser, seed, step)
            augmentation = None if augmentations is None else augmentations[step]
            yield StepInputs(*real, self._formations(seed, step), augmentation)

    def example(self) -> StepInputs:
        """Return inputs of the shapes of a step's, for its capture; the network is as for one."""
        self._networks.prepare(0, 0)
        augmentations = self._augmentations(0)
        augmentation = None if augmentations is None else augmentations[0]
        return StepInputs(*self._batches.example(), self._formations(0, 0), augmentation)

    def step(self, synthetic: SyntheticImages, inputs: StepInputs) -> Tensor:
        """Update the images of every class once; return the loss of each part."""
        if not self._framework.in_turn:
            return synthetic.step_once(lambda images: self._gradient_in_parts(images, inputs))
        if not self.config.exact:
            return synthetic.step_together(lambda images: self._gradient_in_parts(images, inputs))

        def of_class(label: int, images: Tensor) -> LossAndSlope:
            classes = slice(label, label + 1)
            loss, slope = self._gradient(images[None], classes, inputs, together=False)
            return loss, slope[0]

        losses = synthetic.step_in_turn(of_class)
        return torch.stack([losses[place].sum() for place in self._places])

    def _gradient_in_parts(self, images: Tensor, inputs: StepInputs) -> LossAndSlope:
        """Return the loss of each part, and the slope of all."""
        losses, slopes = zip(
            *(self._gradient(images[part], part, inputs, together=True) for part in self._places),
            strict=True,
        )
        return torch.stack(losses), torch.cat(slopes)

    def _gradient(
        self, images: Tensor, classes: slice, inputs: StepInputs, *, together: bool
    ) -> LossAndSlope:
        """Return the loss of some classes, and its derivative with respect to their images.

        Shapes: images (k, IPC, C, S, S) of the k classes.
        """
        config, side = self.config, self.real.side
        labels, real = self._labels[classes], self.real.take(inputs.rows[classes])
        weights = None if inputs.weights is None else inputs.weights[classes]
        counts = None if inputs.counts is None else inputs.counts[classes]
        formations = None if inputs.formations is None else inputs.formations[classes]
        augmentation = None if inputs.augmentation is None else inputs.augmentation[classes]
        # One class at a time keeps a CPU busy. Under vmap, the gradients of ConvNet-3's weights at
        # width 128 take 3 times as long there for real images, and 1.5 times for synthetic ones.
        together = together and self.device.type == "cuda"
        with torch.no_grad(), stage("answers to real", self.device):
            expected = self._matcher(
                self._seen(real, augmentation), labels, weights, counts, together=together
            )
        images = images.detach().requires_grad_()
        with stage("answers to synthetic", self.device):
            formed = multi_formation(images, config.factor, side)
            if formations is not None:
                formed = formed[torch.arange(len(formed), device=self.device)[:, None], formations]
            found = self._matcher(self._seen(formed, augmentation), labels, together=together)
        with stage("distance", self.device):
            loss, answers, slopes = answer_distance_and_slopes(
                found, expected, self._match, config.metric
            )
        with stage("derivative", self.device):
            (derivative,) = torch.autograd.grad(answers, images, slopes)
        if self._framework.normalised:
            # A step of the normalised image x / std moves the image x by std² times the slope.
            derivative = derivative * self.real.std.square()[:, None, None]
        return loss, derivative

    def _seen(self, images: Tensor, augmentation: Tensor | None) -> Tensor:
        """Normalise and augment (k, B, C, S, S), each class by one draw."""
        normalised = self.real.normalise(images)
        if augmentation is None:
            return normalised
        augmented: Tensor = diff_augment(normalised.flatten(0, 1), augmentation).view(images.shape)
        return augmented

    def _augmentations(self, seed: int) -> Tensor | None:
        """Draw the augmentation of each class in each step: float32 (steps, k, 13)."""
        framework, steps = self._framework, self.config.inner_loop
        strategy = framework.strategy(flip=PRESETS[self.config.recipe].flip)
        if not strategy:
            return None
        draw = one_operation_each if framework.one_operation else random_augment
        count = steps * self.real.num_classes
        drawn = draw(count, self.real.side, strategy, seed=derived_seed(seed, Draw.AUGMENT))
        of_classes = drawn.view(steps, self.real.num_classes, -1)[:, self._classes]
        return to_device(of_classes, self.device)

    def _formations(self, seed: int, step: int) -> Tensor | None:
        """Draw the images to match of each class's multi-formation; None for all."""
        config = self.config
        count = config.ipc * config.factor**2
        if count <= config.batch_synthetic:
            return None
        drawn = [
            drawn_order(derived_seed(seed, Draw.SYNTHETIC, step, label), count)
            for label in self._classes
        ]
        rows = torch.stack(
            [torch.from_numpy(class_rows[: config.batch_synthetic]) for class_rows in drawn]
        )
        return to_device(rows, self.device)
