"""The shared loop beside the published loops, step by step, with the same draws."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.published import dc, dm, mtt
from benchmarks.published.convnet import published
from pydream.data import Source
from pydream.dream import DreamConfig, Experts, ExpertsConfig, train_experts
from pydream.dream.augmentation import one_operation_for_all
from pydream.dream.draws import Draw
from pydream.dream.loop import MatchingLoop
from pydream.dream.objectives import StepInputs
from pydream.dream.real import ClassImages, load_class_images
from pydream.dream.resolved import fill_in
from pydream.dream.synthetic import SyntheticImages
from pydream.dream.trajectory_matching import TrajectoryInputs
from pydream.models.registry import construct
from pydream.seeds import derived_seed, drawn_order

ARCH = "convnet2-w8-instance"
# Some steps in float32, whose sums have another order, with networks trained in between: relative
# to how far the images have moved.
DRIFT = 2e-3


@pytest.fixture(scope="module")
def real(digits: Source) -> ClassImages:
    return load_class_images(digits, 8, device=torch.device("cpu"), workers=1, allow_skipped=0.0)[0]


def make_network() -> nn.Module:
    return construct(ARCH, num_classes=3, side=8)


class Recorded:
    """A loop whose inputs and networks are kept, for a published loop to take the same.

    Attributes
    ----------
    steps
        The inputs of each step.
    networks
        The network at the beginning of each iteration, without kernels of ours.
    """

    def __init__(self, loop: MatchingLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = loop
        self.steps: list[Any] = []
        self.networks: list[Any] = []
        objective: Any = loop._objective
        begin, step = loop._networks.begin, objective.step

        def begun(seed: int) -> None:
            begin(seed)
            self.networks.append(published(copy.deepcopy(loop._networks.network)))

        def stepped(synthetic: SyntheticImages, inputs: Any) -> Tensor:
            self.steps.append(inputs)
            losses: Tensor = step(synthetic, inputs)
            return losses

        monkeypatch.setattr(loop._networks, "begin", begun)
        monkeypatch.setattr(objective, "step", stepped)

    def images_of(self, inputs: StepInputs) -> list[Tensor]:
        """The normalised real images of each class in a step."""
        real, batches = self.loop.real, []
        for label, rows in enumerate(inputs.rows):
            chosen = rows if inputs.weights is None else rows[inputs.weights[label] > 0]
            batches.append(real.normalise(real.take(chosen)))
        return batches

    def rows_of(self, inputs: StepInputs) -> list[Any]:
        """The augmentation of each class in a step."""
        if inputs.augmentation is None:
            return [None] * 3
        return [inputs.augmentation[label : label + 1] for label in range(3)]


def loop_of(real: ClassImages, framework: Any, **changes: Any) -> MatchingLoop:
    values: dict[str, Any] = {"ipc": 3, "iterations": 2, "batch_real": 12}
    settings = DreamConfig(
        "digits",
        framework=framework,
        arch=ARCH,
        sampler="random",
        exact=True,
        **{**values, **changes},
    )
    experts = None if settings.experts is None else Experts.open(settings.experts)
    return MatchingLoop(fill_in(settings, 8, 3), real, make_network, experts=experts)


def check(real: ClassImages, first: Tensor, found: Tensor, expected: Tensor) -> None:
    """Compare colours with normalised images, in units of their movement."""
    moved = real.normalise(found) - real.normalise(first)
    other = expected.detach() - real.normalise(first)
    assert float(other.abs().max()) > 0
    torch.testing.assert_close(moved, other, rtol=0, atol=DRIFT * float(other.abs().max()))


@pytest.mark.parametrize("framework", ["dc", "dsa"])
def test_gradient_matching(
    real: ClassImages, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    loop = loop_of(real, framework, inner_loop=3, synthetic_epochs=2)
    first, _ = loop.initial()
    synthetic = SyntheticImages(first.clone(), loop.config.learning_rate)
    kept = Recorded(loop, monkeypatch)
    losses = [sum(loop.iterate(synthetic, iteration)) for iteration in range(2)]
    images = real.normalise(first).requires_grad_()
    optimizer = torch.optim.SGD([images], lr=0.1, momentum=0.5)
    expected = []
    for iteration, network in enumerate(kept.networks):
        trainer = torch.optim.SGD(network.parameters(), 0.01)
        seed = derived_seed(0, Draw.NETWORK, iteration)
        total = 0.0
        for step in range(3):
            inputs = kept.steps[3 * iteration + step]
            total += dc.matching_step(
                network, optimizer, images, kept.images_of(inputs), kept.rows_of(inputs)
            )
            for epoch in range(2 if step < 2 else 0):
                of_epoch = derived_seed(seed, Draw.TRAIN, step, epoch)
                dc.train_on_synthetic(network, trainer, batches(images, of_epoch, framework))
        expected.append(total / 3)
    assert losses == pytest.approx(expected, rel=DRIFT)
    check(real, first, synthetic.values, images)


def batches(
    images: Tensor, seed: int, framework: str
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """The one batch of an epoch over nine synthetic images, as the loop draws it."""
    order = torch.from_numpy(drawn_order(derived_seed(seed, 0), 9))
    labels = torch.arange(3).repeat_interleave(3)
    rows = None
    if framework == "dsa":
        augment = derived_seed(derived_seed(seed, 1), 0)
        words = "color_crop_cutout_scale_rotate"  # digits are never mirrored
        rows = one_operation_for_all(9, 8, words, seed=augment)
    return [(images.detach().flatten(0, 1)[order], labels[order], rows)]


def test_distribution_matching(real: ClassImages, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_of(real, "dm")
    first, _ = loop.initial()
    synthetic = SyntheticImages(first.clone(), loop.config.learning_rate)
    kept = Recorded(loop, monkeypatch)
    losses = [sum(loop.iterate(synthetic, iteration)) for iteration in range(4)]
    images = real.normalise(first).requires_grad_()
    optimizer = torch.optim.SGD([images], lr=1.0, momentum=0.5)
    expected = [
        dm.matching_step(network, optimizer, images, kept.images_of(inputs), kept.rows_of(inputs))
        for network, inputs in zip(kept.networks, kept.steps, strict=True)
    ]
    assert losses == pytest.approx(expected, rel=DRIFT)
    check(real, first, synthetic.values, images)


def test_trajectory_matching(
    real: ClassImages, digits: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = ExpertsConfig(
        "digits", out=tmp_path / "experts", count=2, epochs=3, arch=ARCH, batch_size=24, workers=1
    )
    experts = train_experts(settings, source=digits)
    loop = loop_of(
        real,
        "mtt",
        experts=experts.path,
        max_start=2,
        expert_epochs=2,
        student_steps=5,
        batch_synthetic=4,
        student_rate=0.05,
        learning_rate=10.0,
        rate_learning_rate=1e-4,
    )
    first, _ = loop.initial()
    synthetic = SyntheticImages(first.clone(), 10.0, rate=torch.tensor([0.05, 0.0]))
    kept = Recorded(loop, monkeypatch)
    losses = [sum(loop.iterate(synthetic, iteration)) for iteration in range(3)]
    images = real.normalise(first).requires_grad_()
    rate = torch.tensor(0.05, requires_grad=True)
    optimizers = [
        torch.optim.SGD([images], lr=10.0, momentum=0.5),
        torch.optim.SGD([rate], lr=1e-4, momentum=0.5),
    ]
    expected = []
    network = published(make_network())
    for inputs in kept.steps:
        assert isinstance(inputs, TrajectoryInputs)
        assert [len(chosen) for chosen in inputs.batches] == [4, 4, 1, 4, 4]
        loss = mtt.trajectory_loss(
            network,
            inputs.start,
            inputs.target,
            images.flatten(0, 1),
            torch.arange(3).repeat_interleave(3),
            rate,
            inputs.batches,
            inputs.augmentations,
        )
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=DRIFT)
    check(real, first, synthetic.values, images)
    assert synthetic.rate is not None
    moved = float(synthetic.rate[0]) - 0.05
    assert moved != 0
    assert moved == pytest.approx(rate.item() - 0.05, rel=DRIFT)
