"""An observer's labels of the views of a set, stored on disk by epoch."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pydream.durable import make_folder
from pydream.entry_types import (
    check_entries,
    is_mapping,
    is_number,
    is_positive,
    is_text,
    is_texts,
    is_whole,
    list_of,
    or_none,
    parse_json,
)
from pydream.errors import PydreamError, error_words
from pydream.files import disk_errors, write_whole
from pydream.formatting import bytes_of, size_words
from pydream.sets.distilled import DistilledSet
from pydream.students.config import Bits
from pydream.students.label_forms import LabelForm
from pydream.students.label_schedule import LabelSchedule, in_the_middle
from pydream.students.labels import Targets
from pydream.students.recipe import ResolvedRecipe
from pydream.students.views import MixedBatch
from pydream.versions import check_format

FORMAT_VERSION = 2
_BUDGET = "budget-"
_SEED = re.compile(r"seed-(\d+)")
_AGAIN = "; delete it, and give the same `pydream relabel` again"
# Settings that decide the views, and thus the observer's labels.
_VIEW_FIELDS = (
    "views",
    "batch_size",
    "factor",
    "crop_scale",
    "crop_ratio",
    "horizontal_flip",
    "mix",
    "mix_probability",
    "mix_concentration",
    "shuffle",
    "rand_augment",
    "operations",
    "batch_statistics",
    "combine",
)
MOST_EPOCHS = 100_000
"""Largest number of epochs with labels: each is looked for on the disk, in seconds for so many."""
_REQUIRED = {
    "images_sha256": is_text,
    "class_names": list_of(is_text),
    "observer": is_texts,
    "mean": list_of(is_number),
    "std": list_of(is_number),
    "views": is_mapping,
    "seed": is_whole,
    "epochs": lambda value: is_positive(value) and value <= MOST_EPOCHS,
    "every": is_positive,
    "top_k": or_none(is_positive),
    "temperature": lambda value: is_number(value) and value > 0,
}
_OTHERS = {
    "bits": lambda value: value in get_args(Bits),
    "hard_epochs": lambda value: value == 0 or is_positive(value),
    "further_observers": list_of(is_texts),
    "device": is_text,
}


def view_settings(recipe: ResolvedRecipe) -> dict[str, Any]:
    """Return the settings that decide the views of an epoch, ready for JSON."""
    known = recipe.as_known_before()
    settings = {name: known[name] for name in _VIEW_FIELDS if name in known}
    return dict(json.loads(json.dumps(settings)))


@dataclass(frozen=True)
class LabelPlan:
    """Description of stored labels: their views, their observer and their extent.

    Attributes
    ----------
    images_sha256
        SHA-256 of the set's image files.
    class_names
        Names of the classes, in the order of the columns.
    observer
        ``arch``, ``weights_sha256`` and ``precision``.
    mean, std
        Mean and standard deviation that the views were normalised with.
    views
        Settings of the views, from `view_settings`.
    seed
        Random seed of the views.
    epochs
        Number of epochs of the training.
    every
        Number of epochs that share views and labels.
    top_k
        Number of highest logits that are stored; None for all.
    temperature
        Temperature that the logits beyond `top_k` were divided by before they were summed.
    bits
        Bits of each logit.
    hard_epochs
        Number of epochs in the middle that take the classes as labels.
    further_observers
        The observers that labelled together with the first, described like it.
    device
        Type of the device that labels: the last bits of logits differ between types.
    """

    images_sha256: str
    class_names: list[str]
    observer: dict[str, str]
    mean: list[float]
    std: list[float]
    views: dict[str, Any]
    seed: int
    epochs: int
    every: int
    top_k: int | None
    temperature: float
    bits: Bits = 16
    hard_epochs: int = 0
    further_observers: list[dict[str, str]] = field(default_factory=list)
    device: str = "cpu"

    @property
    def form(self) -> LabelForm:
        """Form of the stored logits."""
        return LabelForm(self.top_k, self.bits)

    @property
    def schedule(self) -> LabelSchedule:
        """Schedule of the labels over the epochs."""
        return LabelSchedule(self.every, in_the_middle(self.hard_epochs, self.epochs))

    def stored_epochs(self) -> list[int]:
        """Return the epochs that have a file."""
        return self.schedule.stored(self.epochs)

    def form_facts(self) -> dict[str, int | None]:
        """Return what decides the size of the labels besides images and epochs, ready for JSON."""
        return {name: getattr(self, name) for name in ("every", "top_k", "bits", "hard_epochs")}

    def text(self) -> str:
        """Return the content of ``labels.json``."""
        content = {"format": FORMAT_VERSION, **dataclasses.asdict(self)}
        if not self.further_observers:
            del content["further_observers"]
        if self.device == "cpu":  # as in the files of versions that did not tell it
            del content["device"]
        return json.dumps(content, indent=2) + "\n"


def labels_folder(distilled: DistilledSet, seed: int, budget: int | None = None) -> Path:
    """Return the folder of the labels of one seed of a set, stored within a budget or without."""
    folder = distilled.beside("labels")
    if budget is not None:
        folder /= f"{_BUDGET}{size_words(budget)}"
    return folder / f"seed-{seed}"


def stored_seeds(distilled: DistilledSet) -> list[tuple[int, int | None]]:
    """Return the seeds that labels of a set were begun for, each with its budget or None."""
    folder = distilled.beside("labels")
    found: list[tuple[int, int | None]] = []
    for above in (folder, *sorted(folder.glob(f"{_BUDGET}*"))):
        budget = None
        if above != folder:
            try:
                budget = bytes_of(above.name, above.name.removeprefix(_BUDGET))
            except PydreamError:  # moved away under another name
                continue
        for file in sorted(above.glob("seed-*/labels.json")):
            if seed := _SEED.fullmatch(file.parent.name):
                found.append((int(seed[1]), budget))
    return found


def folder_bytes(folder: Path) -> int:
    """Return the size in bytes of the files of one seed."""
    return sum(file.stat().st_size for file in folder.iterdir())


def epoch_file(folder: Path, epoch: int) -> Path:
    """Return the file of one epoch."""
    return folder / f"epoch-{epoch:05d}.safetensors"


def write_plan(folder: Path, plan: LabelPlan) -> None:
    """Write ``labels.json``, or check that the existing one has the same plan.

    Raises
    ------
    PydreamError
        If labels of another plan exist, or the folder cannot be written.
    """
    file = folder / "labels.json"
    if file.exists():
        different = differences(dataclasses.asdict(_read(file)), dataclasses.asdict(plan))
        if different:
            raise PydreamError(
                f"{folder} holds labels of other settings ({different}); move it away first"
            )
        return
    with disk_errors(folder):
        make_folder(folder)
    write_whole(file, plan.text().encode())


def write_epoch(file: Path, logits: torch.Tensor, form: LabelForm, temperature: float) -> None:
    """Store the logits of the views of one epoch atomically.

    Parameters
    ----------
    file
        File of the epoch, from `epoch_file`.
    logits
        (R, K) float32, in the order of the set's rows.
    form
        Form to store them in.
    temperature
        Temperature that logits are divided by.

    Raises
    ------
    PydreamError
        If a logit is not a number that float16 holds, or the file cannot be written.
    """
    if not logits.half().isfinite().all():
        raise PydreamError(
            f"{file.stem}: the observer gives logits that are not numbers, or too large for "
            "float16; check its weights, and the mean and std of its images"
        )
    write_whole(file, save(form.encode(logits, temperature)))


class StoredLabels:
    """Labels stored by `pydream relabel`, opened for a set and a recipe.

    Parameters
    ----------
    distilled
        The set.
    seed
        Random seed of the views.
    budget
        Budget in bytes that the labels were stored within, if any.

    Raises
    ------
    PydreamError
        If there are no labels, some are missing, or their format is newer.
    """

    def __init__(self, distilled: DistilledSet, seed: int, budget: int | None = None) -> None:
        self._distilled = distilled
        self.folder = labels_folder(distilled, seed, budget)
        file = self.folder / "labels.json"
        if not file.is_file():
            within = "" if budget is None else f" within {size_words(budget)}"
            options = f" --seeds {seed}" if seed else ""
            options += "" if budget is None else f" --budget {size_words(budget)}"
            raise PydreamError(
                f"{distilled.path} has no stored labels of seed {seed}{within}: make them by "
                f"`pydream relabel{options}`, or give --labels online"
            )
        self.plan = _read(file)
        missing = [e for e in self.plan.stored_epochs() if not epoch_file(self.folder, e).exists()]
        if missing:
            raise PydreamError(
                f"{self.folder} is not finished, {len(missing)} epochs are missing: give the same "
                "`pydream relabel` again"
            )

    def check(self, recipe: ResolvedRecipe, mean: Sequence[float], std: Sequence[float]) -> None:
        """Raise PydreamError unless the labels match the set's images and a recipe's views."""
        plan = self.plan
        if plan.images_sha256 != self._distilled.images_sha256:
            raise PydreamError(f"{self.folder} holds labels of other images than the set's")
        if tuple(plan.class_names) != self._distilled.class_names:
            raise PydreamError(f"{self.folder} holds labels of other classes than the set's")
        different = differences(
            {**plan.views, "mean": plan.mean, "std": plan.std},
            {**view_settings(recipe), "mean": list(mean), "std": list(std)},
        )
        softened = plan.top_k is not None or recipe.combine == "log-probabilities"
        if softened and plan.temperature != recipe.temperature:
            different = f"temperature {plan.temperature:g}, not {recipe.temperature:g}"
        if different:
            raise PydreamError(
                f"{self.folder} holds labels of other views: {different}; give these settings, or "
                "relabel"
            )
        if recipe.compares_logits and (plan.top_k is not None or plan.hard_epochs):
            raise PydreamError(
                f"{self.folder} does not hold all logits of all epochs, which recipe {recipe.name} "
                "compares: relabel without --top-k and --hard-epochs, or give --loss kl"
            )
        if recipe.epochs > plan.epochs or (plan.hard_epochs and recipe.epochs < plan.epochs):
            raise PydreamError(
                f"{self.folder} holds labels of {plan.epochs} epochs, not of {recipe.epochs}; give "
                f"--epochs {plan.epochs}, or relabel"
            )

    def targets(
        self, temperature: float | None, device: torch.device, hard: Targets | None = None
    ) -> Targets:
        """Return the function that gives the class probabilities of a batch, (B, K) float32.

        Parameters
        ----------
        temperature
            Temperature that the logits are divided by before the softmax; None for logits.
        device
            Device of the batches.
        hard
            Function that gives those of the epochs whose labels are the classes.
        """
        held: dict[int, Mapping[str, torch.Tensor]] = {}
        classes, form = len(self.plan.class_names), self.plan.form
        of_classes = self.plan.schedule.hard

        def targets(batch: MixedBatch) -> torch.Tensor:
            if batch.epoch in of_classes:
                assert hard is not None
                return hard(batch)
            if batch.epoch not in held:
                held.clear()
                held[batch.epoch] = self._load(batch.epoch, device)
            rows = {name: tensor[batch.rows] for name, tensor in held[batch.epoch].items()}
            if temperature is None:
                return form.logits(rows, classes)
            return form.probabilities(rows, classes, temperature)

        return targets

    def nbytes(self) -> int:
        """Return the size of the files in bytes."""
        return folder_bytes(self.folder)

    def _load(self, epoch: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Read the labels of an epoch.

        Raises
        ------
        PydreamError
            If the file is damaged, or holds something else.
        """
        file = epoch_file(self.folder, epoch)
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise PydreamError(f"{file}: cannot be read: {error}{_AGAIN}") from error
        wrong = self._wrong(tensors)
        if wrong:
            raise PydreamError(f"{file}: {wrong}{_AGAIN}")
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    def _wrong(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """Describe what is wrong with the tensors of an epoch."""
        form, classes = self.plan.form, len(self.plan.class_names)
        rows = max((len(tensor) for tensor in tensors.values() if tensor.dim()), default=0)
        if rows == 0 or rows % len(self._distilled.stored):
            return f"holds {rows} rows, for a set of {len(self._distilled.stored)} images"
        wanted = {name: one.shape for name, one in form.layout(rows, classes).items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != wanted:
            return f"holds tensors {found}, not {wanted}"
        others = tensors.get("others", torch.zeros(1))  # -inf where no class is left
        numbers = [tensor for name, tensor in tensors.items() if name != "others"]
        if not (all(one.isfinite().all() for one in numbers) and (others < torch.inf).all()):
            return "holds labels that are not numbers"
        kept = tensors.get("classes", torch.zeros(1))
        if kept.min() < 0 or kept.max() >= classes:
            return "names classes that the set does not have"
        return None


def differences(have: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Describe the settings that differ: ``name have, not wanted; …``."""
    parts = []
    for name in {**wanted, **have}:
        one, other = have.get(name), wanted.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            parts += [differences(one, other)] if one != other else []
        elif one != other:
            parts.append(f"{name} {one}, not {other}")
    return "; ".join(parts)


def _read(file: Path) -> LabelPlan:
    """Read ``labels.json``; plans of the first format have no bits and no hard epochs."""
    try:
        content = dict(parse_json(file.read_bytes()))
        version = int(content.pop("format"))
        check_format(file, version, FORMAT_VERSION)
        check_entries(content, _REQUIRED, _OTHERS)
        return LabelPlan(**content)
    except (ArithmeticError, ValueError, KeyError, TypeError) as error:
        raise PydreamError(
            f"{file}: not what `pydream relabel` writes ({error_words(error)})"
        ) from error
