from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from pydream.errors import PydreamError
from pydream.models import load_observer
from pydream.models.layers import LayerFeatures
from pydream.models.registry import construct
from pydream.ops import multi_formation, random_augment
from pydream.ops.reference import augment as reference
from pydream.refinement.steps import Refiner

SIDE, FACTOR, IMAGES = 9, 2, 3  # the factor does not divide the side
ARCH = "convnet2-w8"
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
# float32 features and steps beside float64 ones, after three steps of a hundredth each.
ROUNDED = 1e-4


def layer_of(seed: int) -> tuple[nn.Module, LayerFeatures]:
    """Return a network with random weights, and the features of its first block."""
    torch.manual_seed(seed)
    network = construct(ARCH, num_classes=3, side=SIDE).eval()
    observer = load_observer(
        network, arch=ARCH, side=SIDE, mean=MEAN, std=STD, precision="float32", device="cpu"
    )
    return network, LayerFeatures(observer)


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Return three images of four cells, and their anchors."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (IMAGES, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    anchors = torch.randint(
        256, (FACTOR**2, IMAGES, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8
    )
    return images, anchors


def refiner(*layers: LayerFeatures, steps: int = 3, learning_rate: float = 0.01) -> Refiner:
    return Refiner(
        layers, steps=steps, learning_rate=learning_rate, factor=FACTOR, side=SIDE, seed=5
    )


def expected(
    networks: list[nn.Module], images: torch.Tensor, anchors: torch.Tensor, steps: int
) -> tuple[torch.Tensor, list[float]]:
    """The same in float64, by plain PyTorch: all images at once, features by a hook."""
    seen: list[torch.Tensor] = []
    for network in networks:
        network.double()
        network.get_submodule("layers.pool.0").register_forward_hook(
            lambda module, inputs, output: seen.append(output)
        )
    scale = [torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD)]

    def features(network: nn.Module, pixels: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        rows = draw.double().expand(len(pixels), -1)
        network(reference.diff_augment((pixels - scale[0]) / scale[1], rows))
        return seen.pop()

    base = images.double() / 255
    residual = torch.zeros_like(base, requires_grad=True)
    optimizer = torch.optim.AdamW([residual], 0.01)
    real, losses = anchors.flatten(0, 1).double() / 255, []
    draws = random_augment(steps, SIDE, "crop_cutout_flip", seed=5)
    for step, draw in enumerate(draws):
        network = networks[step % len(networks)]
        padded = functional.pad(base + residual, (0, 1, 0, 1), value=0.5)
        halves = [half for row in padded.chunk(2, 2) for half in row.chunk(2, 3)]
        cells = functional.interpolate(torch.cat(halves), (SIDE, SIDE), mode="bilinear")
        apart = features(network, cells, draw) - features(network, real, draw).detach()
        loss = apart.square().flatten(1).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            residual.copy_((base + residual).clamp(0, 1) - base)
        losses.append(loss.item())
    return (base + residual).detach(), losses


@pytest.mark.parametrize("observers", [1, 2])
def test_steps_are_those_of_plain_pytorch_in_float64(observers: int) -> None:
    networks, layers = zip(*map(layer_of, range(observers)), strict=True)
    images, anchors = pictures()
    found = refiner(*layers)(images, anchors)
    values, losses = expected(list(networks), images, anchors, 3)
    assert found.losses == pytest.approx(losses, rel=ROUNDED)
    assert (found.values - values).abs().max() <= ROUNDED
    assert (found.values - images.float() / 255).abs().max() > 0.005  # they did move


def test_distances_are_losses_without_augmentation() -> None:
    networks, layers = zip(*map(layer_of, range(2)), strict=True)
    images, anchors = pictures()
    found = refiner(*layers)(images, anchors)
    scale = [torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD)]

    def distance(pixels: torch.Tensor) -> float:
        cells = multi_formation(pixels.double(), FACTOR, SIDE)
        seen = [(shown - scale[0]) / scale[1] for shown in (cells, anchors.flatten(0, 1) / 255)]
        total = 0.0
        for network in networks:
            block = network.double().layers
            first, second = (
                block["pool"][0](block["norm"][0](block["conv"][0](shown)).relu()) for shown in seen
            )
            total += (first - second).square().flatten(1).mean(1).sum().item()
        return total / len(networks)

    levels = (found.values * 255).round()
    wanted = {"unrefined": images / 255, "refined": found.values, "rounded": levels / 255}
    assert found.distances.keys() == wanted.keys()
    for name, pixels in wanted.items():
        assert found.distances[name] == pytest.approx(distance(pixels), rel=ROUNDED)


def test_pixels_stay_between_black_and_white() -> None:
    _, layer = layer_of(0)
    images, anchors = pictures()
    images = torch.where(images > 127, 255, 0).to(torch.uint8)
    values = refiner(layer, steps=5, learning_rate=0.5)(images, anchors).values
    assert float(values.min()) == 0
    assert float(values.max()) == 1


def test_cells_come_nearer_to_what_their_anchors_show() -> None:
    """With anchors that the cells can show exactly, and no augmentation that hides them."""
    _, layer = layer_of(0)
    wanted, _ = pictures()
    anchors = multi_formation(wanted.float() / 255, FACTOR, SIDE).mul(255).round().to(torch.uint8)
    anchors = anchors.view(FACTOR**2, IMAGES, 3, SIDE, SIDE)
    start = torch.full_like(wanted, 128)
    found = refiner(layer, steps=200, learning_rate=0.02)(start, anchors)
    before, after = ((x.float() - wanted.float()).abs().mean() for x in (start, 255 * found.values))
    assert float(after) < 0.5 * float(before)
    assert sum(found.losses[-20:]) < 0.1 * sum(found.losses[:20])


def test_one_refiner_serves_one_group_after_another() -> None:
    """The buffers are shared, and nothing of a group stays in the next one."""
    _, layer = layer_of(0)
    images, anchors = pictures()
    one = refiner(layer)
    first = one(images, anchors)
    one(images[:2], anchors[:, :2])
    one(255 - images, anchors)
    again = one(images, anchors)
    assert torch.equal(again.values, first.values)
    assert again.losses == first.losses


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([1, 1, 1], [range(0, 3)]),
        ([8, 8, 8], [range(0, 2), range(2, 3)]),
        ([20, 3, 3], [range(0, 1), range(1, 3)]),
        ([16], [range(0, 1)]),
        ([15, 2, 14, 1], [range(0, 1), range(1, 3), range(3, 4)]),
    ],
    ids=str,
)
def test_groups_fill_a_pass_of_the_observer(counts: list[int], groups: list[range]) -> None:
    _, layer = layer_of(0)
    assert layer.tile == 64  # 16 images of 4 cells
    assert refiner(layer).groups(counts) == groups


def spoilt_after(calls: int) -> Callable[[LayerFeatures, torch.Tensor], torch.Tensor]:
    """Features that are not numbers from some call on: two calls a step."""
    done = [0]
    whole = LayerFeatures.__call__

    def features(layer: LayerFeatures, images: torch.Tensor) -> torch.Tensor:
        done[0] += 1
        return whole(layer, images) * (torch.nan if done[0] > calls else 1)

    return features


@pytest.mark.parametrize("good", [0, 2])
def test_a_loss_that_is_no_number_names_the_last_good_step(
    monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    _, layer = layer_of(0)
    images, anchors = pictures()
    one = refiner(layer, steps=4)
    monkeypatch.setattr(LayerFeatures, "__call__", spoilt_after(2 * good))
    with pytest.raises(PydreamError, match=f"infinite after {good} good steps: give a --learning"):
        one(images, anchors)
