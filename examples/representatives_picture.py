"""Representatives of a class beside a random draw, as a picture and as two figures.

    python examples/representatives_picture.py IMAGES OBSERVER [--label cat] [--count 64]

IMAGES is anything that ``pydream rded`` reads, OBSERVER the weights of a ConvNet-3 for it. Printed
are the mean and the largest distance, in the space of the network's features, of an image of the
class to the nearest one chosen: the smaller, the more evenly the class is covered. Of random draws
the mean of twenty; the picture shows the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from pydream.data.sources import open_source
from pydream.dream import RepresentativeSampler
from pydream.models.checkpoint import read_weights
from pydream.models.convnet import ConvNet
from pydream.models.inputs import IMAGENET_MEAN, IMAGENET_STD

DRAWS = 20


@dataclass(frozen=True)
class Arguments:
    """Representatives of a class beside a random draw."""

    images: Positional[Path]
    observer: Positional[Path]
    label: int = 0
    """Which class, by its place among the sorted names."""
    count: int = 64
    """Images to choose."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("representatives.png")


def load_class(path: Path, label: int) -> tuple[Tensor, str]:
    """Return the images of a class, uint8 (N, 3, 32, 32), and its name."""
    source = open_source(path)
    images = torch.stack([source.image(index) for index in source.class_indices(label)])
    return images.permute(0, 3, 1, 2), source.class_names[label]


def evenness(features: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean and the largest distance to the nearest one chosen."""
    distance = torch.cdist(features, features[chosen]).amin(dim=1)
    return torch.stack([distance.mean(), distance.max()])


def draw(images: Tensor, ways: dict[str, tuple[Tensor, Tensor]], name: str, path: Path) -> None:
    """Write the images chosen in each way side by side."""
    size = (6 * len(ways), 6.6)
    figure, axes = plt.subplots(1, len(ways), figsize=size, layout="constrained")
    for axis, (way, (rows, (mean, largest))) in zip(axes, ways.items(), strict=True):
        across = round(len(rows) ** 0.5)
        down = -(-len(rows) // across)
        sheet = torch.full((down * across, 3, *images.shape[2:]), 255, dtype=torch.uint8)
        sheet[: len(rows)] = images[rows]
        grid = sheet.view(down, across, 3, *images.shape[2:]).permute(0, 3, 1, 4, 2)
        axis.imshow(grid.reshape(down * images.shape[2], -1, 3))
        axis.set_title(f"{len(rows)} of {name}, {way}\nmean {mean:.2f}, largest {largest:.2f}")
        axis.axis("off")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Choose, measure and draw."""
    arguments = tyro.cli(Arguments)
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} is there already: name another file with --out")
    images, name = load_class(arguments.images, arguments.label)
    weights, _ = read_weights(arguments.observer)
    network = ConvNet(len(weights["classifier.weight"]), side=32)
    network.load_state_dict(weights)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    sampler = RepresentativeSampler(
        images,
        torch.zeros(len(images), dtype=torch.int64),
        arguments.count,
        transform=lambda x: (x - mean[:, None, None]) / std[:, None, None],
    )
    chosen, features = sampler(network)[0], sampler.embed(network)
    generator = torch.Generator().manual_seed(0)
    random = [
        torch.randperm(len(images), generator=generator)[: arguments.count] for _ in range(DRAWS)
    ]
    ways = {
        "representative": (chosen, evenness(features, chosen)),
        "random": (
            random[0],
            torch.stack([evenness(features, chosen) for chosen in random]).mean(0),
        ),
    }
    for way, (_, (middle, largest)) in ways.items():
        print(f"{way:15s} mean {middle:.3f}, largest {largest:.3f}")
    draw(images, ways, name, arguments.out)


if __name__ == "__main__":
    main()
