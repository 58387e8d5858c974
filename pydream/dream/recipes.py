"""Published numbers: of families of image sets, and of frameworks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Recipes of IDC give the learning rate for ten images per class.
_BASE_IPC = 10


@dataclass(frozen=True)
class Preset:
    """Published settings of IDC and DREAM+ for a family of image sets.

    Each has a name, which `recipe` gives.

    Sources: arXiv 2310.15052, section 4.1; IDC (Kim et al., ICML 2022).

    Attributes
    ----------
    arch
        Network that images are matched in.
    metric
        Distance between the quantities matched.
    learning_rate
        Learning rate of the images for ten images per class with sides of `base_side`; it grows in
        proportion to the number of images per class and to their area.
    base_side
        Side of the images that `learning_rate` is given for, in pixels.
    network_images
        Number of real images that the network is trained on after each matching step.
    batch_real
        Number of real images of each class in a matching step.
    iterations, inner_loop
        Number of networks, used one after another, and number of matching steps with each.
    many_classes
        Method of selecting representatives; see `pydream.dream.RepresentativeSampler`.
    flip
        True if a mirrored image still belongs to its class, unlike a digit.
    factor
        Number of cells along each side of a distilled image.
    """

    arch: str
    metric: str
    learning_rate: float
    base_side: int
    network_images: int
    batch_real: int = 128
    iterations: int = 1000
    inner_loop: int = 100
    many_classes: bool = False
    flip: bool = True
    factor: int = 2


PRESETS: Mapping[str, Preset] = {
    "cifar": Preset("convnet3-instance", "mse", 5e-3, 32, 2000),
    "svhn": Preset("convnet3-instance", "mse", 5e-3, 32, 500, flip=False),
    "mnist": Preset("convnet3-instance", "l1", 1e-4, 28, 500, flip=False),
    "tiny-imagenet": Preset(
        "convnet4-instance", "mse", 5e-3, 32, 1000, batch_real=64, many_classes=True
    ),
    "imagenet10": Preset("resnetap10", "l1", 3e-3, 224, 500),
    "imagenet100": Preset("resnetap10", "l1", 1e-3, 224, 500),
    # Our own, for scikit-learn's 8 x 8 digits: a few minutes on a laptop.
    "digits": Preset(
        "convnet2-w64-instance",
        "mse",
        2e-2,
        8,
        500,
        batch_real=64,
        iterations=20,
        inner_loop=20,
        flip=False,
        factor=1,
    ),
}
_BY_NAME = {
    "digits": "digits",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "svhn": "svhn",
    "mnist": "mnist",
    "fashion-mnist": "mnist",
}
_FEW_CLASSES = 20  # between ImageNet-10 and ImageNet-100, nearer in ratio to neither


# Up to so many images per class: matching steps with a network, and epochs of its training on the
# synthetic images between two of them (DC, DSA).
_DC_LOOPS = ((1, 1, 1), (10, 10, 50), (20, 20, 25), (30, 30, 20), (40, 40, 15), (50, 50, 10))
# Up to so many images per class, for CIFAR-10: steps of the student, epochs of the expert, first
# epochs to start from, rate of the student, learning rates of the images and of the rate (MTT).
_MTT = (
    (1, 50, 2, 2, 0.01, 100.0, 1e-7),
    (10, 30, 2, 20, 0.001, 100.0, 1e-5),
    (50, 30, 2, 40, 0.001, 1000.0, 1e-5),
)
_BATCH_REAL = 256
_MANY = 100  # images per class from which DM takes a larger learning rate
# Numbers of networks: as published, and for the small digits.
_ITERATIONS = {"dc": (1000, 20), "dsa": (1000, 20), "dm": (20_000, 500), "mtt": (5000, 100)}


def idc_numbers(preset: str, *, ipc: int, side: int, bidirectional: bool) -> dict[str, Any]:
    """Return the settings of IDC and DREAM+ by name (arXiv 2310.15052, section 4.1)."""
    own = PRESETS[preset]
    learning_rate = own.learning_rate * ipc / _BASE_IPC * (side / own.base_side) ** 2
    if preset == "tiny-imagenet" and ipc >= 50:
        learning_rate = 1e-6  # as published, whatever the scale
    return {
        "factor": own.factor,
        "metric": own.metric,
        "arch": own.arch,
        "iterations": own.iterations,
        "inner_loop": own.inner_loop,
        "learning_rate": learning_rate,
        "batch_real": own.batch_real,
        "batch_synthetic": 128,
        "network_images": own.network_images,
        "network_epochs": int(bidirectional),
        "synthetic_epochs": 0,
        "with_classifier": False,
    }


def framework_numbers(
    framework: str, preset: str, *, ipc: int, num_classes: int, factor: int, bidirectional: bool
) -> dict[str, Any]:
    """Return the published settings of DC, DSA, DM or MTT by name.

    Parameters
    ----------
    framework
        Name of the framework.
    preset
        Name of the preset of the image set, which gives the network.
    ipc
        Number of images per class. Between published numbers the next larger one decides.
    num_classes
        Number of classes.
    factor
        Number of cells along each side of an image.
    bidirectional
        True if features and gradients are matched.
    """
    formed = ipc * factor**2
    known: dict[str, Any] = {
        "metric": "dc" if framework in ("dc", "dsa") else "mse",
        "arch": PRESETS[preset].arch,
        "iterations": _ITERATIONS[framework][preset == "digits"],
        "inner_loop": 1,
        "batch_real": PRESETS[preset].batch_real if preset == "digits" else _BATCH_REAL,
        "batch_synthetic": formed,
        "network_images": 0,
        "network_epochs": int(bidirectional),
        "synthetic_epochs": 0,
        "with_classifier": framework in ("dc", "dsa"),
    }
    if framework in ("dc", "dsa"):
        _, steps, epochs = _row(_DC_LOOPS, ipc)
        known |= {"learning_rate": 0.1, "inner_loop": steps, "synthetic_epochs": epochs}
    elif framework == "dm":
        known |= {"learning_rate": 10.0 if ipc >= _MANY else 1.0, "network_epochs": 10}
    else:
        _, steps, epochs, first, rate, learning_rate, of_rate = _row(_MTT, ipc)
        known |= {
            "batch_synthetic": num_classes * formed,
            "learning_rate": learning_rate,
            "student_steps": steps,
            "expert_epochs": epochs,
            "max_start": first,
            "student_rate": rate,
            "rate_learning_rate": of_rate,
        }
    return known


def _row(table: Sequence[tuple[Any, ...]], ipc: int) -> tuple[Any, ...]:
    """Return the first row of a table up to a number of images per class, or the last one."""
    return next((row for row in table if ipc <= row[0]), table[-1])


def preset_for(source: str, side: int, num_classes: int) -> str:
    """Return the name of the preset for a source: by its name, else by its images."""
    named = _BY_NAME.get(source.partition(":")[0])
    if named is not None:
        return named
    if side <= 48:
        return "cifar"
    if side <= 64:
        return "tiny-imagenet"
    return "imagenet10" if num_classes <= _FEW_CLASSES else "imagenet100"
