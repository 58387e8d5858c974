"""An observer's labels of the views of a set, stored on disk by epoch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pydream.errors import PydreamError
from pydream.files import disk_errors, write_whole
from pydream.sets.distilled import DistilledSet
from pydream.students.labels import Targets
from pydream.students.recipe import ResolvedRecipe
from pydream.students.views import MixedBatch
from pydream.versions import check_format

FORMAT_VERSION = 1
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
)


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
        Epochs 0, every, 2·every, … below this number are stored.
    every
        Number of epochs that share views and labels.
    top_k
        Number of highest logits that are stored; None for all.
    temperature
        Temperature that the logits beyond `top_k` were divided by before they were summed.
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

    def stored_epochs(self) -> range:
        """Return the epochs that have a file."""
        return range(0, self.epochs, self.every)


def labels_folder(distilled: DistilledSet, seed: int) -> Path:
    """Return the folder of the labels of one seed of a set."""
    return distilled.beside("labels") / f"seed-{seed}"


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
    content = {"format": FORMAT_VERSION, **dataclasses.asdict(plan)}
    if file.exists():
        different = differences(_read(file), content)
        if different:
            raise PydreamError(
                f"{folder} holds labels of other settings ({different}); move it away first"
            )
        return
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, (json.dumps(content, indent=2) + "\n").encode())


def write_epoch(file: Path, logits: torch.Tensor, top_k: int | None, temperature: float) -> None:
    """Store the logits of the views of one epoch atomically.

    Parameters
    ----------
    file
        File of the epoch, from `epoch_file`.
    logits
        (R, K) float32, in the order of the set's rows.
    top_k
        Number of classes to store of each row. For the others, the logarithm of their summed
        exponentials at the temperature is stored, and readers divide it evenly among them.
    temperature
        Temperature that logits are divided by.
    """
    tensors = {"logits": logits.half()}
    if top_k is not None:
        highest = logits.topk(top_k, dim=1)
        others = logits.scatter(1, highest.indices, -torch.inf) / temperature
        tensors = {
            "logits": highest.values.half(),
            "classes": highest.indices.to(torch.int32),
            "others": torch.logsumexp(others, dim=1),
        }
    write_whole(file, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


class StoredLabels:
    """Labels stored by `pydream relabel`, opened for a set and a recipe.

    Parameters
    ----------
    distilled
        The set.
    seed
        Random seed of the views.

    Raises
    ------
    PydreamError
        If there are no labels, some are missing, or their format is newer.
    """

    def __init__(self, distilled: DistilledSet, seed: int) -> None:
        self._distilled = distilled
        self.folder = labels_folder(distilled, seed)
        file = self.folder / "labels.json"
        if not file.is_file():
            raise PydreamError(
                f"{distilled.path} has no stored labels of seed {seed}: make them by `pydream "
                "relabel`, or give --labels online"
            )
        content = _read(file)
        check_format(file, content["format"], FORMAT_VERSION)
        self.plan = LabelPlan(**{k: v for k, v in content.items() if k != "format"})
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
        if plan.top_k is not None and plan.temperature != recipe.temperature:
            different = f"temperature {plan.temperature:g}, not {recipe.temperature:g}"
        if different:
            raise PydreamError(
                f"{self.folder} holds labels of other views: {different}; give these settings, or "
                "relabel"
            )
        if recipe.epochs > plan.epochs:
            raise PydreamError(
                f"{self.folder} holds labels of {plan.epochs} epochs, not of {recipe.epochs}; give "
                f"--epochs {plan.epochs}, or relabel"
            )

    def targets(self, temperature: float, device: torch.device) -> Targets:
        """Return the function that gives the class probabilities of a batch, (B, K) float32."""
        held: dict[int, Mapping[str, torch.Tensor]] = {}
        classes = len(self.plan.class_names)

        def targets(batch: MixedBatch) -> torch.Tensor:
            if batch.epoch not in held:
                held.clear()
                held[batch.epoch] = self._load(batch.epoch, device)
            rows = {name: tensor[batch.rows] for name, tensor in held[batch.epoch].items()}
            return probabilities(rows, classes, temperature)

        return targets

    def nbytes(self) -> int:
        """Return the size of the files in bytes."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def _load(self, epoch: int, device: torch.device) -> dict[str, torch.Tensor]:
        file = epoch_file(self.folder, epoch)
        try:
            return {name: tensor.to(device) for name, tensor in load_file(file).items()}
        except (SafetensorError, OSError) as error:
            raise PydreamError(f"{file}: cannot be read: {error}") from error


def probabilities(
    stored: Mapping[str, torch.Tensor], num_classes: int, temperature: float
) -> torch.Tensor:
    """Return the class probabilities, (B, K) float32, of some rows stored by `write_epoch`."""
    logits = stored["logits"].float() / temperature
    if "classes" not in stored:
        return torch.softmax(logits, dim=1)
    kept = logits.shape[1]
    shares = torch.softmax(torch.cat([logits, stored["others"][:, None]], dim=1), dim=1)
    even = shares[:, kept:] / max(num_classes - kept, 1)
    return even.repeat(1, num_classes).scatter(1, stored["classes"].long(), shares[:, :kept])


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


def _read(file: Path) -> dict[str, Any]:
    try:
        content = dict(json.loads(file.read_text()))
        content["format"] = int(content["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise PydreamError(f"{file}: not what `pydream relabel` writes ({error!r})") from error
    return content
