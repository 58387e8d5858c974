"""Evaluation of a distilled set: students trained on it from scratch and tested on real images."""

from __future__ import annotations

from itertools import groupby

from torch import nn

from pydream.data import Source
from pydream.devices import announce_device
from pydream.evaluate.config import EvaluateConfig
from pydream.evaluate.context import EvaluationContext, evaluation_facts, open_evaluation
from pydream.evaluate.plans import Plan, check_plans, eval_every, identity, settle_plans
from pydream.evaluate.results import EvaluationResult, EvaluationRow, StudentRun, write_results
from pydream.files import disk_errors
from pydream.students.labels import Targets, hard_targets, online_targets, own_targets
from pydream.students.train import train_student
from pydream.students.views import largest_batch
from pydream.torch_state import usual_torch_state


@usual_torch_state()
def evaluate_set(
    config: EvaluateConfig,
    *,
    train: Source | None = None,
    test: Source | None = None,
    observer: nn.Module | None = None,
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
        A classifier of normalised (B, 3, S, S) float32 images, if it is not a file;
        ``config.observer`` is then only its name, which must not be empty, and ``config.students``
        is required.

    Returns
    -------
    EvaluationResult
        For every student and kind of labels, a row for the set and a row for each baseline; also
        written to a new file, with a figure.

    Raises
    ------
    PydreamError
        If an input cannot be used.
    """
    context = open_evaluation(config, train, test, observer)
    check_plans(context)
    with disk_errors(context.folder):
        context.folder.mkdir(parents=True, exist_ok=True)
    announce_device(config.device)
    if context.observer is not None:
        context.observer.announce()
    rows = []
    for _, plans in groupby(settle_plans(context), key=lambda plan: plan.row):
        of_seeds = list(plans)
        runs = tuple(_run(context, plan) for plan in of_seeds)
        rows.append(_row(of_seeds[-1], runs))
    return write_results(context.folder, evaluation_facts(context), tuple(rows))


def _row(plan: Plan, runs: tuple[StudentRun, ...]) -> EvaluationRow:
    return EvaluationRow(
        plan.images, plan.labels, plan.student, len(plan.trained_on), plan.recipe, runs
    )


def _run(context: EvaluationContext, plan: Plan) -> StudentRun:
    """Return the measurements of a student, trained now or before."""
    known = identity(context, plan)
    run = context.finished.find(known)
    if run is None:
        run = _train(context, plan)
        context.finished.keep(known, run)
    return run


def _train(context: EvaluationContext, plan: Plan) -> StudentRun:
    targets, labelled_every = _targets(context, plan)
    trained = train_student(
        plan.trained_on.images.to(context.device),
        targets,
        context.test_images,
        plan.recipe,
        student=plan.student,
        num_classes=len(context.distilled.class_names),
        mean=context.mean,
        std=context.std,
        seed=plan.seed,
        eval_every=eval_every(context, plan),
        labelled_every=labelled_every,
        precision=context.precision,
        description=f"{plan.student}, {plan.images} images, {plan.labels} labels, seed {plan.seed}",
    )
    return StudentRun(
        plan.seed, trained.curve, trained.steps, trained.train_seconds, trained.test_seconds
    )


def _targets(context: EvaluationContext, plan: Plan) -> tuple[Targets, int]:
    """Return the source of the targets, and the number of epochs that share them."""
    recipe, device = plan.recipe, context.device
    if plan.labels == "hard":
        of_rows = plan.trained_on.labels.repeat(recipe.views_per_image).to(device)
        return hard_targets(of_rows, len(context.distilled.class_names)), 1
    if plan.labels == "stored":
        assert plan.stored is not None
        return plan.stored.targets(recipe.temperature, device), plan.stored.plan.every
    if plan.labels == "own":
        assert context.distilled.soft_labels is not None  # checked when the set was opened
        of_rows = context.distilled.soft_labels.repeat(recipe.views_per_image, 1).to(device)
        return own_targets(of_rows, recipe.temperature), 1
    assert context.observer is not None
    largest = largest_batch(len(plan.trained_on), recipe)
    return online_targets(context.observer, recipe.temperature, largest), 1
