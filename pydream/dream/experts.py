"""Trajectories of experts on disk: the weights of networks in the course of their training.

A folder holds ``experts.json``, which describes them, and a file for each expert with all of its
weights, float32 (epochs + 1, P), and their SHA-256 as its metadata.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pydream.durable import make_folder
from pydream.entry_types import is_positive, is_text, is_whole, mapping_of, parse_json
from pydream.errors import PydreamError, first_line
from pydream.files import disk_errors, write_whole
from pydream.seeds import uniform

_FORMAT = 1
_DESCRIPTION = "experts.json"
_WEIGHTS = "weights"
_SHA256 = "sha256"
_FILE = re.compile(r"expert-(\d{5,})\.safetensors")
_PART = 16 << 20  # bytes that are hashed at once
_describes_experts = mapping_of(
    {
        "format": is_whole,
        "count": is_positive,
        "arch": is_text,
        "parameters": is_positive,
        "source": is_text,
        "source_fingerprint": is_text,
        "settings": mapping_of({"epochs": is_positive, "side": is_positive, "exif": is_text}),
    }
)


@dataclass(frozen=True)
class Experts:
    """Trajectories of some experts of one network on one image set.

    Attributes
    ----------
    path
        The folder.
    description
        What ``experts.json`` says: arch, side, class names, settings and so on.
    files
        The file of each expert.
    """

    path: Path
    description: Mapping[str, Any]
    files: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path) -> Experts:
        """Open a folder of experts.

        Raises
        ------
        PydreamError
            If it is none, or experts are missing.
        """
        description = read_description(path)
        if description is None:
            raise PydreamError(
                f"{path} is no folder of experts: make them by pydream experts SOURCE --out {path}"
            )
        count = description["count"]
        names = {file.name for file in path.iterdir()}
        # A damaged number may be larger than any number of files.
        files = tuple(itertools.islice((file_of(path, n) for n in range(count)), len(names)))
        missing = count - sum(file.name in names for file in files)
        if missing:
            raise PydreamError(
                f"{path} lacks {missing} of {count} experts: run `pydream experts` again, with "
                f"--resume --count {count}, or with a smaller count to do with fewer"
            )
        return cls(path, description, files)

    @property
    def epochs(self) -> int:
        """Number of epochs of each expert."""
        return int(self.description["settings"]["epochs"])

    def fingerprint(self) -> str:
        """Return a hash of what the experts are: their description, and the weights of each.

        Files that an earlier version wrote do not hold the SHA-256 of their weights: they are read
        and hashed whole.

        Raises
        ------
        PydreamError
            If a file cannot be read.
        """
        digest = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode())
        for file in self.files:
            with _opened(file) as opened:
                digest.update((opened.metadata() or {}).get(_SHA256, "").encode() or _hash_of(file))
        return digest.hexdigest()

    def check(
        self,
        *,
        arch: str,
        parameters: int,
        side: int,
        exif: str,
        source: str,
        epochs: int,
        zca: bool = False,
    ) -> None:
        """Raise PydreamError unless the experts suit a run.

        Parameters
        ----------
        arch
            The run's network.
        parameters
            Number of its parameters.
        side
            Side of the run's images, in pixels.
        exif
            Their treatment of the EXIF orientation.
        source
            Fingerprint of the run's images.
        epochs
            Number of epochs that the run asks for.
        zca
            Whether the run's images are whitened.
        """
        own = self.description
        if (own["arch"], own["parameters"]) != (arch, parameters):
            raise PydreamError(
                f"{self.path} has experts of {own['arch']} with {own['parameters']} parameters, "
                f"not of {arch} with {parameters}: give --arch {own['arch']}, or train others"
            )
        if own["source_fingerprint"] != source:
            raise PydreamError(
                f"{self.path} has experts of another image set, {own['source']}: train experts of "
                "this one by pydream experts"
            )
        # Neither is in the fingerprint, and networks for two sides may have as many parameters.
        for name, wanted in (("side", side), ("exif", exif)):
            if (made := own["settings"][name]) != wanted:
                raise PydreamError(
                    f"{self.path} has experts of images with {name} {made}, not {wanted}: give "
                    f"--{name} {made}, or train others"
                )
        if own["settings"].get("zca", False) != zca:
            raise PydreamError(
                f"{self.path} has experts of images that are {'not ' if zca else ''}whitened: "
                f"{'leave out' if zca else 'give'} --zca, or train others"
            )
        if epochs > self.epochs:
            raise PydreamError(
                f"{self.path} has experts of {self.epochs} epochs, fewer than the {epochs} that "
                "max_start and expert_epochs need: lower --max-start, or train longer"
            )

    def draw(
        self, seed: int, max_start: int, expert_epochs: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw an expert and an epoch; return its weights there and some epochs later.

        Parameters
        ----------
        seed
            Random seed.
        max_start
            Number of the epochs to choose from, beginning with the first.
        expert_epochs
            Number of epochs between the two.
        device
            Device of the result.

        Returns
        -------
        tuple[Tensor, Tensor]
            float32 (P,) each.
        """
        drawn = uniform(seed, 2)
        number, epoch = int(drawn[0] * len(self.files)), int(drawn[1] * max_start)
        return (
            self.weights(number, epoch, device),
            self.weights(number, epoch + expert_epochs, device),
        )

    def weights(self, number: int, epoch: int, device: torch.device) -> Tensor:
        """Return the weights of an expert after some epochs, float32 (P,).

        Raises
        ------
        PydreamError
            If its file cannot be read.
        """
        with _opened(self.files[number]) as opened:
            held = opened.get_slice(_WEIGHTS)
            shape = (self.epochs + 1, self.description["parameters"])
            if (*held.get_shape(),) != shape or held.get_dtype() != "F32":
                raise SafetensorError(f"it does not hold float32 of shape {shape}")
            weights: Tensor = held[epoch]
            if not weights.isfinite().all():
                raise SafetensorError("its weights are not numbers")
        return weights.to(device)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open the file of an expert; errors while it is open say what to do about it."""
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (OSError, SafetensorError) as error:
        raise PydreamError(
            f"{file} cannot be read as an expert ({first_line(error)}): remove it, and run "
            "pydream experts again, with --resume"
        ) from error


def _hash_of(file: Path) -> bytes:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(_PART):
            digest.update(part)
    return digest.hexdigest().encode()


def file_of(path: Path, number: int) -> Path:
    """Return the file of an expert."""
    return path / f"expert-{number:05d}.safetensors"


def finished_experts(path: Path) -> set[int]:
    """Return the numbers of the experts whose files are in a folder."""
    found = (_FILE.fullmatch(file.name) for file in path.iterdir())
    return {int(name[1]) for name in found if name}


def write_expert(path: Path, number: int, weights: Tensor) -> None:
    """Write all weights of an expert, float32 (epochs + 1, P), at once or not at all."""
    sha256 = hashlib.sha256(weights.numpy().data).hexdigest()
    write_whole(file_of(path, number), save({_WEIGHTS: weights}, {_SHA256: sha256}))


def write_description(path: Path, description: Mapping[str, Any]) -> None:
    """Write what the experts of a folder are."""
    with disk_errors(path):
        make_folder(path)
    text = json.dumps({"format": _FORMAT, **description}, indent=1, ensure_ascii=False)
    write_whole(path / _DESCRIPTION, (text + "\n").encode())


def read_description(path: Path) -> dict[str, Any] | None:
    """Return what the experts of a folder are; None if it is no such folder.

    Raises
    ------
    PydreamError
        If the description cannot be read, or is of a newer version of pydream.
    """
    file = path / _DESCRIPTION
    try:
        found: dict[str, Any] = parse_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PydreamError(f"{file} cannot be read: {first_line(error)}") from error
    if not _describes_experts(found):
        raise PydreamError(f"{file} describes no experts of pydream: give another folder")
    if found["format"] != _FORMAT:
        raise PydreamError(
            f"{file} has format {found['format']}, this pydream reads {_FORMAT}: update it"
        )
    return found
