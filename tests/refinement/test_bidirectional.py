from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from pydream.models import load_observer
from pydream.models.layers import LayerFeatures
from pydream.models.registry import construct
from pydream.ops import multi_formation, random_augment
from pydream.ops.reference import augment as reference
from pydream.refinement.steps import Refiner

SIDE, FACTOR, CLASSES = 9, 2, 3  # the factor does not divide the side
LABELS = [0, 2, 2]  # class 1 is in another group, and the counts differ
ARCH = "convnet2-w8"
# float32 features, gradients and their derivatives beside float64 ones, after two steps.
ROUNDED = 1e-3


def network() -> nn.Module:
    torch.manual_seed(0)
    return construct(ARCH, num_classes=CLASSES, side=SIDE).eval()


def layer_of(model: nn.Module, order: list[int] | None = None) -> LayerFeatures:
    observer = load_observer(
        model,
        arch=ARCH,
        side=SIDE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        precision="float32",
        device="cpu",
    )
    return LayerFeatures(observer if order is None else observer.with_class_order(order))


def refiner(layer: LayerFeatures, *, factor: int = FACTOR, bidirectional: bool = True) -> Refiner:
    return Refiner(
        [layer],
        steps=2,
        learning_rate=0.01,
        factor=factor,
        side=SIDE,
        seed=5,
        bidirectional=bidirectional,
    )


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (len(LABELS), 3, SIDE, SIDE)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    anchors = torch.randint(256, (FACTOR**2, *shape), generator=generator, dtype=torch.uint8)
    return images, anchors


class Plain:
    """Both distances in float64, by plain PyTorch and hooks, for images that require gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.double()
        self.seen: dict[str, torch.Tensor] = {}
        self.model.get_submodule("layers.pool.0").register_forward_hook(
            lambda module, inputs, output: self.seen.update(block=output)
        )
        self.model.get_submodule("classifier").register_forward_hook(
            lambda module, inputs, output: self.seen.update(features=inputs[0])
        )

    def answers(self, pixels: torch.Tensor, label: int, draw: torch.Tensor | None):  # type: ignore[no-untyped-def]
        pixels = (pixels - 0.5) / 0.5
        if draw is not None:
            pixels = reference.diff_augment(pixels, draw.double().expand(len(pixels), -1))
        logits = self.model(pixels)
        loss = functional.cross_entropy(logits, torch.full((len(pixels),), label))
        weights = [weight for weight in self.model.parameters() if weight.dim() == 4]
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        return self.seen["block"], [self.seen["features"].mean(0), *gradients]

    def __call__(
        self, images: torch.Tensor, anchors: torch.Tensor, label: int, draw: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cells = multi_formation(images, FACTOR, SIDE)
        block, of_class = self.answers(cells, label, draw)
        real_block, real_class = self.answers(anchors.flatten(0, 1).double() / 255, label, draw)
        apart = (block - real_block.detach()).square().flatten(1).mean(1).sum()
        pairs = zip(of_class, real_class, strict=True)
        return apart, sum(((x - y.detach()).square().sum() for x, y in pairs), torch.zeros(()))


@pytest.mark.parametrize("order", [None, [2, 0, 1]])
def test_steps_are_those_of_plain_pytorch_in_float64(order: list[int] | None) -> None:
    model = network()
    images, anchors = pictures()
    found = refiner(layer_of(model, order))(images, anchors, LABELS)
    plain, columns = Plain(model), order or range(CLASSES)
    parts = {0: slice(0, 1), 2: slice(1, 3)}
    base = images.double() / 255

    def terms(pixels: torch.Tensor, label: int, draw: torch.Tensor | None):  # type: ignore[no-untyped-def]
        part = parts[label]
        return plain(pixels[part], anchors[:, part], columns[label], draw)

    weights = {}
    for label in parts:
        of_features, of_class = terms(base, label, None)
        weights[label] = (of_features / of_class).detach()
    residual = torch.zeros_like(base, requires_grad=True)
    optimizer = torch.optim.AdamW([residual], 0.01)
    for number, draw in enumerate(random_augment(2, SIDE, "crop_cutout_flip", seed=5)):
        loss = torch.zeros((), dtype=torch.float64)
        for label in parts:
            of_features, of_class = terms(base + residual, label, draw)
            loss = loss + of_features + weights[label] * of_class
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            residual.copy_((base + residual).clamp(0, 1) - base)
        assert found.losses[number] == pytest.approx(loss.item(), rel=ROUNDED)
    assert (found.values - (base + residual)).abs().max() <= ROUNDED


def test_a_class_does_not_depend_on_its_group() -> None:
    layer = layer_of(network())
    images, anchors = pictures()
    together = refiner(layer)(images, anchors, LABELS).values
    one = refiner(layer)
    apart = [one(images[part], anchors[:, part], LABELS[part]).values
             for part in (slice(0, 1), slice(1, 3))]  # fmt: skip
    assert together.equal(torch.cat(apart))
    assert not together.equal(refiner(layer, bidirectional=False)(images, anchors, LABELS).values)


def test_cells_that_show_their_anchors_stay() -> None:
    """Both distances are exactly 0 then, and neither must be divided by the other."""
    layer = layer_of(network())
    black = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    found = refiner(layer, factor=3)(black, black.expand(9, 1, 3, SIDE, SIDE), [0])
    assert found.losses == [0.0, 0.0]
    assert found.values.equal(black.float())
