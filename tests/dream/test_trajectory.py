"""The derivative of a student's end, beside the whole graph in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pydream.dream import trajectory
from pydream.dream.trajectory import trajectory_gradient
from pydream.models.registry import construct
from pydream.ops.reference import augment as reference
from pydream.students.augmentation import one_operation_for_all

IMAGES, SIDE, CLASSES = 7, 8, 3
# Relative to the largest derivative; float64 sums in another order.
ROUNDING = 1e-9
# The same in float32, through ReLUs.
FLOAT32 = 2e-3


def network() -> nn.Module:
    torch.manual_seed(0)
    return construct("convnet2-w8-instance", num_classes=CLASSES, side=SIDE)


def flat(of: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in of.parameters()])


def whole_graph(
    of: nn.Module,
    start: Tensor,
    target: Tensor,
    images: Tensor,
    labels: Tensor,
    rate: Tensor,
    batches: list[Tensor],
    augmentations: list[Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Equation 2 of MTT with the graph of all steps, as the published code has it."""
    images, rate = images.clone().requires_grad_(), rate.clone().requires_grad_()
    names = [name for name, _ in of.named_parameters()]
    sizes = [weight.numel() for weight in of.parameters()]
    shapes = [weight.shape for weight in of.parameters()]
    weights = start.clone().requires_grad_()
    for number, chosen in enumerate(batches):
        seen = images[chosen]
        if augmentations is not None:
            seen = reference.diff_augment(seen, augmentations[number].to(seen.dtype))
        parts = [part.view(shape) for part, shape in zip(weights.split(sizes), shapes, strict=True)]
        logits = functional_call(of, dict(zip(names, parts, strict=True)), (seen,))
        loss = functional.cross_entropy(logits, labels[chosen])
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights = weights - rate * gradient
    loss = (weights - target).square().sum() / (start - target).square().sum()
    of_images, of_rate = torch.autograd.grad(loss, [images, rate])
    return loss.detach(), of_images, of_rate


@pytest.mark.parametrize("graphs", [0, 1 << 40], ids=["computed again", "kept"])
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("sizes", [[7], [3, 3, 1], [5, 2, 5, 2]])
def test_the_derivative_is_that_of_the_whole_graph(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], augmented: bool, graphs: int
) -> None:
    monkeypatch.setattr(trajectory, "_room", lambda device: graphs)
    for dtype, tolerance in ((torch.float64, ROUNDING), (torch.float32, FLOAT32)):
        of = network().to(dtype)
        generator = torch.Generator().manual_seed(1)
        start = flat(of)
        target = start + 0.02 * torch.randn(len(start), generator=generator).to(dtype)
        images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=generator).to(dtype)
        labels = torch.arange(IMAGES) % CLASSES
        batches = [torch.randperm(IMAGES, generator=generator)[:size] for size in sizes]
        rows = None
        if augmented:
            rows = [
                one_operation_for_all(len(batch), SIDE, "color_crop_scale_rotate_cutout", seed=at)
                for at, batch in enumerate(batches)
            ]
        rate = torch.tensor(0.3, dtype=dtype)
        found = trajectory_gradient(of, start, target, images, labels, rate, batches, rows)
        expected = whole_graph(of, start, target, images, labels, rate, batches, rows)
        for ours, whole in zip(found, expected, strict=True):
            atol = tolerance * float(whole.abs().max())
            torch.testing.assert_close(ours, whole.to(ours.dtype), rtol=0.0, atol=atol)
        assert float(found[1].abs().max()) > 0


def test_graphs_are_kept_up_to_a_size() -> None:
    of = network()
    start = flat(of)
    images, labels = torch.randn(IMAGES, 3, SIDE, SIDE), torch.arange(IMAGES) % CLASSES
    taken: list[bool] = []

    def step(weights: list[Tensor], number: int, *, keep: bool) -> trajectory._Step:
        taken.append(keep)
        leaves = [weight.detach().requires_grad_() for weight in weights]
        batch = images.clone().requires_grad_(keep)
        names = [name for name, _ in of.named_parameters()]
        logits = functional_call(of, dict(zip(names, leaves, strict=True)), (batch,))
        loss = functional.cross_entropy(logits, labels)
        return trajectory._Step(leaves, batch, torch.autograd.grad(loss, leaves, create_graph=keep))

    first = trajectory._by_parameter(of, start)
    _, size = trajectory._with_size(lambda: step(first, 0, keep=True))
    assert size > images.nbytes  # an activation, at least
    taken.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectory, "_room", lambda device: 2 * size)
        _, graphs = trajectory._train(first, torch.tensor(0.1), 5, step)
    assert taken == [True, False, False, True, True]
    assert sorted(graphs) == [3, 4]
