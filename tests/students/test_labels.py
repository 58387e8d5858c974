from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.models import Observer, build_model, load_observer
from pydream.students.labels import hard_targets, online_targets, own_targets
from pydream.students.losses import soft_loss
from pydream.students.views import MixedBatch

# float32 log-softmax of logits below 100 keeps six digits; the divergence is a difference of two.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("scale", [0.1, 5.0, 30.0])
def test_loss_is_the_mean_divergence_from_the_targets(temperature: float, scale: float) -> None:
    student, observer = random(19, 7, scale=scale), random(19, 7, scale=scale, seed=1)
    targets = torch.softmax(observer / temperature, dim=1)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=observer.double() / temperature),
        torch.distributions.Categorical(logits=student.double() / temperature),
    ).mean()
    loss = soft_loss(student, targets, temperature)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wanted, **CLOSE)


def test_gradient_is_the_difference_of_the_softened_outputs() -> None:
    # d/dz of the divergence is (q − p) / T per image; no T² makes up for it.
    temperature = 20.0
    student = random(5, 3, scale=4.0).requires_grad_()
    targets = torch.softmax(random(5, 3, seed=1), dim=1)
    soft_loss(student, targets, temperature).backward()
    predicted = torch.softmax(student.detach().double() / temperature, dim=1)
    wanted = (predicted - targets.double()) / temperature / 5
    assert student.grad is not None
    torch.testing.assert_close(student.grad.double(), wanted, **CLOSE)


def test_loss_takes_certain_targets_and_half_precision() -> None:
    logits = random(4, 6, scale=3.0)
    classes = torch.tensor([0, 5, 2, 2])
    wanted = nn.functional.cross_entropy(logits.bfloat16().double(), classes)
    loss = soft_loss(logits.bfloat16(), torch.eye(6)[classes], 1.0)
    torch.testing.assert_close(loss.double(), wanted, **CLOSE)


def test_targets_of_labels_that_lie_there_are_shared_by_both_images() -> None:
    soft, labels = random(4, 3, scale=3.0), torch.tensor([2, 0, 1, 1])
    rows, partners = torch.tensor([3, 0, 2]), torch.tensor([1, 0, 3])
    batch = MixedBatch(torch.empty(3, 3, 1, 1), rows, partners, 0.75, 0)
    for targets, of_row in (
        (own_targets(soft, 2.0), torch.softmax(soft.double() / 2, dim=1)),
        (hard_targets(labels, 3), torch.eye(3).double()[labels]),
    ):
        wanted = 0.75 * of_row[rows] + 0.25 * of_row[partners]
        torch.testing.assert_close(targets(batch).double(), wanted, **CLOSE)


@pytest.mark.parametrize("count", [1, 5, 50, 70])
def test_online_targets_are_the_observers_softened_output(count: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).eval()
    observer = load_observer(model, side=8, precision="float32")
    tile = observer.tile
    images = random(count, 3, 8, 8)
    batch = MixedBatch(images, torch.arange(count), torch.arange(count), 1.0, 0)
    targets = online_targets(observer, 20.0, batch_size=count)(batch)
    with torch.no_grad():
        wanted = torch.softmax(model(images).double() / 20.0, dim=1)
    torch.testing.assert_close(targets.double(), wanted, **CLOSE)
    assert observer.tile == tile


def observer_of(seed: int, **changes: Any) -> Observer:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(6)
    nn.init.uniform_(norm.weight)
    layers = (nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5))
    model = nn.Sequential(*layers)
    return load_observer(model.eval(), arch="small", side=8, **{**USUAL, **changes})


USUAL: dict[str, Any] = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "precision": "float32",
    "device": "cpu",
}


def batch_of(count: int) -> MixedBatch:
    rows = torch.arange(count)
    return MixedBatch(random(count, 3, 8, 8), rows, rows, 1.0, 0)


@pytest.mark.parametrize("temperature", [None, 4.0])
def test_several_observers_are_averaged_by_the_formula(temperature: float | None) -> None:
    observers, batch = [observer_of(1), observer_of(2), observer_of(3)], batch_of(7)
    answers = [observer.logits(batch.images).double() for observer in observers]
    divisor = temperature or 1.0
    by_logits = torch.stack(answers).mean(dim=0)
    softened = [torch.log_softmax(values / divisor, dim=1) for values in answers]
    by_probabilities = torch.stack(softened).mean(dim=0)
    for combine, mean in (("logits", by_logits), ("log-probabilities", by_probabilities * divisor)):
        found = online_targets(observers, temperature, 7, combine=combine)(batch)  # type: ignore[arg-type]
        wanted = mean if temperature is None else torch.softmax(mean / temperature, dim=1)
        torch.testing.assert_close(found.double(), wanted.double(), **CLOSE)


def test_each_observer_gets_its_own_normalisation() -> None:
    first = observer_of(1)
    other = first.with_normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    batch = batch_of(4)
    pixels = batch.images * 0.25 + 0.5
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (other.mean, other.std))
    wanted = (first.logits(batch.images) + other.logits((pixels - mean) / std)) / 2
    found = online_targets([first, other], None, 4)(batch)
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("count", [2, 7, 600])
def test_batch_statistics_are_those_of_training(count: int) -> None:
    torch.manual_seed(1)
    model = build_model("convnet2-w8-batch", num_classes=5, side=8)
    observer = load_observer(model, side=8, **USUAL)
    before = observer.logits(batch_of(count).images)
    of_batches = observer.with_batch_statistics()
    targets = online_targets(of_batches, None, count)
    batch = batch_of(count)
    with torch.no_grad():
        wanted = model.train()(batch.images)
    found = targets(batch)
    # Sums of a batch in another order, in float32.
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert torch.equal(targets(batch), found)
    assert torch.equal(observer.logits(batch.images), before)
    assert not torch.allclose(found, before, atol=1e-2)


def test_batch_statistics_are_never_those_of_part_of_a_batch() -> None:
    """Too little memory stops a run: labels of halved batches would be other labels."""
    model = build_model("convnet2-w8-batch", num_classes=5, side=8)

    def run_out(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError

    observer = load_observer(model, side=8, **USUAL).with_batch_statistics()
    targets, seen = online_targets(observer, None, 8), batch_of(8)
    handle = nn.modules.module.register_module_forward_pre_hook(run_out)
    try:
        with pytest.raises(PydreamError, match=r"on 8 images at .*a lower batch size") as caught:
            targets(seen)
    finally:
        handle.remove()
    assert "\n" not in str(caught.value)


def test_own_labels_may_be_logits() -> None:
    soft, rows, partners = random(4, 3), torch.tensor([3, 0]), torch.tensor([1, 0])
    batch = MixedBatch(torch.empty(2, 3, 1, 1), rows, partners, 0.75, 0)
    wanted = 0.75 * soft[rows] + 0.25 * soft[partners]
    torch.testing.assert_close(own_targets(soft, None)(batch), wanted, **CLOSE)
