"""State of a run in one file, so that a killed run continues to the same bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from pydream.dream.synthetic import SyntheticImages
from pydream.sets.writer import SetWriter

_FILE = "checkpoint.safetensors"
_PICTURE = "picture."


@dataclass
class Progress:
    """State of a run between two iterations.

    Every random number follows from seed and iteration, so a run needs nothing else to continue.

    Attributes
    ----------
    synthetic
        The images and their momentum.
    origins
        int64 (K, IPC, f²): the row of the real image that each cell was initialised with.
    iteration
        Number of iterations done.
    history
        One entry per iteration: ``iteration``, ``loss`` and, if students were trained, ``top1``,
        one value for each of them.
    pictures
        Snapshots by iteration: the first image of some classes at that time, uint8 (k, S, S, 3).
    """

    synthetic: SyntheticImages
    origins: Tensor
    iteration: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[int, Tensor] = field(default_factory=dict)

    def copy(self) -> Progress:
        """Return a copy that later iterations do not change."""
        synthetic = SyntheticImages(
            self.synthetic.values.clone(),
            self.synthetic.learning_rate,
            self.synthetic.velocity.clone(),
        )
        return Progress(
            synthetic, self.origins, self.iteration, list(self.history), dict(self.pictures)
        )


def write_checkpoint(writer: SetWriter, progress: Progress) -> None:
    """Write the state of a run in place of the last checkpoint."""
    tensors = {
        "values": progress.synthetic.values,
        "velocity": progress.synthetic.velocity,
        "origins": progress.origins,
        **{f"{_PICTURE}{at}": picture for at, picture in progress.pictures.items()},
    }
    metadata = {
        "iteration": str(progress.iteration),
        "history": json.dumps(progress.history),
    }
    host = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors keeps metadata in its header, and the state is read back from there.
    writer.keep_bytes(_FILE, save(host, metadata))


def read_checkpoint(
    writer: SetWriter, learning_rate: float, device: torch.device
) -> Progress | None:
    """Return the state of a run from its checkpoint; None without one.

    Parameters
    ----------
    writer
        Writer of the partial set.
    learning_rate
        Learning rate of the images.
    device
        Device that optimises the images.
    """
    data = writer.kept_bytes(_FILE)
    if data is None:
        return None
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header["__metadata__"]
    synthetic = SyntheticImages(
        tensors["values"].to(device), learning_rate, tensors["velocity"].to(device)
    )
    pictures = {
        int(name.removeprefix(_PICTURE)): tensor
        for name, tensor in tensors.items()
        if name.startswith(_PICTURE)
    }
    return Progress(
        synthetic,
        tensors["origins"].to(device),
        int(metadata["iteration"]),
        json.loads(metadata["history"]),
        dict(sorted(pictures.items())),
    )
