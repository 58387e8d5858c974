"""Students on whitened images: of MTT's files, of our sets, and of baselines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_digits import MEAN, STD, Digits

from pydream.data import open_source
from pydream.data.whitening import fit_whitening
from pydream.dream import DreamConfig, ExpertsConfig, distill, train_experts
from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, evaluation, relabel
from pydream.inspection import InspectConfig, inspect
from pydream.sets import ExportConfig, export_set, load_set, open_distilled
from pydream.sets.config import Layout
from pydream.students.train import train_student

ARCH = "convnet2-w4-instance"
# Values of the order of 1, whitened in float32 from colours that are rounded to float32.
ROUNDED = 1e-4
NAMES = [str(label) for label in range(10)]


def colours(split: torch.Tensor) -> torch.Tensor:
    return split.permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def whiten(digits: Digits) -> Callable[[torch.Tensor], torch.Tensor]:
    """Whiten colours by the training digits, as the formula says, in float64."""
    fitted = colours(digits.train.images).double().flatten(1)
    axes, variances, _ = np.linalg.svd(np.cov(fitted.numpy(), rowvar=False))
    matrix = torch.from_numpy(axes @ np.diag(1 / np.sqrt(variances + 0.1)) @ axes.T)

    def whitened(images: torch.Tensor) -> torch.Tensor:
        return ((images.double().flatten(1) - fitted.mean(0)) @ matrix).view(images.shape).float()

    return whitened


@pytest.fixture
def of_mtt(tmp_path: Path, digits: Digits, whiten: Any) -> Path:
    """A file as MTT's code writes it with ``--zca``, of images that have left the colours."""
    rows = torch.cat([(digits.train.labels == label).nonzero()[:2, 0] for label in range(10)])
    images = colours(digits.train.images[rows])
    values = whiten(images + 0.1 * torch.sin(torch.arange(64.0)).view(8, 8))
    torch.save(values, tmp_path / "images_best.pt")
    torch.save(torch.arange(10).repeat_interleave(2), tmp_path / "labels_best.pt")
    return tmp_path / "images_best.pt"


def config(path: Path, **changes: Any) -> EvaluateConfig:
    values: dict[str, Any] = {
        "labels": ("hard",),
        "students": (ARCH,),
        "source": "digits",
        "epochs": 1,
        "workers": 1,
    }
    return EvaluateConfig(**{"set": path, **values, **changes})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, torch.Tensor, str]]:
    """Images that students are trained and tested on, channels first, and the views of them."""
    found: list[tuple[torch.Tensor, torch.Tensor, str]] = []

    def watched(images: torch.Tensor, targets: Any, test: Any, recipe: Any, **rest: Any) -> Any:
        found.append((images.movedim(-1, 1), test.images.movedim(-1, 1), recipe.views))
        return train_student(images, targets, test, recipe, **rest)

    monkeypatch.setattr(evaluation, "train_student", watched)
    return found


def test_a_file_of_mtt_and_all_else_is_seen_whitened(
    of_mtt: Path, digits: Digits, whiten: Any, seen: list[Any]
) -> None:
    result = evaluate_set(config(of_mtt, zca=True, baselines=("random", "full")))
    assert [row.images for row in result.rows] == ["distilled", "random", "full"]
    assert [views for *_, views in seen] == ["whole"] * 3
    of_set, random, full = (images for images, *_ in seen)
    values = torch.load(of_mtt, weights_only=True)
    torch.testing.assert_close(of_set, values, atol=ROUNDED, rtol=0)  # not clipped to colours
    everything = whiten(colours(digits.train.images))
    torch.testing.assert_close(full, everything, atol=ROUNDED, rtol=0)
    nearest = (random[:, None] - full).abs().amax((2, 3, 4)).amin(1)
    assert random.shape == of_set.shape
    assert float(nearest.max()) < ROUNDED
    for _, test, _ in seen:
        expected = whiten(colours(digits.test.images))
        torch.testing.assert_close(test, expected, atol=ROUNDED, rtol=0)
    assert "whitened" in result.path.with_suffix(".html").read_text()
    facts = json.loads(result.path.read_text())
    assert facts["whitening"]["source_fingerprint"] == open_source("digits").fingerprint()
    again = evaluate_set(config(of_mtt, zca=True, resume=True))
    assert len(seen) == 3  # found by what decides it
    assert again.rows[0].last_mean == result.rows[0].last_mean


def test_students_learn_from_whitened_images(of_mtt: Path) -> None:
    result = evaluate_set(
        config(of_mtt, zca=True, epochs=40, recipe="idc", students=("convnet2-w32",))
    )
    assert result.rows[0].best_mean > 0.3  # chance is a tenth


def test_a_plain_set_is_whitened_where_asked(
    digits_set: Path, digits: Digits, whiten: Any, seen: list[Any]
) -> None:
    evaluate_set(config(digits_set, zca=True, source=None))
    evaluate_set(config(digits_set, source=None, views="whole", resume=True))
    assert len(seen) == 2  # one is not taken for the other
    images = load_set(digits_set).images
    torch.testing.assert_close(seen[0][0], whiten(colours(images)), atol=ROUNDED, rtol=0)
    assert torch.equal(seen[1][0], images.permute(0, 3, 1, 2))
    assert seen[1][1].dtype == torch.uint8


def natural(count: int, side: int = 16) -> torch.Tensor:
    """Random images with the spectrum of photographs, which falls with the frequency."""
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    across = torch.fft.fftfreq(side)
    frequency = (across[:, None] ** 2 + across**2).sqrt().clamp(min=1 / side)
    images: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(noise) / frequency**1.5).real
    return ((images / images.std() * 0.25 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("count", [10, 100])
def test_whitened_values_are_recognised(tmp_path: Path, count: int) -> None:
    images = natural(800)
    values = fit_whitening(images)(images[:count] / 255)
    file = tmp_path / "images_best.pt"
    torch.save([values, torch.arange(count) % 10], file)
    message = r"images_best\.pt: values are .* look whitened \(ZCA\).* --zca and --source"
    with pytest.raises(PydreamError, match=message) as refused:
        open_distilled(file)
    assert "\n" not in str(refused.value)
    with pytest.warns(RuntimeWarning, match="which mean and std do not undo: see --zca"):
        open_distilled(file, mean=(0.5,) * 3, std=(0.3,) * 3)
    for other in ((images[:count] / 255 - 0.5) / 0.25, torch.randn(count, 3, 16, 16)):
        torch.save([other, torch.arange(count) % 10], file)
        with pytest.raises(PydreamError, match="give the mean and std they were normalised with"):
            open_distilled(file)


def test_whitening_needs_training_images(of_mtt: Path) -> None:
    with pytest.raises(PydreamError, match="is fitted on training images: name them with --source"):
        evaluate_set(config(of_mtt, zca=True, source=None))


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_normalised_values_are_not(digits: Digits, tmp_path: Path, scale: float) -> None:
    """Also of images of little contrast."""
    images = colours(digits.train.images[:20]) * scale
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    torch.save([(images - mean) / std, torch.arange(20) % 10], tmp_path / "data.pt")
    with pytest.raises(PydreamError, match="give the mean and std they were normalised with"):
        open_distilled(tmp_path / "data.pt")


def test_recipes_beside_each_other(of_mtt: Path, seen: list[Any]) -> None:
    recipes: Any = ("dsa", "idc", "rded")
    evaluate_set(config(of_mtt, zca=True, recipes=recipes))
    assert [views for *_, views in seen] == ["whole", "dsa", "whole"]
    with pytest.raises(PydreamError, match="observers none: give --labels hard or own"):
        evaluate_set(config(of_mtt, zca=True, recipe="rded", labels=("published",), observer="x"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("online",), "observer": "x"}, "observers none: give --labels hard or own"),
        ({"labels": ("stored", "hard")}, "observers none: give --labels hard or own"),
        ({"views": "crop"}, "whole, with DSA's augmentations: leave out --views"),
        ({"factor": 2}, "factor is 2: give --factor 1, or leave out --zca"),
    ],
)
def test_settings_that_do_not_fit(digits_set: Path, changes: Any, message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        evaluate_set(config(digits_set, zca=True, **changes))


def test_a_file_of_another_size(of_mtt: Path, tmp_path: Path) -> None:
    values = torch.load(of_mtt, weights_only=True)
    torch.save(values[..., :7, :7], of_mtt)
    whitening = fit_whitening(torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8))
    with pytest.raises(PydreamError, match="of 3 × 8 × 8, and these are of 3 × 7 × 7"):
        open_distilled(of_mtt, zca=lambda _: whitening)
    torch.save(values[:, :1], of_mtt)
    with pytest.raises(PydreamError, match="of 3 × 8 × 8, and these are of 1 × 8 × 8"):
        evaluate_set(config(of_mtt, zca=True))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that was made of whitened images."""
    folder = tmp_path_factory.mktemp("ours")
    settings: dict[str, Any] = {"arch": ARCH, "workers": 1, "zca": True}
    experts = train_experts(
        ExpertsConfig("digits", out=folder / "experts", count=1, epochs=2, **settings)
    )
    made = distill(
        DreamConfig(
            "digits",
            out=folder / "set",
            framework="mtt",
            experts=experts.path,
            ipc=1,
            iterations=2,
            max_start=1,
            expert_epochs=1,
            student_steps=2,
            learning_rate=50.0,
            exact=True,
            eval_every=2,
            eval_epochs=1,
            **settings,
        )
    )
    return made.path


def test_our_set_says_that_it_is_whitened_and_is_seen_so(
    ours: Path, digits: Digits, whiten: Any, seen: list[Any]
) -> None:
    manifest = load_set(ours).manifest
    fingerprint = open_source("digits").fingerprint()
    assert manifest.whitening == {
        "method": "zca",
        "epsilon": 0.1,
        "side": 8,
        "source_fingerprint": fingerprint,
    }
    evaluate_set(config(ours, source=None))
    images, test, views = seen[0]
    assert views == "whole"
    values = torch.load(ours / "images.pt", weights_only=True)[0]
    assert float(values.min()) < 0  # colours beyond their range are kept
    torch.testing.assert_close(images, whiten(values), atol=ROUNDED, rtol=0)
    expected = whiten(colours(digits.test.images))
    torch.testing.assert_close(test, expected, atol=ROUNDED, rtol=0)
    facts = inspect(InspectConfig(set=ours)).facts
    assert facts.whitening == manifest.whitening
    assert "Whitened" in (ours / "report.html").read_text()


def test_it_is_whitened_by_no_other_images(ours: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(40) % 10
    file = tmp_path / "others.npz"
    np.savez(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    with pytest.raises(PydreamError, match=r"others\.npz has others: name them with --source"):
        evaluate_set(config(ours, source=str(file)))


def test_its_exports_are_as_their_readers_want_them(
    ours: Path, tmp_path: Path, whiten: Any, digits: Digits
) -> None:
    values = torch.load(ours / "images.pt", weights_only=True)[0]
    export_set(ExportConfig(ours, "mtt", tmp_path / "mtt"))
    found = torch.load(tmp_path / "mtt" / "images_best.pt", weights_only=True)
    torch.testing.assert_close(found, whiten(values), atol=ROUNDED, rtol=0)
    layouts: tuple[Layout, ...] = ("tensors", "parquet")
    for to in layouts:
        export_set(ExportConfig(ours, to, tmp_path / to))
        opened = open_distilled(tmp_path / to)
        assert opened.manifest.whitening == load_set(ours).manifest.whitening
        assert torch.equal(opened.images, load_set(ours).images)
    assert torch.equal(open_distilled(tmp_path / "tensors").float_images, values)
    with pytest.raises(PydreamError, match=r"whitened .*: export it --to mtt"):
        export_set(ExportConfig(ours, "ddranking", tmp_path / "x", observer=str(digits.observer)))
    with pytest.raises(PydreamError, match="observers see none: train on it by"):
        relabel(RelabelConfig(set=ours, observer=str(digits.observer)))


def test_a_whitened_set_without_its_images_cannot_be_exported(ours: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(ours, tmp_path / "copy")
    manifest = json.loads((ours / "manifest.json").read_text())
    manifest["source"]["description"] = str(tmp_path / "gone.zip")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PydreamError, match=r"cannot be fitted: .*gone\.zip.*give --to tensors"):
        export_set(ExportConfig(copy, "mtt", tmp_path / "mtt"))


def test_inspection_shows_the_colours(of_mtt: Path, digits: Digits) -> None:
    found = inspect(InspectConfig(set=of_mtt, zca=True, source="digits")).distilled
    rows = torch.cat([(digits.train.labels == label).nonzero()[:2, 0] for label in range(10)])
    wave = 0.1 * torch.sin(torch.arange(64.0)).view(8, 8, 1)
    expected = (digits.train.images[rows] / 255 + wave).clamp(0, 1) * 255
    assert float((found.images - expected).abs().max()) < 0.51  # rounded to levels
    with pytest.raises(PydreamError, match="is fitted on training images: give --source"):
        InspectConfig(set=of_mtt, zca=True)
