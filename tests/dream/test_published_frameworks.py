"""The shared loop beside the published loops, step by step, with the same draws."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.published import dc, dm, mtt
from benchmarks.published.convnet import published
from pydream.data import Source
from pydream.data.whitening import fit_whitening
from pydream.dream import (
    DreamConfig,
    Experts,
    ExpertsConfig,
    expert_training,
    moving_networks,
    train_experts,
)
from pydream.dream import network as network_training
from pydream.dream.draws import Draw
from pydream.dream.loop import MatchingLoop
from pydream.dream.objectives import StepInputs
from pydream.dream.real import ClassImages, load_class_images
from pydream.dream.resolved import fill_in
from pydream.dream.synthetic import SyntheticImages
from pydream.dream.trajectory_matching import TrajectoryInputs
from pydream.models.registry import construct
from pydream.seeds import derived_seed, drawn_order
from pydream.students.augmentation import one_operation_for_all

ARCH = "convnet2-w8-instance"
# Some steps in float32, whose sums have another order, with networks trained in between: relative
# to how far the images have moved.
DRIFT = 2e-3


@pytest.fixture(scope="module")
def real(digits: Source) -> ClassImages:
    return load_class_images(digits, 8, device=torch.device("cpu"), workers=1, allow_skipped=0.0)[0]


def make_network(arch: str = ARCH) -> nn.Module:
    return construct(arch, num_classes=3, side=8)


class Recorded:
    """A loop whose inputs and networks are kept, for a published loop to take the same.

    Attributes
    ----------
    steps
        The inputs of each step.
    networks
        The network at the beginning of each iteration, without kernels of ours.
    ends
        Its weights when the next one comes.
    """

    def __init__(self, loop: MatchingLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = loop
        self.steps: list[Any] = []
        self.networks: list[Any] = []
        self.ends: list[Tensor] = []
        objective: Any = loop._objective
        begin, step = loop._networks.begin, objective.step

        def begun(seed: int) -> None:
            if self.networks:
                self.end()
            begin(seed)
            self.networks.append(published(copy.deepcopy(loop._networks.network)))

        def stepped(synthetic: SyntheticImages, inputs: Any) -> Tensor:
            self.steps.append(inputs)
            losses: Tensor = step(synthetic, inputs)
            return losses

        monkeypatch.setattr(loop._networks, "begin", begun)
        monkeypatch.setattr(objective, "step", stepped)

    def end(self) -> None:
        """Keep the weights of the network as they are."""
        self.ends.append(flat(self.loop._networks.network))

    def images_of(self, inputs: StepInputs) -> list[Tensor]:
        """The normalised real images of each class in a step: a small class has all of its own."""
        real, batches = self.loop.real, []
        for label, rows in enumerate(inputs.rows):
            begin, end = real.offsets[label : label + 2]
            chosen = rows[: end - begin]
            assert len(chosen.unique()) == min(end - begin, self.loop.config.batch_real)
            assert ((chosen >= begin) & (chosen < end)).all()
            batches.append(real.normalise(real.take(chosen)))
        return batches

    def rows_of(self, inputs: StepInputs) -> list[Any]:
        """The augmentation of each class in a step."""
        if inputs.augmentation is None:
            return [None] * 3
        return [inputs.augmentation[label : label + 1] for label in range(3)]


def flat(network: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def loop_of(real: ClassImages, framework: Any, **changes: Any) -> MatchingLoop:
    values: dict[str, Any] = {"ipc": 3, "iterations": 2, "batch_real": 12, "arch": ARCH}
    settings = DreamConfig(
        "digits",
        framework=framework,
        sampler="random",
        exact=True,
        **{**values, **changes},
    )
    experts = None if settings.experts is None else Experts.open(settings.experts)
    filled = fill_in(settings, 8, 3)
    return MatchingLoop(filled, real, partial(make_network, filled.arch), experts=experts)


def check(real: ClassImages, first: Tensor, found: Tensor, expected: Tensor) -> None:
    """Compare colours with normalised images, in units of their movement."""
    moved = real.normalise(found) - real.normalise(first)
    other = expected.detach() - real.normalise(first)
    assert float(other.abs().max()) > 0
    torch.testing.assert_close(moved, other, rtol=0, atol=DRIFT * float(other.abs().max()))


@pytest.mark.parametrize(
    ("framework", "recipe", "most"),
    [("dc", "digits", 256), ("dsa", "digits", 256), ("dsa", "cifar", 4)],
    ids=["dc", "dsa", "dsa, mirrored and in batches"],
)
def test_gradient_matching(
    real: ClassImages, monkeypatch: pytest.MonkeyPatch, framework: str, recipe: str, most: int
) -> None:
    monkeypatch.setattr(moving_networks, "_BATCH", most)
    loop = loop_of(real, framework, recipe=recipe, inner_loop=3, synthetic_epochs=2)
    words = loop.config.of_framework.strategy(flip=recipe == "cifar")
    first, _ = loop.initial()
    synthetic = SyntheticImages(first.clone(), loop.config.learning_rate)
    kept = Recorded(loop, monkeypatch)
    losses = [sum(loop.iterate(synthetic, iteration)) for iteration in range(2)]
    kept.end()
    images = real.normalise(first).requires_grad_()
    optimizer = torch.optim.SGD([images], lr=0.1, momentum=0.5)
    expected = []
    mirrored = 0
    for iteration, network in enumerate(kept.networks):
        trainer = torch.optim.SGD(network.parameters(), 0.01)
        fresh = flat(network)
        seed = derived_seed(0, Draw.NETWORK, iteration)
        total = 0.0
        for step in range(3):
            inputs = kept.steps[3 * iteration + step]
            rows = kept.rows_of(inputs)
            total += dc.matching_step(network, optimizer, images, kept.images_of(inputs), rows)
            for epoch in range(2 if step < 2 else 0):
                of_epoch = derived_seed(seed, Draw.TRAIN, step, epoch)
                seen = batches(images, of_epoch, words, most)
                dc.train(network, trainer, seen)
                rows += [drawn for _, _, drawn in seen]
            mirrored += sum(int((of[:, 3] == -1).sum()) for of in rows if of is not None)
        expected.append(total / 3)
        trained = flat(network) - fresh
        atol = DRIFT * float(trained.abs().max())
        assert atol > 0
        torch.testing.assert_close(kept.ends[iteration] - fresh, trained, rtol=0, atol=atol)
    assert losses == pytest.approx(expected, rel=DRIFT)
    check(real, first, synthetic.values, images)
    assert (mirrored > 0) == (recipe == "cifar")


def batches(
    images: Tensor, seed: int, words: str, most: int
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """The batches of an epoch over nine synthetic images, as the loop draws them."""
    order = torch.from_numpy(drawn_order(derived_seed(seed, 0), 9))
    labels = torch.arange(3).repeat_interleave(3)
    given: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for number, chosen in enumerate(order.split(most)):
        augment = derived_seed(derived_seed(seed, 1), number)
        rows = one_operation_for_all(len(chosen), 8, words, seed=augment) if words else None
        given.append((images.detach().flatten(0, 1)[chosen], labels[chosen], rows))
    return given


@pytest.mark.parametrize(
    ("arch", "batch_real"), [(ARCH, 12), ("convnet2-w8", 12), ("convnet2-w8", 30)]
)
def test_distribution_matching(
    real: ClassImages, monkeypatch: pytest.MonkeyPatch, arch: str, batch_real: int
) -> None:
    """A batch norm sees all classes at once, of which some may have fewer images than a batch."""
    loop = loop_of(real, "dm", arch=arch, batch_real=batch_real)
    assert (len(loop.parts) == 1) == (arch != ARCH)
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


def test_training_of_an_expert(
    digits: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With DSA, mirrored too, on the batches and draws of the run."""
    epochs: list[list[tuple[Tensor, Tensor]]] = []
    drawn: list[Tensor] = []
    given, draw = expert_training._batches, one_operation_for_all

    def kept(*arguments: Any) -> Any:
        epochs.append([])
        for images, labels in given(*arguments):
            epochs[-1].append((images.clone(), labels))
            yield images, labels

    def kept_draw(*arguments: Any, **named: Any) -> Tensor:
        drawn.append(draw(*arguments, **named))
        return drawn[-1]

    monkeypatch.setattr(expert_training, "_batches", kept)
    monkeypatch.setattr(network_training, "one_operation_for_all", kept_draw)
    settings = ExpertsConfig(
        "digits",
        out=tmp_path / "experts",
        count=1,
        epochs=4,
        arch=ARCH,
        recipe="cifar",
        batch_size=30,
        workers=1,
    )
    made = train_experts(settings, source=digits)
    found = torch.stack([made.weights(0, epoch, torch.device("cpu")) for epoch in range(5)])
    network = published(make_network())
    nn.utils.vector_to_parameters(found[0].clone(), network.parameters())
    rows = iter(drawn)
    expected = mtt.expert_trajectory(
        network,
        [[(images, labels, next(rows)) for images, labels in epoch] for epoch in epochs],
        0.01,
    )
    assert [len(labels) for _, labels in epochs[0]] == [30, 30, 12]
    assert any(bool((of[:, 3] == -1).any()) for of in drawn)
    moved = expected - expected[0]
    atol = DRIFT * float(moved.abs().max())
    assert atol > 0
    torch.testing.assert_close(found - found[0], moved, rtol=0, atol=atol)


@pytest.mark.parametrize("whitened", [False, True])
def test_trajectory_matching(
    real: ClassImages,
    digits: Source,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    whitened: bool,
) -> None:
    if whitened:
        real = dataclasses.replace(real, whitening=fit_whitening(real.pixels))
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
        assert [len(chosen) for chosen in inputs.batches] == [1, 4, 4, 1, 4]
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
