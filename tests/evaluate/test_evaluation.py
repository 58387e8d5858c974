from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plain_sets import observer_entry
from rich.console import Console
from small_digits import ARCH, MEAN, PER_CLASS, SIDE, STD, Digits, write_set

from pydream.data import open_source
from pydream.data.resized import load_split
from pydream.errors import PydreamError
from pydream.evaluate import (
    EvaluateConfig,
    EvaluationResult,
    RelabelConfig,
    evaluate_set,
    evaluation,
    relabel,
    result_table,
)
from pydream.evaluate.baselines import Baselines
from pydream.evaluate.plans import eval_every
from pydream.models import build_model, load_observer, read_weights, save_weights
from pydream.sets import ExportConfig, export_set
from pydream.sets.config import Layout
from pydream.sets.distilled import load_set
from pydream.students.train import train_student

NAMES = [str(label) for label in range(10)]


def config(path: Path, digits: Digits, **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(
        **{
            "set": path,
            "observer": str(digits.observer),
            "epochs": 2,
            "horizontal_flip": False,
            "workers": 1,
            **changes,
        }
    )


def rendered(result: EvaluationResult) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(result_table(result))
    return console.export_text()


def reordered_observer(digits: Digits, path: Path, order: list[int], **metadata: str) -> Path:
    """Write the observer with its outputs in another order."""
    weights, known = read_weights(digits.observer)
    model = build_model(ARCH, num_classes=10, side=SIDE)
    weights["classifier.weight"] = weights["classifier.weight"][order]
    weights["classifier.bias"] = weights["classifier.bias"][order]
    model.load_state_dict(weights)
    save_weights(model, path, {**known, **metadata})
    return path


def test_students_of_set_and_baseline_beat_chance(digits: Digits, digits_set: Path) -> None:
    result = evaluate_set(
        config(digits_set, digits, epochs=40, seeds=(0, 1), baselines=("random",), eval_every=15)
    )
    assert [row.images for row in result.rows] == ["distilled", "random"]
    for row in result.rows:
        assert (row.student, row.labels) == (ARCH, "online")
        assert row.image_count == 10 * PER_CLASS
        assert [run.seed for run in row.runs] == [0, 1]
        assert [point.epoch for point in row.runs[0].curve] == [15, 30, 40]
        last = [run.curve[-1].top1 for run in row.runs]
        best = [max(point.top1 for point in run.curve) for run in row.runs]
        assert row.last_mean == pytest.approx(statistics.mean(last))
        assert row.last_std == pytest.approx(statistics.stdev(last))
        assert row.best_mean == pytest.approx(statistics.mean(best))
        assert row.best_std == pytest.approx(statistics.stdev(best))
        # Chance is 0.1, within 0.05 of it on so many test images.
        assert row.last_mean > 0.4
        assert row.top5_mean > row.last_mean
    text = rendered(result)
    assert "distilled" in text
    assert "random" in text
    row = result.rows[0]
    assert row.last_std is not None
    assert f"{100 * row.last_mean:.1f} ± {100 * row.last_std:.1f}%" in text


@pytest.mark.parametrize(
    ("images", "tests", "epochs", "curve"),
    [
        (100, 5000, 300, [150, 300]),  # CIFAR-10 at IPC 10
        (250, 5000, 300, [50, 100, 150, 200, 250, 300]),
        (10_000, 50_000, 300, [30 * number for number in range(1, 11)]),  # ImageNet-1K at IPC 10
        (10, 5000, 2, [1, 2]),
    ],
)
def test_measurements_take_about_a_tenth_of_the_training(
    images: int, tests: int, epochs: int, curve: list[int]
) -> None:
    recipe: Any = SimpleNamespace(epochs=epochs, views_per_image=1)
    plan: Any = SimpleNamespace(trained_on=range(images), recipe=recipe)
    settings = SimpleNamespace(eval_every=None)
    context: Any = SimpleNamespace(config=settings, test_images=range(tests))
    every = eval_every(context, plan)
    measured = [e for e in range(1, epochs + 1) if e % every == 0 or e == epochs]
    assert measured == curve
    if 2 < len(measured) < 10:  # four passes a view, one a test image
        assert 0.5 < 10 * tests * len(measured) / (4 * images * epochs) <= 1
    settings.eval_every = 7
    assert eval_every(context, plan) == 7


def test_results_say_what_was_done(digits: Digits, digits_set: Path) -> None:
    result = evaluate_set(config(digits_set, digits, batch_size=25))
    assert result.path == digits_set / "results" / "results-0001.json"
    content = json.loads(result.path.read_text())
    assert json.loads(json.dumps(result.as_dict())) == {"path": str(result.path), **content}
    assert content["format"] == 2
    assert content["observer"]["weights_sha256"] == load_observer(digits.observer).weights_sha256
    assert content["test"]["images"] == len(open_source("digits", "test"))
    assert content["config"]["set"] == str(digits_set)
    (row,) = content["rows"]
    assert row["recipe"]["epochs"] == 2
    assert row["recipe"]["batch_size"] == 25
    assert row["recipe"]["temperature"] == 20.0
    (run,) = row["runs"]
    assert run["steps"] == 4
    assert run["last"] == run["curve"][-1]
    assert row["last_mean"] == run["last"]["top1"]
    assert row["last_std"] is None
    assert "±" not in rendered(result)


def test_results_are_never_overwritten(digits: Digits, digits_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    paths = [evaluate_set(config(digits_set, digits, epochs=1, out=out)).path for _ in range(3)]
    assert [path.name for path in paths] == [f"results-000{number}.json" for number in (1, 2, 3)]
    assert not (digits_set / "results").exists()


def test_the_same_seed_gives_the_same_curve(digits: Digits, digits_set: Path) -> None:
    one, other = (
        evaluate_set(config(digits_set, digits, seeds=seeds, baselines=("random",)))
        for seeds in ((3,), (2, 3))
    )
    for single, double in zip(one.rows, other.rows, strict=True):
        assert single.runs[0].curve == double.runs[1].curve


def test_baseline_images_are_left_whole_where_the_set_is_of_patches(
    digits: Digits, digits_set: Path
) -> None:
    file = digits_set / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "factor": 2}))
    result = evaluate_set(config(digits_set, digits, baselines=("random",)))
    distilled, random = (row.recipe for row in result.rows)
    assert (distilled.factor, distilled.crop_scale) == (2, (0.5, 1.0))
    assert (random.factor, random.crop_scale) == (1, (1.0, 1.0))


def test_images_and_modules_can_be_given_in_memory(digits: Digits, digits_set: Path) -> None:
    weights, _ = read_weights(digits.observer)
    model = build_model(ARCH, num_classes=10, side=SIDE)
    model.load_state_dict(weights)
    test = open_source("digits", "test")
    result = evaluate_set(
        config(
            digits_set, digits, observer="in memory", students=("convnet1-w8",), source="nowhere"
        ),
        train=open_source("digits"),
        test=test,
        observer=model,
    )
    assert result.rows[0].student == "convnet1-w8"
    assert result.facts["observer"]["weights_sha256"] == load_observer(model).weights_sha256


def test_classes_are_matched_by_name(digits: Digits, digits_set: Path, tmp_path: Path) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    names = json.dumps([NAMES[place] for place in order])
    other = reordered_observer(digits, tmp_path / "other.safetensors", order, classes=names)
    curves = [
        evaluate_set(config(digits_set, digits, observer=str(path))).rows[0].runs[0].curve
        for path in (digits.observer, other)
    ]
    # Sums over classes in another order differ in the last bits of float32.
    for one, same in zip(*curves, strict=True):
        assert one.loss == pytest.approx(same.loss, rel=1e-3)
        assert one.top1 == pytest.approx(same.top1, abs=0.02)


def test_the_order_found_when_the_set_was_made_holds(
    digits: Digits, digits_set: Path, tmp_path: Path
) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    other = reordered_observer(digits, tmp_path / "other.safetensors", order, classes="unknown")
    file = digits_set / "manifest.json"
    network, found = load_observer(other), [order.index(label) for label in range(10)]
    made_by = observer_entry(network.weights_sha256, found, network.arch)
    file.write_text(json.dumps({**json.loads(file.read_text()), "observer": made_by}))
    curves = [
        evaluate_set(config(digits_set, digits, observer=str(path))).rows[0].runs[0].curve
        for path in (digits.observer, other)
    ]
    for one, same in zip(*curves, strict=True):
        assert one.loss == pytest.approx(same.loss, rel=1e-3)
        assert one.top1 == pytest.approx(same.top1, abs=0.02)


def fails(message: str, digits: Digits, path: Path, **changes: Any) -> None:
    with pytest.raises(PydreamError, match=message):
        evaluate_set(config(path, digits, **changes))


def test_other_classes_in_the_test_images(digits: Digits, tmp_path: Path) -> None:
    images = torch.zeros(20, SIDE, SIDE, 3, dtype=torch.uint8)
    path = write_set(tmp_path / "set", images, [*NAMES[:8], "ten", "eleven"])
    message = r"test images of digits have other classes .*: only digits has 8, 9; only .*eleven, "
    fails(message, digits, path)
    path = write_set(tmp_path / "turned", images, NAMES[::-1])
    fails("they come in another order", digits, path)


def test_an_observer_of_other_classes(digits: Digits, digits_set: Path, tmp_path: Path) -> None:
    for number, (classes, message) in enumerate(
        [(json.dumps(list("abcdefghij")), "does not know the classes 0, 1, 2 and 7 more"),
         ("", "the observer has 7 classes, but .* has 10")]
    ):  # fmt: skip
        model = build_model(ARCH, num_classes=10 if classes else 7, side=SIDE)
        path = tmp_path / f"{number}.safetensors"
        save_weights(model, path, {"arch": ARCH, "side": str(SIDE), "classes": classes})
        fails(message, digits, digits_set, observer=str(path))


def test_an_observer_of_another_side(digits: Digits, digits_set: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_weights(build_model(ARCH, num_classes=10, side=16), path, {"arch": ARCH})
    fails("8×8 images", digits, digits_set, observer=str(path))


def test_sources_that_cannot_be_used(digits: Digits, digits_set: Path, tmp_path: Path) -> None:
    fails("no such source", digits, digits_set, source=str(tmp_path / "nowhere"))
    for name in NAMES:
        folder = tmp_path / "flat" / name
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes((digits_set / "images/00000/00000.png").read_bytes())
    message = "flat: no test split; name real images that have one with --source"
    fails(message, digits, digits_set, source=str(tmp_path / "flat"))
    file = digits_set / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["source"]
    file.write_text(json.dumps(manifest))
    fails("does not say what it was distilled from", digits, digits_set)


def test_a_folder_that_is_no_set(digits: Digits, tmp_path: Path) -> None:
    fails("holds no images", digits, tmp_path)


def test_results_that_cannot_be_written(digits: Digits, digits_set: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails("results cannot be made, since", digits, digits_set, out=tmp_path / "file" / "results")


def test_an_unknown_student(digits: Digits, digits_set: Path) -> None:
    fails("unknown architecture 'convnot'", digits, digits_set, students=("convnot",))


def test_a_student_of_another_side_is_known_before_any_is_trained(
    digits: Digits, digits_set: Path
) -> None:
    message = "convnet4 .* the image side .* must be at least 16, got 8|4 blocks halve"
    fails(message, digits, digits_set, students=(ARCH, "convnet4"))
    assert not (digits_set / "results").exists()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"seeds": ()}, "seeds must hold at least one"),
    ({"seeds": (-1,)}, "seeds must be 0 to .*, got -1"),
    ({"seeds": (1, 1)}, "seeds must differ, got 1 1"),
    ({"eval_every": 0}, "eval_every must be at least 1, got 0"),
    ({"workers": 0}, "workers must be at least 1, got 0"),
    ({"full_steps": 0}, "full_steps must be at least 1, got 0"),
    ({"labels": ()}, "stored@SIZE, own, hard or published, got none"),
    ({"labels": ("hard", "hard")}, "labels must differ, got hard hard"),
    ({"students": ("a,b", "a")}, "students must differ, got a b a"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        EvaluateConfig(set=Path("set"), observer="observer", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"factor": 0}, "factor must be at least 1"),
    ],
)
def test_numbers_of_the_recipe_out_of_range(
    digits: Digits, digits_set: Path, changes: dict[str, Any], message: str
) -> None:
    fails(message, digits, digits_set, **changes)
    assert not (digits_set / "results").exists()


def test_mean_and_std_are_the_observers(digits: Digits) -> None:
    observer = load_observer(digits.observer)
    assert (observer.mean, observer.std) == (MEAN, STD)


def test_baselines_and_labels_and_students_in_one_table(digits: Digits, digits_set: Path) -> None:
    baselines = ("random", "herding", "k-centre", "full")
    result = evaluate_set(
        config(
            digits_set,
            digits,
            labels=("online", "hard"),
            baselines=baselines,
            students=("convnet2-w32,convnet1-w8",),
            seeds=(0, 1),
        )
    )
    images = ["distilled", *baselines]
    assert [(row.student, row.labels, row.images) for row in result.rows] == [
        (student, labels, source)
        for student in ("convnet2-w32", "convnet1-w8")
        for labels in ("online", "hard")
        for source in images
    ]
    total = len(open_source("digits"))
    assert [row.image_count for row in result.rows[:5]] == [50, 50, 50, 50, total]
    # As many steps as two epochs on the set would be one on all: no less than that is done.
    assert result.rows[4].recipe.epochs == 1
    assert result.path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    text = rendered(result)
    for word in (*images, "hard", "convnet1-w8"):
        assert word in text


def test_coresets_are_the_same_for_every_seed_and_random_images_are_not(
    digits: Digits, digits_set: Path
) -> None:
    observer = load_observer(digits.observer)
    source = open_source("digits")
    baselines = Baselines(source, 3, SIDE, observer=observer, workers=1)

    def drawn(name: str, seed: int) -> torch.Tensor:
        return baselines.images(name, seed).images

    for name in ("herding", "k-centre"):
        assert torch.equal(drawn(name, 0), drawn(name, 1))
        assert len(drawn(name, 0)) == 30
    assert not torch.equal(drawn("random", 0), drawn("random", 1))
    # A mean that herding stays near to: nearer than random images do.
    everything = load_split(source, SIDE, workers=1, device=torch.device("cpu"))
    mean = unit_features(observer, everything.images).mean(0)
    herded, random = (
        (unit_features(observer, drawn(name, 0)).mean(0) - mean).norm()
        for name in ("herding", "random")
    )
    assert herded < random


def unit_features(observer: Any, images: torch.Tensor) -> torch.Tensor:
    scaled = (images.permute(0, 3, 1, 2) / 255 - MEAN[0]) / STD[0]
    return torch.nn.functional.normalize(observer.features(scaled), dim=1)


def test_the_idc_recipe_trains_on_enlarged_cells(digits: Digits, digits_set: Path) -> None:
    file = digits_set / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "factor": 2}))
    (row,) = evaluate_set(config(digits_set, digits, recipe="idc", labels=("hard",), epochs=2)).rows
    assert (row.recipe.optimizer, row.recipe.factor, row.recipe.batch_size) == ("sgd", 2, 64)
    assert row.runs[0].steps == 2 * 4  # 200 cells of 50 images, 64 at a time


def test_hard_labels_need_no_observer(digits: Digits, digits_set: Path) -> None:
    how = config(
        digits_set, digits, observer=None, labels=("hard",), students=(ARCH,), epochs=60,
        baselines=("random",),
    )  # fmt: skip
    result = evaluate_set(how)
    assert result.facts["observer"] is None
    assert all(row.last_mean > 0.4 for row in result.rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "online labels need an observer: give --observer, or --labels hard, stored or own"),
        ({"labels": ("hard",)}, "name architectures to train with --students"),
        (
            {"labels": ("hard",), "students": (ARCH,), "baselines": ("herding",)},
            "herding and k-centre go by an observer's features",
        ),
    ],
)
def test_without_an_observer(
    digits: Digits, digits_set: Path, changes: dict[str, Any], message: str
) -> None:
    fails(message, digits, digits_set, observer=None, **changes)


def test_images_that_are_not_the_manifests(digits: Digits, digits_set: Path) -> None:
    next((digits_set / "images").glob("*/*.png")).write_bytes(b"other")
    fails("not those its manifest describes", digits, digits_set)


@pytest.mark.parametrize("layout", ["pydream", "rded"])
def test_results_among_the_class_folders_of_the_set(
    digits: Digits, digits_set: Path, tmp_path: Path, layout: str
) -> None:
    """Their charts would be the images of one more class."""
    place, classes = digits_set, digits_set / "images"
    if layout == "rded":
        place = classes = tmp_path / "exported.1"
        export_set(ExportConfig(digits_set, "rded", place))
    (tmp_path / "linked").symlink_to(classes)
    for out in (classes / "results", tmp_path / "linked" / "00001"):
        message = "is among the class folders .*: give another --out"
        fails(message, digits, place, out=out, source="digits")


def test_finished_students_are_taken_on_resume(
    digits: Digits, digits_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_set(config(digits_set, digits, seeds=(0,)))
    trained = []

    def watched(*arguments: Any, **settings: Any) -> Any:
        trained.append(settings["seed"])
        return train_student(*arguments, **settings)

    monkeypatch.setattr(evaluation, "train_student", watched)
    again = evaluate_set(config(digits_set, digits, seeds=(0, 1), resume=True))
    assert trained == [1]
    assert again.rows[0].runs[0] == first.rows[0].runs[0]
    evaluate_set(config(digits_set, digits, seeds=(0,), resume=True, learning_rate=0.01))
    evaluate_set(config(digits_set, digits, seeds=(0,)))
    assert trained == [1, 0, 0]  # other settings; and not asked to resume


def test_a_corrected_label_of_anothers_set_is_trained_on(digits: Digits, tmp_path: Path) -> None:
    file, labels = tmp_path / "images.pt", torch.arange(10).repeat_interleave(2)
    images = torch.rand(20, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"source": "digits", "labels": ("hard",), "students": (ARCH,)}
    how = config(file, digits, **settings, epochs=1, resume=True)

    def trained(labels: torch.Tensor) -> Any:
        torch.save([images, labels], file)
        (row,) = evaluate_set(how).rows
        return row.runs

    right = trained(labels)
    labels[2] = 0  # the last of its class or the first of the next: the images keep their order
    wrong = trained(labels)
    assert wrong[0].curve[0].loss != right[0].curve[0].loss
    assert trained(labels) == wrong
    labels[2] = 1
    assert trained(labels) == right
    labels[4] = 1
    assert trained(labels)[0].curve[0].loss not in (right[0].curve[0].loss, wrong[0].curve[0].loss)


def test_students_and_labels_follow_the_order_of_the_observers_outputs(
    digits: Digits, digits_set: Path, tmp_path: Path
) -> None:
    """Names of classes stand beside the weights in a file, and are not in their hash."""
    own, set_, file = load_set(digits_set), tmp_path / "set.pt", tmp_path / "observer.safetensors"
    torch.save([own.images.movedim(-1, 1) / 255, own.labels], set_)
    network = build_model("convnet2-w8", num_classes=10, side=SIDE)
    names = [str(digit) for digit in range(10)]
    given: dict[str, Any] = {"observer": str(file), "source": "digits", "resume": True}

    def evaluated() -> Any:
        return evaluate_set(config(set_, digits, seeds=(0,), **given)).rows[0].runs

    facts = {"arch": "convnet2-w8", "side": str(SIDE)}
    save_weights(network, file, {**facts, "classes": json.dumps(names)})
    first = evaluated()
    assert evaluated() == first
    labels = RelabelConfig(set=set_, observer=str(file), source="digits", epochs=2, device="cpu")
    relabel(labels)
    file.unlink()
    save_weights(network, file, {**facts, "classes": json.dumps(names[::-1])})
    assert evaluated() != first
    with pytest.raises(PydreamError, match="outputs"):
        relabel(labels)


@pytest.mark.parametrize(("whole", "damaged"), [("0.", "1."), ("}", ""), ('"run"', '"ran"')])
def test_a_damaged_file_of_a_finished_student_is_named(
    digits: Digits, digits_set: Path, whole: str, damaged: str
) -> None:
    evaluate_set(config(digits_set, digits, seeds=(0,)))
    (file,) = digits_set.rglob("students/*.json")
    head, found, rest = file.read_text().rpartition(whole)
    assert found
    file.write_text(head + damaged + rest)
    fails(
        rf"{file.name} cannot be read \(.*\): remove it",
        digits,
        digits_set,
        resume=True,
        seeds=(0,),
    )


@pytest.mark.parametrize("layout", ["tensors", "rded", "ddranking"])
def test_sets_in_the_layouts_of_others(
    digits: Digits, digits_set: Path, tmp_path: Path, layout: Layout
) -> None:
    arch = "convnet3"  # of width 128, as DD-Ranking has it
    model = build_model(arch, num_classes=10, side=SIDE)
    known = {"arch": arch, "side": str(SIDE), "mean": "0.3,0.3,0.3", "std": "0.3,0.3,0.3"}
    save_weights(model, tmp_path / "observer.safetensors", known)
    observer = str(tmp_path / "observer.safetensors") if layout == "ddranking" else None
    export_set(ExportConfig(digits_set, layout, tmp_path / "other", observer=observer))
    own = evaluate_set(config(digits_set, digits))
    place = tmp_path / "other" / ("images.pt" if layout == "tensors" else "")
    other = evaluate_set(config(place, digits, source="digits"))
    assert other.rows[0].runs[0].curve == own.rows[0].runs[0].curve
    assert other.path.parent == place.with_name(f"{place.stem}-results")


def test_soft_labels_of_anothers_set_are_trained_on(digits: Digits, tmp_path: Path) -> None:
    """Wrong hard labels and right soft ones: only students of the latter beat chance."""
    drawn = Baselines(open_source("digits"), PER_CLASS, SIDE, workers=1).images("random", 9)
    images = drawn.images.movedim(-1, 1) / 255
    soft = 9.0 * torch.eye(10)[drawn.labels]
    file = tmp_path / "images.pt"
    torch.save([images, (drawn.labels + 1) % 10], file)
    settings: dict[str, Any] = {
        "observer": None,
        "students": (ARCH,),
        "source": "digits",
        "epochs": 20,
        "labels": ("own", "hard"),
    }
    with pytest.raises(PydreamError, match="without soft labels; give --labels online, stored or"):
        evaluate_set(config(file, digits, **settings))
    torch.save(soft, tmp_path / "soft_labels.pt")
    own, hard = evaluate_set(config(file, digits, **settings)).rows
    assert (own.labels, own.recipe.temperature) == ("own", 1.0)
    chance = 0.1
    assert own.last_mean > 3 * chance > hard.last_mean
    kept = evaluate_set(config(file, digits, resume=True, **settings)).rows
    assert kept[0].runs == own.runs
    torch.save(soft.flip(0), tmp_path / "soft_labels.pt")  # the same images, other labels
    other = evaluate_set(config(file, digits, resume=True, **settings)).rows
    assert other[0].runs != own.runs
    assert other[1].runs == hard.runs
    settings |= {"epochs": 1, "temperature": 4.0}
    warm = evaluate_set(config(file, digits, **settings)).rows
    assert [row.recipe.temperature for row in warm] == [4.0, 1.0]


def test_the_table_fits_a_terminal(digits: Digits, digits_set: Path) -> None:
    result = evaluate_set(
        config(digits_set, digits, epochs=1, seeds=(0, 1), baselines=("k-centre",))
    )
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(result_table(result))
    text = console.export_text()
    assert "…" not in text
    for row in result.rows:
        line, published = [line for line in text.splitlines() if row.images in line.split()]
        assert line.split()[0] == "online"
        assert line.count("±") == 3
        assert published.split()[:3] == ["rded", "online", row.images]
        assert published.rstrip().endswith("best of the last fifth")
