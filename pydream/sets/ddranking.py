"""DD-Ranking (arXiv 2505.13300): its score, and its names of networks and settings.

Names and settings are those of its release 0.2.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pydream.errors import PydreamError
from pydream.formatting import count_words
from pydream.models import ConvNet
from pydream.sets.manifest import Manifest

_WIDTH = 128  # of all its ConvNets
_RESNETS = ("resnet18", "resnet34", "resnet50")
_SMALL_SIDES = (32, 64)  # sides for which its ResNets have the stem for small images
_DATASETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_LAYERS = re.compile(r"layers\.(conv|norm)\.(\d+)\.")
_LAYERS_OF_A_BLOCK = 4  # convolution, norm, ReLU, pool

LEARNING_RATE = 0.001
"""Learning rate in DD-Ranking's own evaluation of RDED."""


def label_robust_score(
    hard_real: float,
    hard_distilled: float,
    any_distilled: float,
    any_random: float,
    weight: float = 0.5,
) -> float:
    """Score a distilled set, discounting the effect of its labels alone (DD-Ranking's LRS).

    With the hard label recovery HLR = `hard_real` - `hard_distilled`, the improvement over random
    IOR = `any_distilled` - `any_random` and α = w·IOR - (1 - w)·HLR, the score is
    (e^α - e⁻¹) / (e - e⁻¹).

    Parameters
    ----------
    hard_real
        Accuracy of students trained on the full real set with hard labels, in [0, 1].
    hard_distilled
        Accuracy of students trained on the distilled set with hard labels.
    any_distilled
        Accuracy of students trained on the distilled set with the method's labels.
    any_random
        Accuracy of students trained on as many random real images with such labels.
    weight
        Weight of the improvement over random, w.

    Returns
    -------
    float
        The score, from 0 (α = -1) to 1 (α = 1); higher is better.

    Notes
    -----
    Release 0.2.0 of DD-Ranking applies this formula to percentages, for which it is not between 0
    and 1. Divide the accuracies that it prints by 100.

    Raises
    ------
    PydreamError
        If a number is outside [0, 1].
    """
    numbers = {
        "hard_real": hard_real,
        "hard_distilled": hard_distilled,
        "any_distilled": any_distilled,
        "any_random": any_random,
        "weight": weight,
    }
    for name, value in numbers.items():
        if not 0 <= value <= 1:
            raise PydreamError(f"{name} must be a fraction from 0 to 1, got {value}")
    recovery = hard_real - hard_distilled
    improvement = any_distilled - any_random
    alpha = weight * improvement - (1 - weight) * recovery
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True)
class Teacher:
    """A network in the form that DD-Ranking builds and loads.

    Attributes
    ----------
    model_name
        DD-Ranking's name of the architecture.
    use_torchvision
        True if DD-Ranking builds the network with torchvision.
    weights
        The state dict, by DD-Ranking's names.
    """

    model_name: str
    use_torchvision: bool
    weights: dict[str, Tensor]


def as_teacher(model: nn.Module, arch: str, side: int, order: Sequence[int]) -> Teacher:
    """Translate a network and its weights to DD-Ranking's names.

    Parameters
    ----------
    model
        Network with trained weights.
    arch
        Architecture, as for `pydream.models.build_model`.
    side
        Side of the images, in pixels.
    order
        Class of the model for each class of the teacher.

    Raises
    ------
    PydreamError
        If DD-Ranking has no such network.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    base = arch.removesuffix("-modified")
    if isinstance(model, ConvNet) and model.width == _WIDTH and model.norm != "none":
        name = f"ConvNet-{model.depth}" + ("-BN" if model.norm == "batch" else "")
        weights = {_LAYERS.sub(_in_sequence, key): tensor for key, tensor in weights.items()}
        head, use_torchvision = "classifier", False
    elif base in _RESNETS and (base != arch) == (side in _SMALL_SIDES):
        name, head, use_torchvision = f"ResNet-{base[6:]}-BN", "fc", True
    else:
        raise PydreamError(
            f"DD-Ranking has no network like {arch} for images of side {side}; give an observer "
            f"it has: a ConvNet of width {_WIDTH} with batch or instance norm, or "
            f"{', '.join(_RESNETS)} (-modified at sides {' and '.join(map(str, _SMALL_SIDES))})"
        )
    for key in (f"{head}.weight", f"{head}.bias"):
        weights[key] = weights[key][list(order)].clone()
    return Teacher(name, use_torchvision, weights)


def _in_sequence(found: re.Match[str]) -> str:
    """Return the name of a ConvNet's layer in one sequence of all layers."""
    return f"features.{int(found[2]) * _LAYERS_OF_A_BLOCK + (found[1] == 'norm')}."


def teacher_file(dataset: str, model_name: str) -> str:
    """Return the path of a teacher in DD-Ranking, relative to the working directory."""
    return f"teacher_models/{dataset}/{model_name}/ckpt_best.pt"


def dataset_name(description: str) -> str:
    """Return DD-Ranking's name for the source of a set, or the source's own."""
    name, _, _ = description.partition(":")
    return _DATASETS.get(name) or re.sub(r"[^\w.-]+", "-", description).strip("-.") or "images"


def one_ipc(manifest: Manifest, tool: str = "DD-Ranking") -> int:
    """Return the number of images of every class.

    Raises
    ------
    PydreamError
        If classes have different numbers, which the tool does not know.
    """
    if isinstance(manifest.images_per_class, int):
        return manifest.images_per_class
    raise PydreamError(
        f"{tool} takes sets with as many images of every class, and this one has "
        f"{count_words(manifest.images_per_class)}: export it --to tensors or --to rded"
    )


def settings(
    manifest: Manifest,
    teacher: Teacher,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Any]:
    """Return the configuration of DD-Ranking's evaluator of soft labels, as it evaluates RDED.

    Parameters
    ----------
    manifest
        Manifest of the distilled set.
    teacher
        Network that gives soft labels, and the architecture of students.
    mean, std
        Mean and standard deviation that the set's images, and so test images, are normalised with.

    Raises
    ------
    PydreamError
        If the classes have different numbers of images.
    """
    described = (manifest.source or {}).get("description", "")
    side, dataset = manifest.side, dataset_name(described)
    square = {"size": side}
    transforms = [
        {"name": "Resize", "args": {**square, "antialias": True}},
        {"name": "CenterCrop", "args": square},
        {"name": "ToTensor"},
        {"name": "Normalize", "args": {"mean": list(mean), "std": list(std)}},
    ]
    return {
        "dataset": dataset,
        "real_data_path": "./dataset",
        "ipc": one_ipc(manifest),
        "im_size": [side, side],
        "model_name": teacher.model_name,
        "stu_use_torchvision": teacher.use_torchvision,
        "tea_use_torchvision": teacher.use_torchvision,
        "teacher_dir": "./teacher_models",
        "teacher_model_names": [teacher.model_name],
        "data_aug_func": "cutmix",
        "aug_params": {"beta": 1.0},
        "use_zca": False,
        "use_aug_for_hard": False,
        # Random real images are then as the set's and as those of the test.
        "custom_train_trans": transforms,
        "custom_val_trans": transforms,
        "soft_label_mode": "M",
        "soft_label_criterion": "kl",
        "loss_fn_kwargs": {"temperature": 20.0, "scale_loss": False},
        "optimizer": "adamw",
        "lr_scheduler": "cosine",
        "weight_decay": 0.01,
        "num_eval": 5,
        "num_epochs": 300,
        "random_data_format": "image",  # release 0.2.0 fails with tensors
        "random_data_path": None,
        "eval_full_data": True,
        "num_workers": 4,
        "device": "cuda",
        "dist": False,
        "syn_batch_size": 100,
        "real_batch_size": 256,
        "save_path": "./results/scores.csv",
    }
