from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_digits import PER_CLASS, SIDE, Digits, write_set
from torchvision.transforms.v2 import functional

from pydream.data import Source, open_source
from pydream.data.subset import Subset
from pydream.errors import ImageError, PydreamError
from pydream.inspection.observation import cell_boxes, label_entropies
from pydream.inspection.realism import (
    RealSamples,
    effective_number,
    measure_set,
    nearest_distances,
    pairwise_distance,
)
from pydream.models import Observer, build_model, load_observer
from pydream.models.config import ObserverSettings
from pydream.sets.distilled import PROVENANCE_SCHEMA, DistilledSet, load_set
from pydream.sets.opening import open_observer
from pydream.sets.stored_images import ImagesInMemory

NAMES = [str(label) for label in range(10)]

# Sums of float32, against float64.
FLOAT32_ROUNDING = 1e-5
# The same after a network, and after crops resized by another library.
THROUGH_A_NETWORK = 1e-3


def observer_of(digits: Digits, distilled: DistilledSet) -> Observer:
    return open_observer(
        str(digits.observer),
        distilled,
        ObserverSettings(),
        arch=None,
        precision="float32",
        device=torch.device("cpu"),
    )


def normalised(images: torch.Tensor, observer: Observer) -> torch.Tensor:
    """Do what the observer asks for by hand: (n, 3, S, S)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (observer.mean, observer.std))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def distances(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    """Compute all Euclidean distances, in float64."""
    difference = first.double().numpy()[:, None] - second.double().numpy()[None]
    apart: np.ndarray = np.sqrt((difference**2).sum(axis=2))
    return apart


def features(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) + 30


def with_provenance(path: Path, sources: dict[int, list[str]]) -> None:
    """Name the sources of a class, all for its first image."""
    rows = [
        {"class": label, "image": 0, "cell": 0, "source": source, "score": -1.0}
        for label, keys in sources.items()
        for source in keys
    ]
    pq.write_table(pa.Table.from_pylist(rows, PROVENANCE_SCHEMA), path / "provenance.parquet")


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (3, 7), (17, 65)])
def test_pairwise_distance_is_that_of_the_formula(rows: int, columns: int) -> None:
    x = features(rows, columns, 1)
    wanted = distances(x, x)[np.triu_indices(rows, 1)].mean()
    assert pairwise_distance(x) == pytest.approx(wanted, rel=FLOAT32_ROUNDING)


def test_a_single_image_has_no_pair() -> None:
    assert pairwise_distance(features(1, 5, 0)) is None


@pytest.mark.parametrize(("samples", "images", "columns"), [(1, 1, 1), (40, 3, 129), (3, 40, 2)])
def test_nearest_distances_are_those_of_the_formula(
    samples: int, images: int, columns: int
) -> None:
    x, y = features(samples, columns, 2), features(images, columns, 3)
    wanted = distances(x, y).min(axis=1)
    assert np.allclose(nearest_distances(x, y), wanted, rtol=FLOAT32_ROUNDING)


def test_a_sample_among_the_images_is_at_no_distance() -> None:
    x = features(50, 2048, 4) * 100
    assert (nearest_distances(x, x) == 0).all()


@pytest.mark.parametrize(
    ("counts", "number"), [([7], 1.0), ([1] * 12, 12.0), ([5, 5, 0], 2.0), ([3, 1], 1.7547653506)]
)
def test_effective_number(counts: list[int], number: float) -> None:
    assert effective_number(counts) == pytest.approx(number)  # of (3, 1): 4 / 3^(3/4)


def test_label_entropies_are_those_of_the_formula() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [90.0, -90.0, 0.0]])
    p = np.exp(logits.double().numpy())
    p /= p.sum(axis=1, keepdims=True)
    assert np.allclose(label_entropies(logits), -(p * np.log(p)).sum(axis=1), atol=1e-6)
    assert label_entropies(logits)[0] == pytest.approx(math.log(3))


@pytest.mark.parametrize(("side", "factor"), [(8, 1), (8, 2), (7, 3), (224, 5), (3, 3)])
def test_cells_tile_the_image_as_a_collage_does(side: int, factor: int) -> None:
    covered = np.full((side, side), -1)
    for number, (top, left, height, width) in enumerate(cell_boxes(side, factor).tolist()):
        assert (covered[top : top + height, left : left + width] == -1).all()
        covered[top : top + height, left : left + width] = number
    sides = [side // factor + (place < side % factor) for place in range(factor)]
    places = np.repeat(np.arange(factor), sides)
    assert (covered == places[:, None] * factor + places).all()


def test_without_an_observer_only_bytes_and_sources(digits_set: Path) -> None:
    (digits_set / "labels" / "deep").mkdir(parents=True)
    (digits_set / "labels" / "a.safetensors").write_bytes(b"x" * 100)
    (digits_set / "labels" / "deep" / "b.json").write_bytes(b"y" * 11)
    measures = measure_set(load_set(digits_set))
    files = list(digits_set.glob("images/*/*.png"))
    assert measures.images_bytes == sum(len(file.read_bytes()) for file in files)
    assert measures.labels_bytes == 111
    assert {*dataclasses.astuple(measures)[2:]} == {None}
    with_provenance(digits_set, {0: ["a", "a", "a", "b"]})
    sources = measure_set(load_set(digits_set)).effective_sources
    assert sources == pytest.approx(4 / 3**0.75)


def test_realism_agreement_and_spread_are_those_of_the_formulas(
    digits: Digits, digits_set: Path
) -> None:
    distilled = load_set(digits_set)
    observer = observer_of(digits, distilled)
    measures = measure_set(distilled, observer)
    inputs = normalised(distilled.images, observer)
    logits = observer.logits(inputs).double()
    log_p = (logits - logits.logsumexp(dim=1, keepdim=True)).numpy()
    labels = distilled.labels.numpy()
    embedded = observer.features(inputs)
    spreads = []
    for label in range(10):
        own = embedded[labels == label]
        spreads.append(distances(own, own)[np.triu_indices(PER_CLASS, 1)].mean())
    wanted = {
        "realism": log_p[np.arange(len(labels)), labels].mean(),
        "agreement": (log_p.argmax(axis=1) == labels).mean(),
        "entropy": -(np.exp(log_p) * log_p).sum(axis=1).mean(),
        "pairwise_distance": np.mean(spreads),
    }
    found = measures.distilled
    for name, value in wanted.items():
        assert getattr(found, name) == pytest.approx(value, rel=THROUGH_A_NETWORK), name
    # One patch per image: the whole of it.
    assert found is not None
    assert found.patch_realism == pytest.approx(found.realism)
    assert found.coverage_distance is None
    assert measures.random_real is None
    assert measures.real is None
    assert measures.observer is not None
    assert measures.observer["weights_sha256"] == observer.weights_sha256
    json.dumps(dataclasses.asdict(measures))


def test_images_in_memory_are_measured_alike(digits: Digits, digits_set: Path) -> None:
    distilled = load_set(digits_set)
    observer = observer_of(digits, distilled)
    held = dataclasses.replace(distilled, stored=ImagesInMemory(distilled.images))
    wanted = measure_set(distilled, observer)
    wanted = dataclasses.replace(wanted, images_bytes=distilled.images.nbytes)
    assert measure_set(held, observer) == wanted


def test_patches_are_scored_at_the_full_side(digits: Digits, digits_set: Path) -> None:
    manifest = json.loads((digits_set / "manifest.json").read_text())
    (digits_set / "manifest.json").write_text(json.dumps(manifest | {"factor": 3}))
    distilled = load_set(digits_set)
    observer = observer_of(digits, distilled)
    scores = []
    for image, label in zip(distilled.images, distilled.labels.tolist(), strict=True):
        for top, height in ((0, 3), (3, 3), (6, 2)):
            for left, width in ((0, 3), (3, 3), (6, 2)):
                cell = image[top : top + height, left : left + width].permute(2, 0, 1)
                grown = functional.resize(cell.float(), [SIDE, SIDE], antialias=True)
                logits = observer.logits(normalised(grown.permute(1, 2, 0)[None], observer))
                scores.append(float(torch.log_softmax(logits.double(), dim=1)[0, label]))
    found = measure_set(distilled, observer).distilled
    assert found is not None
    assert found.patch_realism == pytest.approx(np.mean(scores), rel=THROUGH_A_NETWORK)


def test_coverage_is_by_the_nearest_of_the_class(
    digits: Digits, digits_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydream.inspection.realism._BATCH", 4)  # batches within a class
    source = Subset(open_source("digits"), range(10), 11)
    used = {label: [source.keys[i] for i in source.class_indices(label)[:2]] for label in range(10)}
    with_provenance(digits_set, used)
    distilled = load_set(digits_set)
    observer = observer_of(digits, distilled)
    measures = measure_set(distilled, observer, source, most_real=99)
    # Of 11 images two are sources of the set and five the random ones: four remain.
    assert measures.real == RealSamples("digits", 10, 40)
    embedded = observer.features(normalised(distilled.images, observer))
    real = torch.stack([source.image(index) for index in range(len(source))])
    bounds = [0.0, 0.0]
    nearest = []
    for label in range(10):
        rows = source.class_indices(label)[2:]
        found = observer.features(normalised(real[rows], observer))
        nearest.append(distances(found, embedded[distilled.labels == label]).min(axis=1))
        bounds[0] += np.sort(nearest[-1])[:4].sum() / 40
        bounds[1] += np.sort(nearest[-1])[-4:].sum() / 40
    assert measures.distilled is not None
    covered = measures.distilled.coverage_distance
    assert covered is not None
    assert bounds[0] <= covered * (1 + THROUGH_A_NETWORK)
    assert covered <= bounds[1] * (1 + THROUGH_A_NETWORK)
    random: Any = measures.random_real
    assert random.coverage_distance > 0  # a sample is none of the random images
    assert random.patch_realism is None
    assert random.pairwise_distance > 0
    assert 0 < random.agreement <= 1
    again = measure_set(distilled, observer, source, most_real=99)
    assert again == measures
    few = measure_set(distilled, observer, source, most_real=3)
    assert few.real is not None
    assert few.real.samples == 30
    assert few.random_real is not None
    assert few.random_real.realism == random.realism


def test_coverage_of_a_class_of_equal_images(digits: Digits, digits_set: Path) -> None:
    """Whichever real images are drawn, they are all the same one."""
    distilled = load_set(digits_set)
    observer = observer_of(digits, distilled)
    real = digits.test.images[:10]
    source = open_source((real.repeat_interleave(7, dim=0), torch.arange(10).repeat_interleave(7)))
    measures = measure_set(distilled, observer, source)
    found = observer.features(normalised(real, observer))
    own = observer.features(normalised(distilled.images, observer))
    wanted = [distances(found[c : c + 1], own[distilled.labels == c]).min() for c in range(10)]
    assert measures.distilled is not None
    covered = measures.distilled.coverage_distance
    assert covered == pytest.approx(np.mean(wanted), rel=THROUGH_A_NETWORK)
    assert measures.random_real is not None
    assert measures.random_real.coverage_distance == 0
    assert measures.random_real.pairwise_distance == 0
    assert measures.real is not None
    assert measures.real.samples == 20


def test_one_image_per_class_has_no_spread(digits: Digits, tmp_path: Path) -> None:
    distilled = load_set(write_set(tmp_path / "set", digits.train.images[:10], NAMES))
    found = measure_set(distilled, observer_of(digits, distilled), open_source("digits"))
    for images in (found.distilled, found.random_real):
        assert images is not None
        assert images.pairwise_distance is None
        assert images.coverage_distance is not None
        assert images.coverage_distance > 0


class Damaged(Subset):
    """Cannot read every seventh image."""

    def read(self, index: int) -> bytes | npt.NDArray[np.uint8]:
        if index % 7 == 0:
            raise ImageError("truncated")
        return super().read(index)

    read_many = Source.read_many  # which reads one after another


def test_unreadable_and_scarce_real_images(digits: Digits, digits_set: Path) -> None:
    whole = open_source("digits")
    distilled = load_set(digits_set)
    observer = observer_of(digits, distilled)
    with pytest.raises(PydreamError, match=r"digits has too few images .* more than 5"):
        measure_set(distilled, observer, Subset(whole, range(10), 5))
    six_of_seven = measure_set(distilled, observer, Damaged(whole, range(10), 7))
    assert six_of_seven.real is not None
    assert six_of_seven.real.samples == 10
    every = {label: [whole.keys[i] for i in whole.class_indices(label)] for label in range(9)}
    with_provenance(digits_set, every)
    found = measure_set(load_set(digits_set), observer, whole, most_real=7)
    assert found.real == RealSamples("digits", 1, 7)


def test_what_does_not_fit_is_one_line(digits: Digits, digits_set: Path) -> None:
    distilled = load_set(digits_set)
    observer = observer_of(digits, distilled)
    source = open_source("digits")
    model = build_model("convnet2-w8", num_classes=10, side=16)
    wide = load_observer(model, side=16, precision="float32")
    cases = {
        "16 pixels a side, those of .* have 8": (wide, None, 1),
        "has 3 classes, but .* has 10": (observer.with_class_order([0, 1, 2]), None, 1),
        r"digits lacks the classes 2, 3, 4 and 5 more of": (observer, Subset(source, range(2)), 1),
        "give one with --observer": (None, source, 1),
        "most_real must be at least 1, got 0": (observer, source, 0),
    }
    for words, (of, real, most) in cases.items():
        with pytest.raises(PydreamError, match=words) as caught:
            measure_set(distilled, of, real, most_real=most)
        assert "\n" not in str(caught.value)


def test_an_observer_that_gives_no_numbers(digits_set: Path) -> None:
    model = build_model("convnet2-w8", num_classes=10, side=SIDE)
    broken = load_observer(model, precision="float32")
    with torch.no_grad():
        for parameter in broken._model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(PydreamError, match=r"observer \(ConvNet\) cannot be used"):
        measure_set(load_set(digits_set), broken)
