"""Training of a student from scratch on a few images in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pydream.allocator import keep_freed_memory
from pydream.arithmetic import repeatable_arithmetic_of
from pydream.data.resized import LabelledImages
from pydream.data_parallel import ALONE, DataParallel
from pydream.errors import PydreamError
from pydream.models import build_model
from pydream.models.first_layer import first_layer_in_float32
from pydream.progress import track
from pydream.seeds import own_random_numbers
from pydream.students.accuracy import measure_accuracy
from pydream.students.label_schedule import EVERY_EPOCH, LabelSchedule
from pydream.students.labels import Targets
from pydream.students.losses import loss_of
from pydream.students.recipe import ResolvedRecipe
from pydream.students.views import MixedBatch, steps_per_epoch, views
from pydream.timeline import each_in_stage, stage

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Checkpoint:
    """Measurement of a student after an epoch.

    Attributes
    ----------
    epoch
        Number of epochs done.
    loss
        Mean loss over the images of that epoch.
    top1, top5
        Shares of the test images.
    """

    epoch: int
    loss: float
    top1: float
    top5: float


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student, and the record of its training.

    Attributes
    ----------
    model
        The network that was measured, in training mode, on the device of the images: the student,
        or the moving average of its weights.
    curve
        The measurements, the last one after the last epoch.
    steps
        Number of training steps.
    train_seconds, test_seconds
        Time spent on training and on measurements.
    """

    model: nn.Module
    curve: tuple[Checkpoint, ...]
    steps: int
    train_seconds: float
    test_seconds: float


def train_student(
    images: torch.Tensor,
    targets: Targets,
    test: LabelledImages,
    recipe: ResolvedRecipe,
    *,
    student: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    eval_every: int,
    labels: torch.Tensor | None = None,
    schedule: LabelSchedule = EVERY_EPOCH,
    precision: str = "float32",
    description: str = "training",
    parallel: DataParallel = ALONE,
) -> TrainedStudent:
    """Train a student, and measure it between epochs.

    The initial weights, the views and the student's own draws (dropout) depend only on the seed;
    torch's generators do not change.

    Parameters
    ----------
    images
        (N, S, S, 3) uint8, or float32 if whitened, on the training device.
    targets
        Function that returns the targets of a batch.
    test
        Test images on the same device.
    recipe
        Training recipe.
    student
        Architecture, as for `build_model`.
    num_classes
        Number of logits.
    mean, std
        Mean and standard deviation to normalise with, three numbers each, for pixels in [0, 1].
    seed
        Random seed, in [0, 2^63).
    eval_every
        Number of epochs between measurements; the last epoch is always measured.
    labels
        (N,) int64, the classes of the images, on their device; only for a recipe that weighs them
        beside the observer.
    schedule
        Schedule of the labels: which epochs share views, and which take the classes as labels,
        compared at temperature 1.
    precision
        ``"float32"``, or ``"bfloat16"`` for mixed precision.
    description
        Text beside the progress bar.
    parallel
        The ranks that train this student together, if they are several.

    Raises
    ------
    PydreamError
        If the student cannot be built, has batch norm and would get a batch of one image, cannot be
        trained by these ranks, or the loss is no longer finite.
    """
    side, device = images.shape[1], images.device
    with own_random_numbers(seed, device), keep_freed_memory(), repeatable_arithmetic_of(precision):
        model = build_model(student, num_classes=num_classes, side=side)
        model = parallel.prepare(model, student, device)
        model = model.to(memory_format=torch.channels_last).to(device)
        _check_batches(model, student, len(images), recipe, parallel)
        network = parallel.wrap(model)
        optimizer = make_optimizer(model, recipe)
        averaged = _moving_average(model, recipe)
        measured = model if averaged is None else averaged.module
        classes = torch.zeros(len(images), dtype=torch.int64, device=device)
        trainer = _Trainer(
            model,
            network,
            optimizer,
            averaged,
            targets,
            (classes if labels is None else labels).repeat(recipe.views_per_image),
            precision,
            parallel,
        )
        curve: list[Checkpoint] = []
        train_seconds = test_seconds = 0.0
        with (
            first_layer_in_float32(model, device),
            parallel.own_draws(seed, device),
            track(description, recipe.epochs, "epochs") as advance,
        ):
            for epoch in range(recipe.epochs):
                start = time.perf_counter()
                made = views(images, schedule.shown(epoch), seed, recipe, mean=mean, std=std)
                batches = each_in_stage("views", made, device)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate_at(epoch)
                total = trainer.epoch(batches, schedule.recipe_in(epoch, recipe))
                loss = _finite(total / (len(images) * recipe.views_per_image), epoch, recipe)
                trained = time.perf_counter()
                train_seconds += trained - start
                if (epoch + 1) % eval_every == 0 or epoch + 1 == recipe.epochs:
                    with stage("test", device):
                        accuracy = measure_accuracy(
                            measured,
                            test,
                            mean=mean,
                            std=std,
                            precision=precision,
                            parallel=parallel,
                        )
                    curve.append(Checkpoint(epoch + 1, loss, accuracy.top1, accuracy.top5))
                    test_seconds += time.perf_counter() - trained
                advance(1)
    steps = recipe.epochs * steps_per_epoch(len(images), recipe)
    return TrainedStudent(measured, tuple(curve), steps, train_seconds, test_seconds)


@dataclass(frozen=True)
class _Trainer:
    """What the steps of a student's training have in common.

    Attributes
    ----------
    student, network, optimizer
        The student, the student as `DataParallel.wrap` returns it, and its optimiser.
    averaged
        The moving average of its weights, if it is measured.
    targets
        Function that returns the targets of a batch.
    classes
        (R,) int64, the classes of all rows that batches may name.
    precision, parallel
        The arguments of `train_student`.
    """

    student: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None
    targets: Targets
    classes: torch.Tensor
    precision: str
    parallel: DataParallel

    def epoch(self, batches: Iterable[MixedBatch], recipe: ResolvedRecipe) -> float:
        """Take one step per batch; return the sum of the losses of all images."""
        losses = [self._step(batch, recipe) * len(batch.rows) for batch in batches]
        return float(torch.stack(losses).sum())  # the only wait for the device in an epoch

    def _step(self, whole: MixedBatch, recipe: ResolvedRecipe) -> torch.Tensor:
        """Take a step; return the mean loss of the batch."""
        parallel = self.parallel
        batch, device = whole.part(parallel.part(len(whole.rows))), whole.images.device
        with stage("labels", device):
            wanted = self.targets(batch)
        with stage("forward", device):
            mixed_precision = self.precision == "bfloat16"
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                logits = self.network(batch.images)
            loss = loss_of(recipe, logits, wanted, self.classes[batch.rows])
            loss, mean = parallel.mean(loss, len(batch.rows))
        with stage("backward", device):
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        with stage("optimiser", device):
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.student)
        return mean


def _moving_average(model: nn.Module, recipe: ResolvedRecipe) -> AveragedModel | None:
    """Return a moving average of the weights that begins with those of now, if it is measured.

    Buffers, such as the statistics of batch norms, are those of the student.
    """
    if recipe.ema_decay == 0:
        return None
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
    averaged.update_parameters(model)  # the first update copies
    return averaged


def make_optimizer(model: nn.Module, recipe: ResolvedRecipe) -> torch.optim.Optimizer:
    """Make SGD, or AdamW with weight decay for the parameters that the recipe names."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
    least = 0 if recipe.decayed == "all" else 2
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.dim() >= least],
            "weight_decay": recipe.weight_decay,
        },
        {
            "params": [parameter for parameter in parameters if parameter.dim() < least],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


def _check_batches(
    model: nn.Module,
    student: str,
    num_images: int,
    recipe: ResolvedRecipe,
    parallel: DataParallel,
) -> None:
    """Refuse batches of one image for a student that normalises over the batch."""
    num_views = num_images * recipe.views_per_image
    smallest = num_views // steps_per_epoch(num_images, recipe)
    parallel.check_batch(smallest)
    if smallest > 1 or not any(isinstance(module, _BATCH_NORMS) for module in model.modules()):
        return
    raise PydreamError(
        f"{student} has batch norm, which cannot train on a batch of 1 image, and a batch size of "
        f"{recipe.batch_size} leaves such a batch of {num_views} images: give another batch size"
        if num_views > 1
        else f"{student} has batch norm, which cannot train on a set of 1 image"
    )


def _finite(loss: float, epoch: int, recipe: ResolvedRecipe) -> float:
    """Return the loss, unless training has failed."""
    if not math.isfinite(loss):
        raise PydreamError(
            f"the loss became {loss} in epoch {epoch + 1} of {recipe.epochs}; "
            f"give a learning rate below {recipe.learning_rate:g}"
        )
    return loss
