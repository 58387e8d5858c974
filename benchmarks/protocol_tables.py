"""The tables of docs/protocols.md: the recipes as data, and one set under each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydream.students.recipe_tables import Recipe
from pydream.students.recipes import RECIPES

RECORD = "protocols"
_EVIDENCE = {"code": "the authors’ code", "notes": "notes of others"}
_VIEWS = {
    "dsa": "each cell enlarged, DSA",
    "random-cell": "a cell enlarged with p 1 − 1/f², else the image; DSA",
    "whole": "DSA",
}
_SCHEDULES = {"half-cosine": "cosine, ζ = 2", "cosine": "cosine, ζ = 1"}


def recipes_table() -> str:
    """Lay out every recipe, and its source."""
    head = "| recipe | epochs | batch | optimiser | schedule | views | labels and loss | reported |"
    lines = ["", head, "|---|---|---|---|---|---|---|---|"]
    lines += [_line(recipe) for recipe in RECIPES.values()]
    lines += [
        "",
        "| recipe | source | read in | where the code does otherwise |",
        "|---|---|---|---|",
    ]
    for recipe in RECIPES.values():
        cells = (recipe.source, _EVIDENCE[recipe.evidence], recipe.remarks)
        lines.append(f"| `{recipe.name}` | {' | '.join(cells)} |")
    return "\n".join(lines).replace("'", "’") + "\n\n"


def _line(recipe: Recipe) -> str:
    cells = (
        _epochs(recipe),
        _batch(recipe),
        _optimizer(recipe),
        _schedule(recipe),
        _views(recipe),
        _loss(recipe),
        recipe.reported,
    )
    return f"| `{recipe.name}` | {' | '.join(cells)} |"


def _epochs(recipe: Recipe) -> str:
    others = {case.epochs for case in recipe.special_cases if case.epochs is not None}
    return f"{recipe.epochs}, or {others.pop()} by image set" if others else str(recipe.epochs)


def _batch(recipe: Recipe) -> str:
    sizes = {*recipe.batch_sizes.values()} | {*recipe.batch_limits.values()}
    sizes |= {case.batch_size for case in recipe.special_cases if case.batch_size is not None}
    if len(sizes) == 1:
        return str(sizes.pop())
    by = "images" if recipe.batch_limits else "IPC and image set"
    return f"{min(sizes)} to {max(sizes)}, by {by}"


def _optimizer(recipe: Recipe) -> str:
    rate = "learned rate" if recipe.learning_rate is None else f"{recipe.learning_rate:g}"
    if recipe.optimizer == "sgd":
        return f"SGD {rate}, momentum {recipe.momentum:g}, decay {recipe.weight_decay:g}"
    if recipe.weight_decay == 0:
        return f"Adam {rate}"
    decayed = " of all weights" if recipe.decayed == "all" else ""
    return f"AdamW {rate}, decay {recipe.weight_decay:g}{decayed}"


def _schedule(recipe: Recipe) -> str:
    if recipe.schedule == "steps":
        places = " and ".join(f"{share:.1%}" for share in recipe.falls)
        return f"× {recipe.fall_factor:g} at {places}"
    others = [case for case in recipe.special_cases if case.schedule is not None]
    words = [_SCHEDULES[recipe.schedule]]
    for case in others:
        where = case.student or f"IPC from {math.ceil((case.per_class or (0, 0))[0])}"
        words.append(f"{_SCHEDULES[str(case.schedule)].removeprefix('cosine, ')} for {where}")
    return "; ".join(words)


def _views(recipe: Recipe) -> str:
    words = [_VIEWS.get(recipe.views, "")]
    if recipe.views == "crop" and recipe.crop_scale == (1.0, 1.0):
        words = ["whole images"]
    elif recipe.views == "crop":
        low, high = recipe.crop_scale or (0.0, 1.0)
        least = f"{low:g}" if low else "1/f"
        cases = [case.crop_scale[0] for case in recipe.special_cases if case.crop_scale]
        if cases:
            least = f"{min(cases):g} to {max(cases):g}"
        words = ["shuffled patches"] if recipe.shuffle else []
        operations, magnitude = recipe.rand_augment
        words += [f"RandAugment m{magnitude} n{operations}"] if operations else []
        words += [f"crops of ({least}, {high:g})", "flip"]
    if recipe.operations == "one":
        words = ["one operation of DSA for a batch"]
    mixed = "" if recipe.mix_probability == 1 else f" p {recipe.mix_probability:g}"
    words += ["CutMix" + mixed] if recipe.mix_probability else []
    if recipe.mix_probability and not recipe.mixes_hard:
        words[-1] += " (not for hard labels)"
    return ", ".join(words)


def _loss(recipe: Recipe) -> str:
    if recipe.labels == "hard":
        return "hard, cross-entropy"
    temperature = f"{recipe.mixes[recipe.mix].temperature:g}"
    loss = {
        "kl": f"KL, T = {temperature}",
        "kl-t2": f"KL · T², T = {temperature}",
        "mse": "MSE of logits",
    }[recipe.loss]
    if recipe.hard_weight:
        loss += f" + {recipe.hard_weight:g} · CE"
    observers = f"{recipe.least_observers} observers (mean of {recipe.combine})"
    words = [observers if recipe.least_observers > 1 else "observer", loss]
    words += ["its batch norms over the batch"] if recipe.batch_statistics else []
    words += [f"weights averaged ({recipe.ema_decay:g})"] if recipe.ema_decay else []
    return ", ".join(words)


def protocols_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Lay out one set under each recipe, from the newest record."""
    found = [record for record in records if record["name"] == RECORD]
    if not found:
        return "\nNothing has been measured yet.\n\n"
    record = max(found, key=lambda one: str(one["date"]))
    results = record["results"]
    first = next(iter(results.values()))
    seeds = len(first["seeds"])
    lines = [
        "",
        f"{first['set']}; {first['student']}, {first['test_images']:,} test images, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}, "
        f"{first['share']:.0%} of the published epochs "
        f"({record['machine']['processor']}, {record['machine']['cores']} cores):",
        "",
        "| recipe | labels | epochs | steps | last | best | as published | otherwise |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        cells = (
            row["labels"],
            str(row["epochs"]),
            f"{row['steps']:,}",
            *(_percent(row[kind]) for kind in ("last", "best", "reported")),
            row["otherwise"],
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def _percent(values: Mapping[str, Any]) -> str:
    deviation = "" if values["std"] is None else f" ± {100 * values['std']:.1f}"
    return f"{100 * values['mean']:.1f}{deviation} %"
