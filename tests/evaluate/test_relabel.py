from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_digits import ARCH, MEAN, SIDE, STD, Digits

from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, relabel
from pydream.models import load_observer
from pydream.sets.distilled import load_set
from pydream.students.label_forms import LabelForm
from pydream.students.labels import online_targets
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import RECIPES
from pydream.students.stored_labels import StoredLabels, write_epoch
from pydream.students.views import views

# Logits below 32, kept in float16 (half a step is 2^-7), and divided by the temperature, 20.
HALF = 1e-3
# Accuracies on 360 images after some steps from targets that differ by so little.
NEAR = 0.03


def config(path: Path, digits: Digits, **changes: Any) -> RelabelConfig:
    return RelabelConfig(
        **{
            "set": path,
            "observer": str(digits.observer),
            "epochs": 3,
            "horizontal_flip": False,
            **changes,
        }
    )


def evaluation(path: Path, digits: Digits, **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(
        **{
            "set": path,
            "observer": str(digits.observer),
            "epochs": 3,
            "horizontal_flip": False,
            "workers": 1,
            **changes,
        }
    )


@pytest.mark.parametrize("recipe", ["rded", "idc"])
def test_stored_labels_are_the_observers_of_the_same_views(
    digits: Digits, digits_set: Path, recipe: str
) -> None:
    relabel(config(digits_set, digits, seeds=(4,), batch_size=19, recipe=recipe))
    images = load_set(digits_set).images
    how = resolve(
        RECIPES[recipe],
        student=ARCH,
        num_images=len(images),
        num_classes=10,
        side=SIDE,
        factor=1,
        overrides={"horizontal_flip": False, "batch_size": 19, "epochs": 3},
    )
    observer = load_observer(digits.observer)
    online = online_targets(observer, how.temperature, 19)
    stored = StoredLabels(load_set(digits_set), 4).targets(how.temperature, torch.device("cpu"))
    for epoch in range(3):
        for batch in views(images, epoch, 4, how, mean=MEAN, std=STD):
            torch.testing.assert_close(stored(batch), online(batch), rtol=0.0, atol=HALF)


def test_students_of_stored_and_online_labels_are_as_good(digits: Digits, digits_set: Path) -> None:
    relabel(config(digits_set, digits, epochs=40))
    result = evaluate_set(
        evaluation(digits_set, digits, epochs=40, labels=("online", "stored", "hard"))
    )
    online, stored, hard = result.rows
    assert [row.labels for row in result.rows] == ["online", "stored", "hard"]
    assert online.last_mean > 0.4
    assert abs(stored.last_mean - online.last_mean) < NEAR
    first = [row.runs[0].curve[0].loss for row in (online, stored)]
    assert first[0] == pytest.approx(first[1], rel=HALF)
    assert hard.recipe.temperature == 1.0


def test_no_observer_is_needed_for_stored_labels(digits: Digits, digits_set: Path) -> None:
    relabel(config(digits_set, digits))
    how = evaluation(digits_set, digits, labels=("stored",), students=(ARCH,))
    alone = evaluate_set(dataclasses.replace(how, observer=None)).rows[0]
    assert alone.runs[0].curve == evaluate_set(how).rows[0].runs[0].curve


@pytest.mark.parametrize("layout", ["folders", "tensors"])
def test_sets_of_others(digits: Digits, digits_set: Path, tmp_path: Path, layout: str) -> None:
    own = load_set(digits_set)
    if layout == "folders":
        other = tmp_path / "other"
        shutil.copytree(digits_set / "images", other)
    else:
        other = tmp_path / "other.pt"
        torch.save([own.images.movedim(-1, 1) / 255, own.labels], other)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    result = relabel(config(other, digits, source="digits"))
    assert result.path == tmp_path / "other-labels"
    assert {file: file.read_bytes() for file in before} == before
    stored = {"labels": ("stored",), "source": "digits"}
    of_other = evaluate_set(evaluation(other, digits, **stored))
    relabel(config(digits_set, digits))
    of_own = evaluate_set(evaluation(digits_set, digits, **stored))
    assert of_other.rows[0].runs[0].curve == of_own.rows[0].runs[0].curve
    assert of_other.facts["set"]["labels_bytes"] == result.labels_bytes


def test_epochs_may_share_labels(digits: Digits, digits_set: Path) -> None:
    result = relabel(config(digits_set, digits, epochs=5, every=2))
    files = sorted(file.name for file in (digits_set / "labels" / "seed-0").glob("*.safetensors"))
    assert files == [f"epoch-0000{number}.safetensors" for number in (0, 2, 4)]
    assert result.epochs == 5
    evaluate_set(evaluation(digits_set, digits, epochs=5, labels=("stored",)))


@pytest.mark.parametrize("kept", [1, 3, 10])
def test_the_classes_beyond_the_highest_share_what_is_left(tmp_path: Path, kept: int) -> None:
    logits = torch.randn(23, 10, generator=torch.Generator().manual_seed(0)) * 5
    form = LabelForm(kept)
    write_epoch(tmp_path / "epoch", logits, form, 20.0)
    found = form.probabilities(load_file(tmp_path / "epoch"), 10, 20.0).double()
    exact = torch.softmax(logits.double() / 20, dim=1)
    highest = exact.topk(kept, dim=1)
    left = 1 - highest.values.sum(dim=1, keepdim=True)
    wanted = (left / max(10 - kept, 1)).expand(-1, 10).scatter(1, *highest[::-1])
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=HALF)


def test_bytes_are_told_and_in_the_manifest(digits: Digits, digits_set: Path) -> None:
    result = relabel(config(digits_set, digits, seeds=(0, 7)))
    folders = [digits_set / "labels" / f"seed-{seed}" for seed in (0, 7)]
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    assert result.labels_bytes == size
    manifest = json.loads((digits_set / "manifest.json").read_text())
    assert manifest["labels_bytes"] == size
    assert set(manifest["labels"]) == {"0", "7"}
    labels = load_set(digits_set).manifest.labels
    assert labels is not None
    assert labels["7"]["epochs"] == 3


def test_labels_that_were_moved_away_are_no_labels_of_a_seed(
    digits: Digits, digits_set: Path
) -> None:
    relabel(config(digits_set, digits))
    labels = digits_set / "labels"
    (labels / "seed-0").rename(labels / "seed-0-old")
    shutil.copytree(labels / "seed-0-old", labels / "budget-300MB-old" / "seed-0")
    relabel(config(digits_set, digits, epochs=2))
    manifest = load_set(digits_set).manifest
    assert manifest.labels is not None
    assert {seed: entry["epochs"] for seed, entry in manifest.labels.items()} == {"0": 2}


def test_a_killed_run_goes_on(digits: Digits, digits_set: Path) -> None:
    relabel(config(digits_set, digits))
    folder = digits_set / "labels" / "seed-0"
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "epoch-00001.safetensors").unlink()
    kept = (folder / "epoch-00000.safetensors").stat().st_mtime_ns
    fails("1 epochs are missing", evaluation(digits_set, digits, labels=("stored",)))
    relabel(config(digits_set, digits))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    assert (folder / "epoch-00000.safetensors").stat().st_mtime_ns == kept


def fails(message: str, how: EvaluateConfig | RelabelConfig) -> None:
    with pytest.raises(PydreamError, match=message) as caught:
        evaluate_set(how) if isinstance(how, EvaluateConfig) else relabel(how)
    assert "\n" not in str(caught.value)


def test_labels_of_something_else(digits: Digits, digits_set: Path) -> None:
    stored = evaluation(digits_set, digits, labels=("stored",))
    fails("no stored labels of seed 0: make them by `pydream relabel`", stored)
    relabel(config(digits_set, digits))
    fails("of 3 epochs, not of 9", dataclasses.replace(stored, epochs=9))
    fails("batch_size 50, not 7", dataclasses.replace(stored, batch_size=7))
    fails("batch_size 50, not 7", config(digits_set, digits, batch_size=7))
    fails(
        "no stored labels of seed 1: .*`pydream relabel --seeds 1`",
        dataclasses.replace(stored, seeds=(0, 1)),
    )
    fails("epochs must be at most 100,000", config(digits_set, digits, epochs=100_001))
    fails("top_k must be at most the classes of the set, 10", config(digits_set, digits, top_k=11))
    fails(
        "labels are of the set alone: give --observer for the baselines",
        dataclasses.replace(stored, observer=None, baselines=("random",)),
    )
    file = digits_set / "labels" / "seed-0" / "labels.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "images_sha256": "0"}))
    fails("labels of other images than the set's", stored)
    file.write_text(json.dumps({**content, "format": 99}))
    fails("format 99 is newer", stored)
    wrong = (
        {"every": 0},
        {"epochs": 2**40},
        {"bits": 5},
        {"top_k": 0},
        {"class_names": None},
        {"hard_epochs": "0"},
    )
    for entry in wrong:
        file.write_text(json.dumps({**content, **entry}))
        fails("not what `pydream relabel` writes", stored)
    file.write_text("{")
    fails("not what `pydream relabel` writes", stored)
