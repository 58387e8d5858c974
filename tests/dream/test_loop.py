from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from pydream.data import Source
from pydream.dream.config import DreamConfig
from pydream.dream.frameworks import Match
from pydream.dream.loop import MatchingLoop
from pydream.dream.real import ClassImages, load_class_images
from pydream.dream.resolved import fill_in
from pydream.dream.synthetic import SyntheticImages
from pydream.models.registry import construct
from pydream.ops import multi_formation
from pydream.ops.reference import cells as reference

# Several iterations of float32 sums in another order, through ReLUs that a last bit can turn.
IMAGES_ATOL = 2e-4
# Two products in float32 against float64.
CELL_ATOL = 1e-6

SETTINGS = DreamConfig(
    "digits",
    ipc=2,
    factor=2,
    arch="convnet2-w8-instance",
    iterations=2,
    inner_loop=4,
    interval=2,
    batch_real=12,
    network_images=20,
    learning_rate=0.02,
)


@pytest.fixture(scope="module")
def real(digits: Source) -> ClassImages:
    images, skipped = load_class_images(
        digits, 8, device=torch.device("cpu"), workers=1, allow_skipped=0.0
    )
    assert not skipped
    return images


def make_network() -> nn.Module:
    return construct("convnet2-w8-instance", num_classes=3, side=8)


def run(
    real: ClassImages,
    iterations: int = 2,
    parts: Sequence[range] | None = None,
    **changes: object,
) -> torch.Tensor:
    config = fill_in(dataclasses.replace(SETTINGS, **changes), 8, 3)  # type: ignore[arg-type]
    loop = MatchingLoop(config, real, make_network, parts)
    values, _ = loop.initial()
    synthetic = SyntheticImages(
        values, config.learning_rate, classes=loop.classes, num_classes=real.num_classes
    )
    losses = [loop.iterate(synthetic, iteration) for iteration in range(iterations)]
    assert all(len(of_parts) == len(loop.parts) and min(of_parts) > 0 for of_parts in losses)
    return synthetic.values


@pytest.mark.parametrize("match", ["bidirectional", "gradient", "feature"])
def test_classes_in_turn_and_together_make_the_same_images(real: ClassImages, match: Match) -> None:
    """Random real images, since only --exact embeds them as they are."""
    start, _ = MatchingLoop(
        fill_in(dataclasses.replace(SETTINGS, sampler="random"), 8, 3), real, make_network
    ).initial()
    in_turn = run(real, sampler="random", match=match, exact=True)
    together = run(real, parts=[range(3)], sampler="random", match=match)
    in_parts = run(real, parts=[range(2), range(2, 3)], sampler="random", match=match)
    moved = (together - start).abs().max()
    assert moved > 100 * IMAGES_ATOL
    torch.testing.assert_close(together, in_turn, rtol=0.0, atol=IMAGES_ATOL)
    torch.testing.assert_close(in_parts, in_turn, rtol=0.0, atol=IMAGES_ATOL)


@pytest.mark.parametrize("sampler", ["representative", "random"])
def test_a_class_has_the_same_images_without_the_others(real: ClassImages, sampler: str) -> None:
    """Byte for byte, because ranks share a run by this."""
    together = run(real, sampler=sampler)
    own = run(real, parts=[range(1), range(2, 3)], sampler=sampler)
    assert own.equal(together[[0, 2]])


def test_an_iteration_can_be_done_again(real: ClassImages) -> None:
    torch.manual_seed(5)
    first = run(real)
    torch.manual_seed(6)
    torch.randn(7)
    assert run(real).equal(first)
    assert not run(real, seed=1).allclose(first)


def test_global_random_numbers_are_left_alone(real: ClassImages) -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    run(real, iterations=1)
    assert torch.randn(3).equal(expected)


@pytest.mark.parametrize("sampler", ["representative", "random"])
def test_starts_from_real_images_of_the_class(real: ClassImages, sampler: str) -> None:
    config = fill_in(dataclasses.replace(SETTINGS, sampler=sampler), 8, 3)  # type: ignore[arg-type]
    values, origins = MatchingLoop(config, real, make_network).initial()
    assert values.shape == (3, 2, 3, 8, 8)
    assert origins.shape == (3, 2, 4)
    for label, (begin, end) in enumerate(itertools.pairwise(real.offsets)):
        assert ((origins[label] >= begin) & (origins[label] < end)).all()
        assert len(origins[label].unique()) == 8
        for image, cells in enumerate(origins[label]):
            for cell, row in enumerate(cells):
                y, x = divmod(cell, 2)
                found = values[label, image, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                expected = real.pixels[row].float()[:, ::2, ::2] / 255  # nearest neighbour
                assert found.equal(expected)


@pytest.mark.parametrize("factor", [2, 3])
def test_matched_cells_enlarge_to_the_real_images_more_closely(
    real: ClassImages, factor: int
) -> None:
    def initial(cells: str) -> tuple[torch.Tensor, torch.Tensor]:
        changes: dict[str, Any] = {"cells": cells, "factor": factor, "ipc": 1}
        config = fill_in(dataclasses.replace(SETTINGS, **changes), 8, 3)
        return MatchingLoop(config, real, make_network).initial()

    matched, origins = initial("matched")
    shrunk, same = initial("shrunk")
    assert origins.equal(same)
    anchors = real.take(origins[:, 0])  # (K, f², C, S, S)
    errors = {
        name: float((multi_formation(values, factor, 8) - anchors).square().mean())
        for name, values in (("matched", matched), ("shrunk", shrunk))
    }
    assert errors["matched"] < 0.8 * errors["shrunk"]
    # Each cell is the op's result for its real image, as the reference computes it.
    cell = -(-8 // factor)
    for label, number in itertools.product(range(3), range(factor**2)):
        top, left = (place * cell for place in divmod(number, factor))
        inside = min(cell, 8 - top), min(cell, 8 - left)
        pixels = real.pixels[origins[label, 0, number]].permute(1, 2, 0)
        (expected,) = reference.matched_cells(
            [pixels],
            torch.tensor([[0, 0, 8, 8]]),
            None,
            (cell, cell),
            (8, 8),
            inside,
            torch.float32,
        )
        found = matched[label, 0, :, top : top + inside[0], left : left + inside[1]]
        torch.testing.assert_close(found, expected, rtol=0, atol=CELL_ATOL)


def test_without_cells_there_is_nothing_to_match(real: ClassImages) -> None:
    assert run(real, 1, factor=1, cells="matched").equal(run(real, 1, factor=1))
    assert "cells" not in SETTINGS.identity()
    assert dataclasses.replace(SETTINGS, cells="matched").identity()["cells"] == "matched"


def test_at_most_so_many_synthetic_images_a_step(real: ClassImages) -> None:
    assert not run(real, batch_synthetic=3).allclose(run(real))


def test_loss_falls(real: ClassImages) -> None:
    """One network all along, no augmentation to speak of: what is matched comes nearer."""
    config = fill_in(
        dataclasses.replace(
            SETTINGS,
            network_images=0,
            network_epochs=0,
            inner_loop=30,
            match="feature",
            learning_rate=0.05,
        ),
        8,
        3,
    )
    loop = MatchingLoop(config, real, make_network)
    values, _ = loop.initial()
    synthetic = SyntheticImages(torch.rand_like(values), 0.05)
    first = loop.iterate(synthetic, 0)
    for _ in range(3):
        last = loop.iterate(synthetic, 0)
    assert sum(last) < 0.5 * sum(first)


def test_images_are_sorted_and_normalised(digits: Source, real: ClassImages) -> None:
    assert real.offsets == (0, 40, 49, 72)
    assert real.labels.equal(torch.tensor([0] * 40 + [1] * 9 + [2] * 23))
    for row in (0, 41, 71):
        place = digits.keys.index(real.keys[row])
        assert digits.labels[place] == real.labels[row]
        assert digits.image(place).permute(2, 0, 1).equal(real.pixels[row])
    pixels = real.pixels.double() / 255
    torch.testing.assert_close(real.mean.double(), pixels.mean((0, 2, 3)), rtol=1e-6, atol=0.0)
    spread = pixels.std((0, 2, 3), correction=0)
    torch.testing.assert_close(real.std.double(), spread, rtol=1e-6, atol=0.0)
