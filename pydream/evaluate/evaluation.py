"""Evaluation of a distilled set: students trained on it from scratch and tested on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from typing import NamedTuple

from torch import nn

from pydream.data import Source
from pydream.data_parallel import ALONE, DataParallel, data_parallel
from pydream.devices import announce_device
from pydream.durable import make_folder
from pydream.evaluate.config import EvaluateConfig
from pydream.evaluate.context import EvaluationContext, evaluation_facts, open_evaluation
from pydream.evaluate.plans import (
    Plan,
    Plans,
    StudentKey,
    check_plans,
    eval_every,
    identity,
    label_bytes,
    student_keys,
)
from pydream.evaluate.result_files import write_results
from pydream.evaluate.results import EvaluationResult, EvaluationRow, StudentRun
from pydream.files import disk_errors, remove_leftovers
from pydream.progress import Advance, say, shared_with, track
from pydream.ranks import Ranks, ranks_of
from pydream.students.label_schedule import EVERY_EPOCH, SMOOTHING, LabelSchedule
from pydream.students.labels import Targets, hard_targets, online_targets, own_targets
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipes import recipe_named
from pydream.students.train import train_student
from pydream.students.views import largest_batch
from pydream.torch_state import usual_torch_state


@usual_torch_state()
def evaluate_set(
    config: EvaluateConfig,
    *,
    train: Source | None = None,
    test: Source | None = None,
    observer: nn.Module | Sequence[nn.Module] | None = None,
) -> EvaluationResult:
    """Train students on a distilled set and on baselines; test them on real images.

    Parameters
    ----------
    config
        The settings.
    train
        Real training images for the baselines, if they are neither a file nor a known set.
    test
        Real test images, if they are neither a file nor a known set.
    observer
        A classifier of normalised (B, 3, S, S) float32 images, or several, if they are not files;
        ``config.observer`` then only names them, and must not be empty, and ``config.students`` is
        required.

    Returns
    -------
    EvaluationResult
        For every student, recipe and kind of labels, a row for the set and a row for each baseline;
        also written to a new file, with a page and a figure.

    Raises
    ------
    PydreamError
        If an input cannot be used.

    Notes
    -----
    Under torchrun or srun all ranks call this alike. Each trains students of its own, or with
    ``config.data_parallel`` its part of every batch, and all return the whole result.
    """
    ranks = ranks_of(None)
    with shared_with(ranks), ranks.together():
        return _evaluate(config, ranks, train, test, observer)


def _evaluate(
    config: EvaluateConfig,
    ranks: Ranks,
    train: Source | None,
    test: Source | None,
    observer: nn.Module | Sequence[nn.Module] | None,
) -> EvaluationResult:
    context = open_evaluation(config, ranks, train, test, observer)
    with ExitStack() as stack:
        parallel = ALONE
        if config.data_parallel:
            parallel = stack.enter_context(data_parallel(ranks, context.device))
        parameters = check_plans(context, parallel)
        with disk_errors(context.folder):
            make_folder(context.folder)
        if ranks.first:
            for folder in (context.folder, context.finished.folder):
                remove_leftovers(folder)
        announce_device(config.device)
        for one in context.observers:
            one.announce()
        _say_published_labels(config)
        if config.data_parallel and not ranks.connected:
            say("data-parallel: this is the only process; torchrun or srun starts several")
        ranks.agree(context.settings())
        if ranks.connected and not config.data_parallel:
            students = _share(context, parameters)
        else:
            students = _train_all(context, parallel)
    keys = student_keys(context)
    rows = [
        _row([(key, students[key]) for key in of_seeds])
        for _, of_seeds in groupby(keys, key=lambda key: key.row)
    ]
    return ranks.once(lambda: write_results(context.folder, evaluation_facts(context), tuple(rows)))


def _say_published_labels(config: EvaluateConfig) -> None:
    """Name the recipes that are published for the classes and take an observer's labels here."""
    for name in config.named_recipes:
        if recipe_named(name).labels == "hard" and "online" in config.labels_of(name):
            say(f"recipe {name}: its authors train on the classes, as --labels published does")


class _Student(NamedTuple):
    """A student that has been measured."""

    image_count: int
    recipe: ResolvedRecipe
    run: StudentRun
    label_bytes: int
    label_form: dict[str, int | None] | None


def _row(students: Sequence[tuple[StudentKey, _Student]]) -> EvaluationRow:
    """Put students that differ in their seed into a row."""
    key, last = students[-1]
    runs = tuple(student.run for _, student in students)
    return EvaluationRow(
        key.images,
        key.labels,
        key.student,
        last.image_count,
        last.recipe,
        runs,
        max(student.label_bytes for _, student in students),
        last.label_form,
    )


def _train_all(context: EvaluationContext, parallel: DataParallel) -> dict[StudentKey, _Student]:
    """Train one student after another; all baselines are made before."""
    plans = Plans(context)
    settled = [plans.settle(key) for key in student_keys(context)]
    return {plan.key: _student(context, plan, parallel) for plan in settled}


def _share(context: EvaluationContext, parameters: Mapping[str, int]) -> dict[StudentKey, _Student]:
    """Let every rank train students of its own, the longest first; return those of all ranks."""
    plans, ranks = Plans(context), context.ranks
    epochs, work = {}, {}
    for key in student_keys(context):
        epochs[key], views = plans.expected(key)
        work[key] = views * parameters[key.student]
    order = sorted(work, key=lambda key: -work[key])
    own = {}
    total = sum(epochs.values()) if ranks.first else 0  # whichever rank trains them
    with track("students", total, "epochs", divided=True) as advance:
        for number in ranks.take_turns(len(order)):
            plan = plans.settle(order[number])
            own[plan.key] = _student(context, plan, ALONE, advance)
    return {key: student for part in ranks.gather(own) for key, student in part.items()}


def _student(
    context: EvaluationContext,
    plan: Plan,
    parallel: DataParallel,
    advance: Advance | None = None,
) -> _Student:
    """Return the measurements of a student, trained now or before."""
    known = identity(context, plan)
    find = partial(context.finished.find, known)
    run = find() if parallel is ALONE else context.ranks.once(find)
    if run is None:
        run = _train(context, plan, parallel)
        if parallel.first:
            context.finished.keep(known, run)
    elif advance is not None:
        advance(plan.recipe.epochs)
    form = None if plan.stored is None else plan.stored.plan.form_facts()
    return _Student(len(plan.trained_on), plan.recipe, run, label_bytes(context, plan), form)


def _train(context: EvaluationContext, plan: Plan, parallel: DataParallel) -> StudentRun:
    key = plan.key
    targets, schedule = _targets(context, plan, parallel)
    trained = train_student(
        plan.trained_on.images.to(context.device),
        targets,
        context.test_images,
        plan.recipe,
        student=key.student,
        num_classes=len(context.distilled.class_names),
        mean=context.mean,
        std=context.std,
        seed=key.seed,
        eval_every=eval_every(context, plan),
        labels=plan.trained_on.labels.to(context.device),
        schedule=schedule,
        precision=context.precision,
        description=", ".join(
            [
                key.student,
                *([f"recipe {key.recipe}"] if context.config.recipes else []),
                f"{key.images} images",
                f"{key.labels} labels",
                f"seed {key.seed}",
            ]
        ),
        parallel=parallel,
    )
    return StudentRun(
        key.seed, trained.curve, trained.steps, trained.train_seconds, trained.test_seconds
    )


def _targets(
    context: EvaluationContext, plan: Plan, parallel: DataParallel
) -> tuple[Targets, LabelSchedule]:
    """Return the source of the targets, and their schedule over the epochs."""
    recipe, device = plan.recipe, context.device
    temperature = None if recipe.compares_logits else recipe.temperature
    classes = len(context.distilled.class_names)
    of_rows = plan.trained_on.labels.repeat(recipe.views_per_image).to(device)
    if plan.key.labels == "hard":
        return hard_targets(of_rows, classes), EVERY_EPOCH
    if plan.stored is not None:
        smoothed = hard_targets(of_rows, classes, SMOOTHING)
        return plan.stored.targets(temperature, device, smoothed), plan.stored.plan.schedule
    if plan.key.labels == "own":
        assert context.distilled.soft_labels is not None  # checked when the set was opened
        of_rows = context.distilled.soft_labels.repeat(recipe.views_per_image, 1).to(device)
        return own_targets(of_rows, temperature), EVERY_EPOCH
    observers = context.labelling_observers(recipe)
    largest = -(-largest_batch(len(plan.trained_on), recipe) // parallel.count)
    targets = online_targets(observers, temperature, largest, combine=recipe.combine)
    return targets, EVERY_EPOCH
