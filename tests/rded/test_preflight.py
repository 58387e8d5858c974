from __future__ import annotations

import copy
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pydream.data import Source, open_source
from pydream.data.arrays import ArraySource
from pydream.errors import PydreamError
from pydream.models import Observer, load_observer
from pydream.rded.preflight import Preflight

preflight = importlib.import_module("pydream.rded.preflight")
# Shares that observers are to be right on, and the numbers of images they were measured on.
Measured = tuple[list[float], list[int]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Observers that are right on a share of the images they are shown, one after another."""
    shares: list[float] = []
    sizes: list[int] = []

    last: list[torch.Tensor] = []

    def measure(
        held_out: Source, indices: np.ndarray, observers: list[Observer], **options: object
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        labels = torch.from_numpy(held_out.labels[indices])
        if len(observers) > 1:  # tried with other inputs: no better
            return [last[-1]] * len(observers), labels
        right = torch.arange(len(labels)) < round(shares.pop(0) * len(labels))
        wrong = (labels + 1 + torch.arange(len(labels)) % 9) % 10  # each class taken for all others
        said = torch.where(right, labels, wrong)
        sizes.append(len(labels))
        last.append(torch.log_softmax(5.0 * torch.nn.functional.one_hot(said, 10), 1))
        return [last[-1]], labels

    monkeypatch.setattr(preflight, "measure", measure)
    return shares, sizes


@pytest.fixture(scope="module")
def digits() -> Source:
    return open_source("digits")


@pytest.fixture(scope="module")
def observer(digits_observer: Path) -> Observer:
    observer = load_observer(digits_observer)
    observer.tile = 8
    return observer


def look(
    digits: Source, observer: Observer, *, allow_weak: bool = False, patches: int = 100
) -> Preflight:
    found: Preflight = preflight.preflight(
        digits,
        digits,
        np.arange(len(digits)),
        observer,
        patches=patches,
        infer=False,
        allow_weak=allow_weak,
        seed=0,
        workers=1,
        budget=1 << 20,
    )
    return found


def test_a_good_observer_is_measured_once(
    digits: Any, observer: Observer, measured: Measured
) -> None:
    shares, sizes = measured
    shares += [0.75]
    found = look(digits, observer)
    assert (found.top1, found.images) == (0.75, 16)
    assert sizes == [16]


def test_a_weak_one_gets_a_second_look(digits: Any, observer: Observer, measured: Measured) -> None:
    shares, sizes = measured
    shares += [0.25, 0.375]
    found = look(digits, observer)
    assert (found.top1, found.images) == (0.375, 64)
    assert sizes == [16, 64]


def test_better_than_chance_and_still_in_another_order(
    digits: Any, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of ten classes in their places are significant, on enough images."""
    order = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0, 8, 9])

    def measure(
        held_out: Source, indices: np.ndarray, observers: list[Observer], **options: object
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        labels = torch.from_numpy(held_out.labels[indices])
        said = torch.nn.functional.one_hot(order[labels], 10)
        return [torch.log_softmax(5.0 * said, 1)] * len(observers), labels

    monkeypatch.setattr(preflight, "measure", measure)
    for patches in (100, 20_000):
        with pytest.raises(PydreamError, match="in another order: try --class-order infer"):
            look(digits, observer, patches=patches)
    assert look(digits, observer, patches=20_000, allow_weak=True).top1 == pytest.approx(
        0.2, abs=0.05
    )


def test_none_where_nothing_hangs_on_it(
    digits: Any, observer: Observer, measured: Measured
) -> None:
    shares, sizes = measured
    shares += [0.0]
    assert look(digits, observer, allow_weak=True).top1 == 0
    assert sizes == [16]


def test_chance_is_refused_after_both(digits: Any, observer: Observer, measured: Measured) -> None:
    shares, sizes = measured
    shares += [0.125, 0.125]
    with pytest.raises(PydreamError, match=r"right on 8 of 64 images of .* chance is 10\.0%: give"):
        look(digits, observer)
    assert sizes == [16, 64]


@pytest.mark.parametrize(
    ("patches", "tile", "images"),
    [(1, 8, 16), (5000, 8, 48), (5000, 1, 50), (10**7, 8, 512), (1, 64, 64), (10**7, 1024, 1024)],
)
def test_the_sample_is_a_small_share(
    digits: Any, observer: Observer, measured: Measured, patches: int, tile: int, images: int
) -> None:
    observer = copy.copy(observer)
    observer.tile = tile
    shares, sizes = measured
    shares += [1.0]
    look(digits, observer, patches=patches)
    assert sizes == [images]


def test_guessing_is_seldom_taken_for_knowledge() -> None:
    """Against the binomial distribution itself, by simulation."""
    rng = np.random.default_rng(0)
    for classes, images in ((2, 16), (10, 16), (10, 64), (1000, 16)):
        right = rng.binomial(images, 1 / classes, 20_000)
        taken = [not preflight.is_near_chance(int(count), images, classes) for count in right]
        assert np.mean(taken) <= 2e-3  # 1e-3, and five standard deviations of the simulation


def test_another_normalisation_and_side_that_fit_are_found(
    digits: Any, digits_observer: Path
) -> None:
    """Its own numbers are among those that are tried, and so is the option to give."""
    wrong = load_observer(digits_observer, mean=(0.9, 0.9, 0.9), std=(9.0, 9.0, 9.0))
    with pytest.raises(
        PydreamError,
        match=r"with --observer-mean .* --observer-std .* it is right on .*; give that",
    ) as error:
        look(digits, wrong)
    message = str(error.value)
    mean, std = (
        [float(value) for value in words(rf"--observer-{name} (\S+) (\S+) (\S+)", message)]
        for name in ("mean", "std")
    )
    images, right = words(r"right on \d+ of (\d+) .* it is right on (\d+);", message)
    fitting = look(digits, load_observer(digits_observer, mean=mean, std=std))
    assert fitting.top1 > 0.5
    assert fitting.top1 == pytest.approx(int(right) / int(images), abs=0.2)  # of 64 of them


def words(pattern: str, message: str) -> tuple[str, ...]:
    """Find the groups of a pattern that the message must have."""
    found = re.search(pattern, message)
    assert found is not None, message
    return found.groups()


class TellsBrightness(torch.nn.Module):
    """Right at a side of 32, where the first channel is the label; else on the classes below."""

    def __init__(self, known: int) -> None:
        super().__init__()
        self.known, self.weight = known, torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        label = (images[:, 0].mean((1, 2)) * 255).round().long().clamp(0, 9)
        said = label if images.shape[-1] == 32 else label * (label < self.known)
        return 9 * torch.nn.functional.one_hot(said, 10).float() + 0 * self.weight


def test_another_side_that_fits_is_found() -> None:
    pixels = np.repeat(np.arange(10, dtype=np.uint8), 8)[:, None, None, None]
    images = np.broadcast_to(pixels, (80, 40, 40, 3)).copy()
    names = [str(label) for label in range(10)]
    source = ArraySource(
        images, np.repeat(np.arange(10), 8), names, description="levels", split="train"
    )
    options: dict[str, Any] = {
        "side": 64,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "device": "cpu",
    }
    blind = load_observer(TellsBrightness(0), precision="float32", **options)
    with pytest.raises(PydreamError, match=r"with --observer-side 32 it is right on (\d+); give"):
        look(source, blind)
    assert look(source, blind, allow_weak=True).top1 == pytest.approx(0.1, abs=0.05)
    poor = load_observer(TellsBrightness(4), precision="float32", **options)
    with pytest.warns(UserWarning, match="--observer-side 32"):
        assert look(source, poor).top1 == pytest.approx(0.4, abs=0.05)
