"""State of a run on disk, a file for each part of the classes, so that a run can be continued.

The files of all parts together are the state of the run, whichever processes wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor

from pydream.dream.synthetic import SyntheticImages
from pydream.sets.writer import SetWriter

_PICTURE = "picture."
_RATE = "rate"


@dataclass
class Progress:
    """State of some parts of the classes between two iterations.

    Every random number follows from seed and iteration, so a run needs nothing else to continue.

    Attributes
    ----------
    parts
        The parts: ranges of classes, k in all.
    synthetic
        The images and their momentum.
    sources
        Name of the real image that each cell was initialised with: for each of the k classes a list
        for each image.
    iteration
        Number of iterations done.
    losses
        For each part the loss of each iteration.
    pictures
        Snapshots by iteration: the first image of each class, uint8 (k, S, S, 3).
    """

    parts: Sequence[range]
    synthetic: SyntheticImages
    sources: list[list[list[str]]]
    iteration: int = 0
    losses: list[list[float]] = field(default_factory=list)
    pictures: dict[int, Tensor] = field(default_factory=dict)

    def copy(self) -> Progress:
        """Return a copy that later iterations do not change."""
        synthetic = self.synthetic.copy()
        losses = [list(of_part) for of_part in self.losses]
        return Progress(
            self.parts, synthetic, self.sources, self.iteration, losses, dict(self.pictures)
        )


def write_checkpoint(writer: SetWriter, progress: Progress) -> None:
    """Write the state of each part beside its older ones."""
    end = 0
    for part, losses in zip(progress.parts, progress.losses, strict=True):
        place = slice(end, end + len(part))
        end = place.stop
        tensors = {
            "values": progress.synthetic.values[place],
            "velocity": progress.synthetic.velocity[place],
            "losses": torch.tensor(losses, dtype=torch.float64),
            **({} if progress.synthetic.rate is None else {_RATE: progress.synthetic.rate}),
            **{f"{_PICTURE}{at}": shown[place] for at, shown in progress.pictures.items()},
        }
        host = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        # safetensors keeps metadata in its header, and the names are read back from there.
        metadata = {"sources": json.dumps(progress.sources[place])}
        writer.keep_bytes(_file(part, progress.iteration), save(host, metadata))


def latest_checkpoint(writer: SetWriter, parts: Sequence[range]) -> int | None:
    """Return the latest iteration of which all of some parts have a checkpoint; None without."""
    common: set[int] | None = None
    for part in parts:
        names = writer.kept_names(_file(part, None))
        at = {int(name.split(".")[0].rpartition("-")[2]) for name in names}
        common = at if common is None else common & at
    return max(common) if common else None


def forget_checkpoints(writer: SetWriter, parts: Sequence[range], before: int) -> None:
    """Remove the checkpoints of some parts from before an iteration."""
    for part in parts:
        latest = _file(part, before)
        for name in writer.kept_names(_file(part, None)):
            if name < latest:
                writer.forget_bytes(name)


def read_checkpoint(
    writer: SetWriter,
    parts: Sequence[range],
    iteration: int,
    *,
    learning_rate: float,
    num_classes: int,
    device: torch.device,
) -> Progress:
    """Return the state of some parts from their checkpoints.

    Parameters
    ----------
    writer
        Writer of the partial set.
    parts
        The parts; each has a checkpoint of the iteration.
    iteration
        Number of iterations done.
    learning_rate
        Learning rate of the images.
    num_classes
        Number of all classes.
    device
        Device that optimises the images.
    """
    found: list[dict[str, Tensor]] = []
    sources: list[list[list[str]]] = []
    for part in parts:
        data = writer.kept_bytes(_file(part, iteration))
        assert data is not None
        found.append(load(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        sources += json.loads(header["__metadata__"]["sources"])

    def joined(name: str) -> Tensor:
        return torch.cat([tensors[name] for tensors in found])

    synthetic = SyntheticImages(
        joined("values").to(device),
        learning_rate,
        joined("velocity").to(device),
        classes=[label for part in parts for label in part],
        num_classes=num_classes,
        rate=found[0][_RATE].to(device) if _RATE in found[0] else None,
    )
    pictures = [int(name.removeprefix(_PICTURE)) for name in found[0] if name.startswith(_PICTURE)]
    return Progress(
        parts,
        synthetic,
        sources,
        iteration,
        [tensors["losses"].tolist() for tensors in found],
        {at: joined(f"{_PICTURE}{at}") for at in sorted(pictures)},
    )


def checkpoint_values(writer: SetWriter, parts: Sequence[range], iteration: int) -> Tensor:
    """Return the images of all parts from their checkpoints: float32 (K, IPC, C, S, S)."""
    values = []
    for part in parts:
        data = writer.kept_bytes(_file(part, iteration))
        assert data is not None
        values.append(load(data)["values"])
    return torch.cat(values)


def _file(part: range, iteration: int | None) -> str:
    """Return the name of a part's checkpoint, or a pattern for all of its iterations."""
    at = "*" if iteration is None else f"{iteration:08d}"
    return f"part-{part.start:05d}-{at}.safetensors"
