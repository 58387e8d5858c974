"""Labels within a budget: what is chosen, that it fits, and accuracy against bytes."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_digits import ARCH, Digits

from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, relabel, result_table
from pydream.evaluate.label_budget import expected_loss, within
from pydream.sets.distilled import load_set
from pydream.students.config import Bits
from pydream.students.labels import hard_targets
from pydream.students.stored_labels import LabelPlan, StoredLabels
from pydream.students.views import MixedBatch

CPU = torch.device("cpu")
BITS: tuple[Bits, ...] = (16, 8, 4)


def config(path: Path, digits: Digits, **changes: Any) -> RelabelConfig:
    settings = {"epochs": 6, "horizontal_flip": False, **changes}
    return RelabelConfig(set=path, observer=str(digits.observer), **settings)


def evaluation(path: Path, digits: Digits, *labels: str, **changes: Any) -> EvaluateConfig:
    settings = {"epochs": 6, "horizontal_flip": False, "workers": 1, **changes}
    return EvaluateConfig(set=path, observer=str(digits.observer), labels=labels, **settings)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


def plan_of(classes: int, epochs: int, **changes: Any) -> LabelPlan:
    plan = LabelPlan(
        images_sha256="0" * 64,
        class_names=[str(number) for number in range(classes)],
        observer={},
        mean=[0.0],
        std=[1.0],
        views={},
        seed=0,
        epochs=epochs,
        every=1,
        top_k=None,
        temperature=20.0,
    )
    return dataclasses.replace(plan, **changes)


@pytest.mark.parametrize("budget", ["1600B", "2.5KB", "4kb", "1MiB"])
def test_labels_never_exceed_their_budget(digits: Digits, digits_set: Path, budget: str) -> None:
    result = relabel(config(digits_set, digits, budget=budget, seeds=(0, 12345678)))
    (folder,) = (digits_set / "labels").glob("budget-*")
    most = {"1600B": 1600, "2.5KB": 2500, "4kb": 4000, "1MiB": 2**20}[budget]
    sizes = [size_of(folder / f"seed-{seed}") for seed in (0, 12345678)]
    assert max(sizes) <= most
    assert result.student_bytes == max(sizes)
    assert result.labels_bytes == sum(sizes)
    assert result.expected_loss is not None
    if budget == "1MiB":  # holds everything
        assert (result.every, result.top_k, result.bits, result.expected_loss) == (1, None, 16, 0)
    manifest = json.loads((digits_set / "manifest.json").read_text())
    name = folder.name.removeprefix("budget-")
    assert manifest["labels"][f"12345678@{name}"]["bits"] == result.bits
    assert manifest["labels_bytes"] == result.labels_bytes


@pytest.mark.parametrize("hard", [0, 2])
@pytest.mark.parametrize("budget", [2500, 7000, 20_000, 60_000])
@pytest.mark.parametrize("classes", [3, 40])
def test_no_other_labels_that_fit_are_expected_to_lose_less(
    classes: int, budget: int, hard: int
) -> None:
    rows, plan = 30, plan_of(classes, 7, hard_epochs=hard)
    chosen = within(plan, rows, budget, every=False, top_k=False, bits=False)

    def size(one: LabelPlan) -> int:
        data = sum(tensor.nbytes for tensor in one.form.layout(rows, classes).values())
        return len(one.text()) + len(one.stored_epochs()) * (data + 400)  # headers at their most

    assert chosen.form.layout(rows, classes)
    for every, kept, bits in itertools.product(range(1, 8), (None, 1, 2, 11), BITS):
        if kept is not None and kept > classes:
            continue
        other = dataclasses.replace(plan, every=every, top_k=kept, bits=bits)
        if size(other) <= budget:
            assert expected_loss(chosen) <= expected_loss(other)


@pytest.mark.parametrize("budget", [200_000, 12_000_000, 20_000_000, 90_000_000, 120_000_000])
def test_epochs_are_not_given_up_for_bits(budget: int) -> None:
    """4 bits cost nothing, and more epochs something, also beyond the ends of the tables."""
    rows, plan = 10_000, plan_of(1000, 300)
    chosen = within(plan, rows, budget, every=False, top_k=False, bits=False)
    for every, bits in itertools.product(range(1, chosen.every), BITS):
        other = dataclasses.replace(chosen, every=every, bits=bits)
        data = sum(tensor.nbytes for tensor in other.form.layout(rows, 1000).values())
        assert len(other.text()) + len(other.stored_epochs()) * data > budget
    if budget == 12_000_000:  # two epochs of 4 bits, or one of 8
        assert (chosen.every, chosen.top_k, chosen.bits) == (150, None, 4)


def test_labels_that_say_less_are_expected_to_lose_more() -> None:
    plan = plan_of(1000, 1000)
    fewer_epochs = [dataclasses.replace(plan, every=every) for every in (1, 2, 30, 100, 150, 1000)]
    fewer_classes = [dataclasses.replace(plan, top_k=kept) for kept in (None, 500, 50, 10, 5, 1)]
    for plans in (fewer_epochs, fewer_classes):
        losses = [expected_loss(one) for one in plans]
        assert losses[0] == 0
        assert losses == sorted(set(losses))


def test_what_is_given_stays(digits: Digits, digits_set: Path) -> None:
    given = {"every": 3, "top_k": 2, "bits": 8}
    for size, (name, value) in enumerate(given.items(), start=4):
        result = relabel(config(digits_set, digits, budget=f"{size}KB", **{name: value}))
        assert getattr(result, name) == value


def test_the_least_budget_is_named_and_suffices(digits: Digits, digits_set: Path) -> None:
    with pytest.raises(PydreamError) as caught:
        relabel(config(digits_set, digits, budget="200B"))
    message = str(caught.value)
    assert "a budget of 200B is too small for one epoch of labels: the least is" in message
    assert "\n" not in message
    assert not (digits_set / "labels").exists()
    least = message.rpartition("--budget ")[2].split()[0]
    result = relabel(config(digits_set, digits, budget=least))
    assert result.every == 6
    assert result.student_bytes <= int(least.removesuffix("B"))


def test_a_stopped_run_within_a_budget_goes_on(digits: Digits, digits_set: Path) -> None:
    how = config(digits_set, digits, budget="4KB")
    relabel(how)
    folder = digits_set / "labels" / "budget-4KB" / "seed-0"
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "epoch-00000.safetensors").unlink()
    relabel(how)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole


def test_accuracy_against_bytes_is_a_curve(digits: Digits, digits_set: Path) -> None:
    for budget in ("2KB", "4KB"):
        relabel(config(digits_set, digits, budget=budget, seeds=(0, 1)))
    how = evaluation(
        digits_set, digits, "stored@4000B,hard", "stored@2KB", "online", seeds=(0, 1), resume=True
    )
    assert how.labels == ("stored@4KB", "hard", "stored@2KB", "online")
    result = evaluate_set(how)
    bytes_of = {row.labels: row.label_bytes for row in result.rows}
    for budget in ("2KB", "4KB"):
        sizes = [size_of(digits_set / f"labels/budget-{budget}/seed-{seed}") for seed in (0, 1)]
        assert bytes_of[f"stored@{budget}"] == max(sizes)
    assert bytes_of["hard"] == 0
    weights = load_file(digits.observer)
    assert bytes_of["online"] == sum(tensor.nbytes for tensor in weights.values())
    content = json.loads(result.path.read_text())
    curve = content["label_curve"]
    assert [one["labels"] for one in curve] == ["hard", "stored@2KB", "stored@4KB", "online"]
    assert curve[1]["label_form"].keys() == {"every", "top_k", "bits", "hard_epochs"}
    assert [one["label_bytes"] for one in curve] == sorted(bytes_of.values())
    assert {one["labels"]: one["last_mean"] for one in curve} == {
        row.labels: row.last_mean for row in result.rows
    }
    figure = result.path.with_name(f"{result.path.stem}-labels.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(result_table(result))
    text = console.export_text()
    assert f"{ARCH}: accuracy against the bytes of its labels" in text
    assert max(map(len, text.splitlines())) <= 80
    assert evaluate_set(how).rows == result.rows


def test_no_curve_without_stored_labels(digits: Digits, digits_set: Path) -> None:
    result = evaluate_set(evaluation(digits_set, digits, "online", "hard", epochs=1))
    assert "label_curve" not in json.loads(result.path.read_text())
    assert {file.name for file in result.path.parent.glob("*.png")} == {"results-0001.png"}


def test_hard_epochs_show_smoothed_classes(digits: Digits, digits_set: Path) -> None:
    relabel(config(digits_set, digits, hard_epochs=3, every=2))
    folder = digits_set / "labels" / "seed-0"
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert files == ["epoch-00000.safetensors", "epoch-00004.safetensors"]
    stored = StoredLabels(load_set(digits_set), 0)
    hard = hard_targets(load_set(digits_set).labels, 10, 0.8)
    targets = stored.targets(20.0, CPU, hard)
    rows, partners = torch.tensor([0, 49]), torch.tensor([7, 49])
    found = targets(MixedBatch(torch.empty(2, 3, 1, 1), rows, partners, 0.75, 2))
    wanted = torch.full((2, 10), 0.08)
    wanted[0, 0] += 0.2 * 0.75
    wanted[0, 1] += 0.2 * 0.25
    wanted[1, 9] += 0.2
    torch.testing.assert_close(found, wanted)
    evaluate_set(evaluation(digits_set, digits, "stored"))
    fails("of 6 epochs, not of 5", evaluation(digits_set, digits, "stored", epochs=5))


def fails(message: str, how: EvaluateConfig | RelabelConfig) -> None:
    with pytest.raises(PydreamError, match=message) as caught:
        evaluate_set(how) if isinstance(how, EvaluateConfig) else relabel(how)
    assert "\n" not in str(caught.value)


def test_labels_that_cannot_be(digits: Digits, digits_set: Path) -> None:
    for size in ("300XB", "MB", "-3MB", "0B", "3iB", "1e3KB", ""):
        with pytest.raises(PydreamError, match="budget takes a size such as 300MB"):
            config(digits_set, digits, budget=size)
        with pytest.raises(PydreamError, match="stored takes a size such as 300MB"):
            evaluation(digits_set, digits, f"stored@{size}")
    with pytest.raises(PydreamError, match=r"labels must be online, .* or published, got 'soft'"):
        evaluation(digits_set, digits, "hard,soft")
    with pytest.raises(PydreamError, match="labels must differ"):
        evaluation(digits_set, digits, "stored@1KB", "stored@1000B")
    with pytest.raises(PydreamError, match="bits must be 4, 8 or 16, got 2"):
        config(digits_set, digits, bits=2)
    fails("hard_epochs must be below the 6 epochs", config(digits_set, digits, hard_epochs=6))
    missing = evaluation(digits_set, digits, "stored@5KB")
    fails("no stored labels of seed 0 within 5KB: make them by .*--budget 5KB", missing)
    relabel(config(digits_set, digits, budget="5KB"))
    fails("labels of other views: views crop, not dsa", dataclasses.replace(missing, recipe="idc"))


def test_damaged_labels_are_refused(digits: Digits, digits_set: Path) -> None:
    relabel(config(digits_set, digits, top_k=3, bits=8, epochs=1))
    stored = evaluation(digits_set, digits, "stored", epochs=1)
    file = digits_set / "labels" / "seed-0" / "epoch-00000.safetensors"
    whole = file.read_bytes()
    tensors = load_file(file)
    file.write_bytes(whole[:-7])
    fails("cannot be read: .*delete it, and give the same `pydream relabel` again", stored)
    damaged = {
        "holds tensors": {"codes": tensors["codes"]},
        "holds 9 rows, for a set of 50 images": {n: t[:9].clone() for n, t in tensors.items()},
        "labels that are not numbers": {**tensors, "step": tensors["step"] * torch.nan},
        "holds labels that are not numbers": {**tensors, "others": tensors["others"] * torch.nan},
        "holds labels that are not": {
            **tensors,
            "others": torch.full_like(tensors["others"], torch.inf),
        },
        "classes that the set does not have": {**tensors, "classes": tensors["classes"] + 10},
    }
    for message, content in damaged.items():
        save_file(content, file)
        fails(message, stored)
    file.write_bytes(whole)
    evaluate_set(stored)
    plan = file.with_name("labels.json")
    content = json.loads(plan.read_text())
    for wrong in ({**content, "color": 1}, {k: v for k, v in content.items() if k != "every"}):
        plan.write_text(json.dumps(wrong))
        fails("not what `pydream relabel` writes", stored)


def test_labels_of_the_first_format_are_read(digits: Digits, digits_set: Path) -> None:
    relabel(config(digits_set, digits, top_k=3, epochs=1))
    now = evaluate_set(evaluation(digits_set, digits, "stored", epochs=1))
    plan = digits_set / "labels" / "seed-0" / "labels.json"
    content = json.loads(plan.read_text())
    first = {k: v for k, v in content.items() if k not in ("bits", "hard_epochs")}
    plan.write_text(json.dumps({**first, "format": 1}))
    file = plan.with_name("epoch-00000.safetensors")
    tensors = load_file(file)
    save_file({**tensors, "classes": tensors["classes"].int()}, file)
    before = evaluate_set(evaluation(digits_set, digits, "stored", epochs=1))
    assert before.rows[0].runs[0].curve == now.rows[0].runs[0].curve
