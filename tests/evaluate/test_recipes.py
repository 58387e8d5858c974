from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_digits import ARCH, Digits

from pydream import cli
from pydream.data_parallel import DataParallel
from pydream.errors import PydreamError
from pydream.evaluate import (
    EvaluateConfig,
    EvaluationResult,
    RelabelConfig,
    StudentRun,
    evaluate_set,
    relabel,
    result_table,
)
from pydream.evaluate.context import open_evaluation
from pydream.evaluate.plans import check_plans
from pydream.ranks import ranks_of
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import recipe_named
from pydream.students.train import Checkpoint


def config(path: Path, digits: Digits, **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(
        **{
            "set": path,
            "observer": str(digits.observer),
            "epochs": 2,
            "workers": 1,
            "recipes": ("rded", "cim", "dc"),
            **changes,
        }
    )


def rendered(result: EvaluationResult) -> str:
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(result_table(result))
    return console.export_text()


def changed_manifest(path: Path, **entries: Any) -> Path:
    file = path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    return path


def second_observer(digits: Digits, folder: Path) -> str:
    return str(shutil.copyfile(digits.observer, folder / "second.safetensors"))


def test_several_recipes_stand_in_one_table(digits: Digits, digits_set: Path) -> None:
    result = evaluate_set(
        config(digits_set, digits, labels=("published",), baselines=("random",), seeds=(0, 1))
    )
    rows = [(row.recipe.name, row.labels, row.images) for row in result.rows]
    assert rows == [
        *(("rded", "online", "distilled"), ("rded", "online", "random")),
        *(("cim", "online", "distilled"), ("cim", "online", "random")),
        *(("dc", "hard", "distilled"), ("dc", "hard", "random")),
    ]
    content = json.loads(result.path.read_text())
    losses = [row["recipe"]["loss"] for row in content["rows"]]
    assert losses == ["kl", "kl", "mse", "mse", "kl", "kl"]
    assert content["rows"][0]["reported"] == "best of the last fifth"
    table = rendered(result)
    assert max(map(len, table.splitlines())) <= 80
    for words in (
        "recipe",
        "as published:",
        "best of the last fifth",
        "best of 4 checks",
        "mean of 2",
    ):
        assert words in table
    page = result.path.with_suffix(".html").read_text()
    for row in result.rows:
        assert f"<td>{row.recipe.name}</td><td>{row.labels}</td><td>{row.images}</td>" in page
        assert f"{100 * row.reported_mean:.1f}" in page
    assert "://" not in page  # nothing is loaded from elsewhere


def test_a_recipe_beside_others_gives_what_it_gives_alone(digits: Digits, digits_set: Path) -> None:
    together = evaluate_set(config(digits_set, digits, recipes=("idc", "delt")))
    for row in together.rows:
        alone = evaluate_set(config(digits_set, digits, recipes=(), recipe=row.recipe.name))
        assert [run.curve for run in alone.rows[0].runs] == [run.curve for run in row.runs]
        assert alone.rows[0].recipe == row.recipe


def run_of(*top1: float) -> StudentRun:
    """A run of 100 epochs, measured every ten."""
    curve = [Checkpoint(10 * (n + 1), 0.0, value, value) for n, value in enumerate(top1)]
    return StudentRun(0, tuple(curve), 1, 0.0, 0.0)


def of_a_hundred_epochs(**changes: Any) -> ResolvedRecipe:
    shape: dict[str, Any] = {"num_images": 100, "num_classes": 10, "side": 32, "factor": 1}
    changes = {"epochs": 100, **changes}
    return resolve(recipe_named("rded"), student="convnet3", **shape, overrides=changes)


@pytest.mark.parametrize(
    ("share", "epoch"),
    [(0.0, 100), (0.05, 100), (0.2, 90), (0.3, 80), (0.35, 70), (1.0, 20)],
)
def test_what_is_reported_is_the_best_of_the_last_epochs(share: float, epoch: int) -> None:
    run = run_of(0.1, 0.9, 0.2, 0.3, 0.3, 0.5, 0.8, 0.7, 0.6, 0.4)
    recipe = of_a_hundred_epochs(best_of_last=share)
    assert run.reported(recipe).epoch == epoch
    # One check, as of a short run, is all there is.
    assert run_of(0.3).reported(recipe).epoch == 10


def test_the_rule_of_reporting_does_not_train_again(digits: Digits, digits_set: Path) -> None:
    first = evaluate_set(config(digits_set, digits, recipes=("rded",)))
    again = evaluate_set(
        config(digits_set, digits, recipes=("rded",), best_of_last=1.0, resume=True)
    )
    assert first.rows[0].runs == again.rows[0].runs  # with the seconds of the first
    assert again.rows[0].reported == "best of the last 100% of the epochs"


def test_several_observers_label_together(digits: Digits, digits_set: Path, tmp_path: Path) -> None:
    other = second_observer(digits, tmp_path)
    both = (str(digits.observer), other)
    asked: dict[str, Any] = {"recipes": ("edc",), "least_observers": 2}
    result = evaluate_set(config(digits_set, digits, observer=both, **asked))
    content = json.loads(result.path.read_text())
    assert [one["arch"] for one in content["further_observers"]] == [ARCH]
    # The mean of two of a kind is that of one.
    single = evaluate_set(config(digits_set, digits, recipes=("edc",), least_observers=1))
    assert single.rows[0].runs[0].last.top1 == result.rows[0].runs[0].last.top1
    with pytest.raises(PydreamError, match="takes the labels of 4 observers together, and 2 given"):
        evaluate_set(config(digits_set, digits, observer=both, recipes=("edc",)))


def test_a_learned_rate_comes_from_the_set(digits: Digits, digits_set: Path) -> None:
    with pytest.raises(PydreamError, match="the set records none: give --learning-rate"):
        evaluate_set(config(digits_set, digits, recipes=("mtt",), labels=("hard",)))
    changed_manifest(digits_set, student_rate=0.0123)
    result = evaluate_set(config(digits_set, digits, recipes=("mtt",), labels=("hard",)))
    assert result.rows[0].recipe.learning_rate == 0.0123


def test_hard_recipes_need_no_observer(
    digits: Digits, digits_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hard: dict[str, Any] = {"observer": None, "students": (ARCH,), "labels": ("published",)}
    result = evaluate_set(config(digits_set, digits, recipes=("dc", "dsa"), **hard))
    assert [row.labels for row in result.rows] == ["hard", "hard"]
    told = "recipe dc: its authors train on the classes, as --labels published does"
    assert told not in capsys.readouterr().err
    evaluate_set(config(digits_set, digits, recipes=("dc",)))
    assert told in capsys.readouterr().err
    with pytest.raises(PydreamError, match="online labels need an observer"):
        evaluate_set(config(digits_set, digits, recipes=("dc", "rded"), **hard))


def test_a_set_made_for_cells_is_seen_by_its_cells(
    digits: Digits, digits_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed_manifest(digits_set, views="dsa", factor=2)
    result = evaluate_set(config(digits_set, digits, recipes=("rded", "cim", "bps")))
    assert [row.recipe.views for row in result.rows] == ["dsa", "random-cell", "dsa"]


def test_labels_stored_for_another_recipe_are_refused(digits: Digits, digits_set: Path) -> None:
    relabel(RelabelConfig(set=digits_set, observer=str(digits.observer), epochs=2))
    stored: dict[str, Any] = {"labels": ("stored",)}
    evaluate_set(config(digits_set, digits, recipes=("rded",), **stored))
    message = (
        "holds labels of other views: .*crop_scale .*, not .*; give these settings, or relabel"
    )
    for name in ("delt", "sre2l"):
        with pytest.raises(PydreamError, match=message) as error:
            evaluate_set(config(digits_set, digits, recipes=(name,), **stored))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("loss", ["mse", "gift"])
def test_stored_labels_also_serve_recipes_that_compare_logits(
    digits: Digits, digits_set: Path, tmp_path: Path, loss: Any
) -> None:
    other = second_observer(digits, tmp_path)
    asked: dict[str, Any] = {"recipe": "edc", "epochs": 2, "loss": loss, "least_observers": 2}
    asked["observer"] = (str(digits.observer), other)
    relabel(RelabelConfig(set=digits_set, **asked))
    plan = json.loads((digits_set / "labels" / "seed-0" / "labels.json").read_text())
    assert [one["arch"] for one in plan["further_observers"]] == [ARCH]
    both = config(digits_set, digits, recipes=(), labels=("online", "stored"), **asked)
    online, stored = evaluate_set(both).rows
    # Labels kept in float16 change a loss by less than a hundredth.
    assert stored.runs[0].last.loss == pytest.approx(online.runs[0].last.loss, rel=0.01)


def test_recipes_that_compare_logits_need_all_of_them(digits: Digits, digits_set: Path) -> None:
    asked: dict[str, Any] = {"recipe": "cim", "epochs": 2}
    given: dict[str, Any] = {"set": digits_set, "observer": str(digits.observer), **asked}
    fewer_logits: tuple[dict[str, Any], ...] = ({"top_k": 3}, {"hard_epochs": 1})
    losses: tuple[Any, ...] = (None, "gift")
    for loss, fewer in itertools.product(losses, fewer_logits):
        message = f"recipe cim compares all logits .*loss {loss or 'mse'}.*--loss kl here and"
        with pytest.raises(PydreamError, match=message):
            relabel(RelabelConfig(**given, loss=loss, **fewer))
    assert not (digits_set / "labels").exists()
    relabel(RelabelConfig(**given, loss="kl", top_k=3))
    with pytest.raises(PydreamError, match=r"does not hold all logits .* or give --loss kl"):
        evaluate_set(config(digits_set, digits, recipes=(), labels=("stored",), **asked))
    kl = config(digits_set, digits, recipes=(), labels=("stored",), loss="kl", **asked)
    assert evaluate_set(kl).rows[0].recipe.loss == "kl"


def test_a_budget_keeps_all_logits_for_a_recipe_that_compares_them(
    digits: Digits, digits_set: Path
) -> None:
    """A budget that keeps one logit of each label under kl is too small for mse."""
    asked: dict[str, Any] = {"epochs": 4, "every": 1}
    given: dict[str, Any] = {"set": digits_set, "observer": str(digits.observer), **asked}
    assert relabel(RelabelConfig(**given, budget="3.4KB")).top_k == 1
    with pytest.raises(PydreamError, match=r"the least is .*all classes, 4 bits\); give --budget"):
        relabel(RelabelConfig(**given, budget="3.4KB", loss="mse"))
    assert relabel(RelabelConfig(**given, budget="8KB", loss="mse")).top_k is None
    how = config(digits_set, digits, recipes=(), labels=("stored@8KB",), loss="mse", epochs=4)
    assert evaluate_set(how).rows[0].recipe.loss == "mse"


def test_labels_of_batch_statistics_are_stored_and_taken(digits: Digits, digits_set: Path) -> None:
    asked: dict[str, Any] = {"recipe": "fadrm", "epochs": 2}
    relabel(RelabelConfig(set=digits_set, observer=str(digits.observer), **asked))
    of_both = config(digits_set, digits, recipes=(), labels=("online", "stored"), **asked)
    online, stored = evaluate_set(of_both).rows
    # Labels kept in float16 change a loss by less than a hundredth.
    assert stored.runs[0].last.loss == pytest.approx(online.runs[0].last.loss, rel=0.01)
    with pytest.raises(PydreamError, match="takes the labels of 4 observers together, and 1 given"):
        relabel(RelabelConfig(set=digits_set, observer=str(digits.observer), recipe="edc"))


def test_batch_statistics_are_not_divided_among_ranks(digits: Digits, digits_set: Path) -> None:
    class TwoRanks(DataParallel):
        count = 2

    cfg = config(digits_set, digits, recipes=("fadrm",))
    context = open_evaluation(cfg, ranks_of(None), None, None, None)
    with pytest.raises(PydreamError, match="fadrm labels whole batches: leave out --data-parallel"):
        check_plans(context, TwoRanks(ranks_of(None)))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"recipes": ("rded", "rdde")}, "there is no recipe 'rdde'; there are rded, idc, .*, mtt"),
    ({"recipes": (), "recipe": "nothing"}, "there is no recipe 'nothing'; there are rded"),
    ({"recipe": "idc"}, "--recipes takes the place of --recipe: give one of them"),
    ({"recipes": ("rded", "rded")}, "recipes must differ, got rded rded"),
    ({"observer": ("a.pt", "a.pt")}, "observer must differ, got a.pt a.pt"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_settings_that_contradict_are_refused(
    digits: Digits, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PydreamError, match=message):
        config(tmp_path, digits, **changes)


def test_the_command_line_lists_the_recipes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pydream", "evaluate", "set", "--recipes", "rded", "rdde"])
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--recipes takes rded, idc, cells, rd3, edc" in told
    assert "got 'rdde'" in told


def test_every_number_of_a_recipe_is_a_setting() -> None:
    numbers = {field.name for field in dataclasses.fields(ResolvedRecipe)} - {"name"}
    settings = {field.name for field in dataclasses.fields(EvaluateConfig)}
    assert numbers <= settings
