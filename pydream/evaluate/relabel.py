"""Labels stored once, so that students train without the observer on the same views."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pydream.data import open_source
from pydream.devices import announce_device, resolve_device
from pydream.durable import make_folder
from pydream.errors import PydreamError
from pydream.evaluate.config import RelabelConfig
from pydream.evaluate.label_budget import EVIDENCE, expected_loss, form_words, within
from pydream.evaluate.observers import Given, check_observers, open_observers
from pydream.files import check_place, disk_errors, locked, remove_leftovers, write_whole
from pydream.formatting import size_words
from pydream.models import Observer
from pydream.progress import say, shared_with, track
from pydream.ranks import Ranks, ranks_of
from pydream.sets.distilled import DistilledSet
from pydream.sets.opening import open_set
from pydream.students.config import with_views_of_set
from pydream.students.labels import labelling
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import recipe_named
from pydream.students.stored_labels import (
    MOST_EPOCHS,
    LabelPlan,
    StoredLabels,
    epoch_file,
    folder_bytes,
    labels_folder,
    stored_seeds,
    view_settings,
    write_epoch,
    write_plan,
)
from pydream.students.views import largest_batch, views
from pydream.torch_state import usual_torch_state
from pydream.versions import package_record


@dataclass(frozen=True)
class RelabelResult:
    """Result of `relabel`.

    Attributes
    ----------
    path
        The folder of the labels: in the folder of a set of pydream, or beside any other set.
    images_bytes, labels_bytes
        Size in bytes of the image files (of the pixels, if they are in a file of tensors), and of
        all stored labels.
    student_bytes
        Size in bytes of the labels of one student, the largest if several seeds were given.
    epochs
        Number of epochs of the training, for each seed.
    every, top_k, bits, hard_epochs
        The settings of these names, given or chosen.
    expected_loss
        Points of top-1 that the labels are expected to cost; None without a budget.
    """

    path: Path
    images_bytes: int
    labels_bytes: int
    student_bytes: int
    epochs: int
    every: int
    top_k: int | None
    bits: int
    hard_epochs: int
    expected_loss: float | None


@usual_torch_state()
def relabel(config: RelabelConfig, *, observer: Given = None) -> RelabelResult:
    """Store the observer's logits of every view that a student will be trained on.

    The views depend only on seed, epoch and row, so a student trained with ``labels="stored"`` sees
    the same views again. The manifest of a set of pydream records the size of its images and
    labels. An interrupted run continues when it is started again.

    Parameters
    ----------
    config
        The settings.
    observer
        A classifier of normalised (B, 3, S, S) float32 images, or several, if they are not files.

    Raises
    ------
    PydreamError
        If an input cannot be used, labels for other settings exist, or the budget does not hold one
        epoch of labels.

    Notes
    -----
    Under torchrun or srun all ranks call this alike, and each labels some of the epochs.
    """
    ranks = ranks_of(None)
    with shared_with(ranks), ranks.together():
        return _relabel(config, ranks, observer)


def _relabel(config: RelabelConfig, ranks: Ranks, given: Given) -> RelabelResult:
    names = None if config.source is None else open_source(config.source).class_names
    distilled = open_set(config, names)
    if distilled.manifest.whitening is not None:
        raise PydreamError(
            f"{distilled.path} was made of whitened images (ZCA), and observers see none: train on "
            "it by `pydream evaluate --labels hard`"
        )
    config = with_views_of_set(config, distilled.manifest.views)
    labels = distilled.beside("labels")
    check_place(labels, "copy the set to where it can be written to")
    device = resolve_device(config.device)
    observers = open_observers(config, distilled, given, config.precision, device)
    recipe = _recipe(config, distilled, observers)
    if recipe.batch_statistics:
        observers = tuple(observer.with_batch_statistics() for observer in observers)
    announce_device(config.device)
    for observer in observers:
        observer.announce()
    config = _fitted(config, distilled, observers, recipe)
    plans = [_plan(config, distilled, observers, recipe, seed) for seed in config.seeds]
    folders = [labels_folder(distilled, seed, config.budget_bytes) for seed in config.seeds]
    ranks.agree({"settings": [*map(dataclasses.asdict, plans)], "installation": package_record()})
    if ranks.first:
        with disk_errors(labels):
            make_folder(labels)
    with locked(labels) if ranks.first else nullcontext():
        if ranks.first:
            for leftover in labels.rglob(".*.beside"):  # of a killed process
                with disk_errors(leftover):
                    leftover.unlink()
            for folder, plan in zip(folders, plans, strict=True):
                write_plan(folder, plan)
        ranks.wait()
        _store(distilled, observers, recipe, [*zip(folders, plans, strict=True)], ranks)
        ranks.wait()
        if distilled.is_ours and ranks.first:
            _note_bytes(distilled)
        ranks.wait()
    return RelabelResult(
        path=labels,
        images_bytes=distilled.images_bytes,
        labels_bytes=distilled.labels_bytes,
        student_bytes=max(map(folder_bytes, folders)),
        epochs=recipe.epochs,
        every=plans[0].every,
        top_k=plans[0].top_k,
        bits=plans[0].bits,
        hard_epochs=plans[0].hard_epochs,
        expected_loss=None if config.budget is None else expected_loss(plans[0]),
    )


def _recipe(
    config: RelabelConfig, distilled: DistilledSet, observers: Sequence[Observer]
) -> ResolvedRecipe:
    """Resolve the recipe of the students; raise PydreamError if the settings do not fit it."""
    manifest, classes = distilled.manifest, len(distilled.class_names)
    if config.top_k is not None and config.top_k > classes:
        raise PydreamError(
            f"top_k must be at most the classes of the set, {classes}, got {config.top_k}"
        )
    recipe = resolve(
        recipe_named(config.recipe),
        student=config.student or observers[0].arch,
        num_images=len(distilled.stored),
        num_classes=classes,
        side=manifest.side,
        factor=config.factor if config.factor is not None else manifest.factor,
        overrides=config.overrides(),
        learned_rate=manifest.student_rate,
    )
    check_observers(recipe, len(observers))
    if recipe.epochs > MOST_EPOCHS:
        raise PydreamError(f"epochs must be at most {MOST_EPOCHS:,}, got {recipe.epochs}")
    if config.hard_epochs >= recipe.epochs:
        raise PydreamError(
            f"hard_epochs must be below the {recipe.epochs} epochs of the training, "
            f"got {config.hard_epochs}"
        )
    if recipe.compares_logits and (config.top_k is not None or config.hard_epochs):
        raise PydreamError(
            f"recipe {recipe.name} compares all logits of all epochs (loss {recipe.loss}): leave "
            "out --top-k and --hard-epochs, or give --loss kl here and to `pydream evaluate`"
        )
    return recipe


def _fitted(
    config: RelabelConfig,
    distilled: DistilledSet,
    observers: Sequence[Observer],
    recipe: ResolvedRecipe,
) -> RelabelConfig:
    """Choose what the settings leave to the budget, and say what was chosen."""
    if config.budget_bytes is None:
        return config
    chosen = within(
        _plan(config, distilled, observers, recipe, max(config.seeds)),
        len(distilled.stored) * recipe.views_per_image,
        config.budget_bytes,
        every=config.every is not None,
        top_k=config.top_k is not None or recipe.compares_logits,
        bits=config.bits is not None,
    )
    besides = ", besides what hard epochs cost" if chosen.hard_epochs else ""
    say(
        f"labels within {config.budget} for each student: {form_words(chosen)}; expected loss: "
        f"{expected_loss(chosen):.1f} points of top-1{besides} ({EVIDENCE})"
    )
    return dataclasses.replace(config, every=chosen.every, top_k=chosen.top_k, bits=chosen.bits)


def _plan(
    config: RelabelConfig,
    distilled: DistilledSet,
    observers: Sequence[Observer],
    recipe: ResolvedRecipe,
    seed: int,
) -> LabelPlan:
    observer = observers[0]
    return LabelPlan(
        images_sha256=distilled.images_sha256,
        class_names=list(distilled.class_names),
        observer={**observer.facts(), **observer.output_facts()},
        mean=list(observer.mean),
        std=list(observer.std),
        views=view_settings(recipe),
        seed=seed,
        epochs=recipe.epochs,
        every=config.every or 1,
        top_k=config.top_k,
        temperature=recipe.temperature,
        bits=config.bits or 16,
        hard_epochs=config.hard_epochs,
        further_observers=[_facts_beside(one, observer) for one in observers[1:]],
        device=observer.device.type,
    )


def _facts_beside(further: Observer, first: Observer) -> dict[str, str]:
    """Return the facts of a further observer, with its mean and std where they are others."""
    given = {"mean": further.mean, "std": further.std}
    own = {name: given[name] for name in given if given[name] != getattr(first, name)}
    facts = {**further.facts(), **further.output_facts()}
    return {**facts, **{name: " ".join(map(str, own[name])) for name in own}}


def _store(
    distilled: DistilledSet,
    observers: Sequence[Observer],
    recipe: ResolvedRecipe,
    plans: Sequence[tuple[Path, LabelPlan]],
    ranks: Ranks,
) -> None:
    """Store the epochs that are missing; each is made by one rank."""
    observer = observers[0]
    images = distilled.images.to(observer.device)
    temperature = None if recipe.compares_logits else recipe.temperature
    largest = largest_batch(len(images), recipe)
    label = labelling(observers, temperature, largest, combine=recipe.combine)
    rows = len(images) * recipe.views_per_image
    epochs = [(folder, plan, epoch) for folder, plan in plans for epoch in plan.stored_epochs()]
    total = len(epochs) if ranks.first else 0  # whichever rank makes them
    with track("labels", total, "epochs", divided=True) as advance:
        for number in ranks.take_turns(len(epochs)):
            folder, plan, epoch = epochs[number]
            file = epoch_file(folder, epoch)
            if not file.exists():
                logits = torch.empty(rows, observer.num_classes, device=observer.device)
                for batch in views(
                    images, epoch, plan.seed, recipe, mean=observer.mean, std=observer.std
                ):
                    logits[batch.rows] = label(batch.images)
                write_epoch(file, logits, plan.form, plan.temperature)
            advance(1, f"seed {plan.seed}" if len(plans) > 1 else "")


def _note_bytes(distilled: DistilledSet) -> None:
    """Record the stored labels in the manifest."""
    stored: dict[str, dict[str, Any]] = {}
    for seed, budget in stored_seeds(distilled):
        try:
            labels = StoredLabels(distilled, seed, budget)
        except PydreamError:  # of an unfinished run
            continue
        plan = labels.plan
        name = str(seed) if budget is None else f"{seed}@{size_words(budget)}"
        stored[name] = {
            "bytes": labels.nbytes(),
            "epochs": plan.epochs,
            **plan.form_facts(),
            "observer": plan.observer,
        }
    manifest = dataclasses.replace(
        distilled.manifest,
        labels_bytes=sum(entry["bytes"] for entry in stored.values()),
        labels=stored,
    )
    remove_leftovers(distilled.path, "manifest.json")
    write_whole(distilled.path / "manifest.json", manifest.as_text().encode())
