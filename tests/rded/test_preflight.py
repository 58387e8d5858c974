from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.models import load_observer

preflight = importlib.import_module("pydream.rded.preflight")


@pytest.fixture
def measured(monkeypatch):
    """Observers that are right on a share of the images they are shown, one after another."""
    shares: list[float] = []
    sizes: list[int] = []

    def measure(held_out, indices, observer, **options):
        labels = torch.from_numpy(held_out.labels[indices])
        right = torch.arange(len(labels)) < round(shares.pop(0) * len(labels))
        said = torch.where(right, labels, (labels + 1) % 10)
        sizes.append(len(labels))
        return torch.log_softmax(5.0 * torch.nn.functional.one_hot(said, 10), 1), labels

    monkeypatch.setattr(preflight, "measure", measure)
    return shares, sizes


@pytest.fixture(scope="module")
def digits():
    return open_source("digits")


def look(digits, observer, *, allow_weak=False, patches=100):
    return preflight.preflight(
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


def test_a_good_observer_is_measured_once(digits, digits_observer, measured):
    shares, sizes = measured
    shares += [0.75]
    found = look(digits, load_observer(digits_observer))
    assert (found.top1, found.images) == (0.75, 16)
    assert sizes == [16]


def test_a_weak_one_gets_a_second_look(digits, digits_observer, measured):
    shares, sizes = measured
    shares += [0.25, 0.375]
    found = look(digits, load_observer(digits_observer))
    assert (found.top1, found.images) == (0.375, 64)
    assert sizes == [16, 64]


def test_none_where_nothing_hangs_on_it(digits, digits_observer, measured):
    shares, sizes = measured
    shares += [0.0]
    assert look(digits, load_observer(digits_observer), allow_weak=True).top1 == 0
    assert sizes == [16]


def test_chance_is_refused_after_both(digits, digits_observer, measured):
    shares, sizes = measured
    shares += [0.125, 0.125]
    with pytest.raises(PydreamError, match=r"right on 8 of 64 images of .* near chance"):
        look(digits, load_observer(digits_observer))
    assert sizes == [16, 64]


@pytest.mark.parametrize(("patches", "images"), [(1, 16), (5000, 50), (10**7, 512)])
def test_the_sample_is_a_small_share(digits, digits_observer, measured, patches, images):
    shares, sizes = measured
    shares += [1.0]
    look(digits, load_observer(digits_observer), patches=patches)
    assert sizes == [images]


def test_guessing_is_seldom_taken_for_knowledge():
    """Against the binomial distribution itself, by simulation."""
    rng = np.random.default_rng(0)
    for classes, images in ((2, 16), (10, 16), (10, 64), (1000, 16)):
        right = rng.binomial(images, 1 / classes, 20_000)
        taken = [not preflight.is_near_chance(int(each), images, classes) for each in right]
        assert np.mean(taken) <= 2e-3  # 1e-3, and five standard deviations of the simulation
