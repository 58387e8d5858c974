"""Small runs of RDED on the pictures of tests/rded/conftest.py."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from pydream.models import build_model, save_weights
from pydream.rded import RdedConfig


def settings(folder: Path, weights: Path, out: Path, **changes: Any) -> RdedConfig:
    given: dict[str, Any] = {
        "source": str(folder),
        "observer": str(weights),
        "out": out,
        "ipc": 2,
        "factor": 2,
        "allow_weak_observer": True,
        **changes,
    }
    return RdedConfig(**given)


def hashes(path: Path) -> dict[str, str]:
    """The bytes of a set, by file: all but run.json, which tells the seconds."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.json"
    }


def shuffled_observer(file: Path, digits_observer: Path, order: list[int]) -> None:
    """Write the digits' observer with its outputs in another order, and without their names."""
    weights = load_file(digits_observer)
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].contiguous()
    with safe_open(digits_observer, "pt") as handle:
        metadata = {key: value for key, value in handle.metadata().items() if key != "classes"}
    model = build_model(metadata["arch"], num_classes=10, side=int(metadata["side"]))
    model.load_state_dict(weights)
    save_weights(model, file, metadata)
