"""Damaged sets, runs, networks and labels: an answer that a reference confirms, or one line.

docs/reliability.md says what is promised here.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from campaigns.conftest import Campaign
from campaigns.file_trials import FileTrials, Look
from campaigns.mutations import Blocks, pieces
from campaigns.trials import expect_no_fault, make_trials
from PIL import Image
from plain_sets import observer_entry, write_set
from rded_runs import hashes, settings, stopped_after, write_pictures
from rich.console import Console
from safetensors.torch import load_file
from torch_states import threads

from pydream.errors import PydreamError
from pydream.evaluate import RelabelConfig, relabel
from pydream.inspection import InspectConfig, inspect, render_inspection
from pydream.inspection.inspection import Inspection
from pydream.models import Observer, build_model, load_observer, save_weights
from pydream.models.checkpoint import read_weights
from pydream.rded import distill
from pydream.report import render_report
from pydream.sets import ExportConfig, export_set
from pydream.sets.config import Layout
from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.opening import open_real, open_set
from pydream.students.stored_labels import StoredLabels, stored_seeds
from pydream.students.views import MixedBatch

SEED = 28
ARCH = "convnet1-w4"
LAYOUTS: tuple[Layout, ...] = ("tensors", "dc", "rded", "parquet", "webdataset", "cim", "patches")


class Kind(NamedTuple):
    """Files of a kind of input, those that are mutated, and what reads them."""

    files: Mapping[str, bytes]
    targets: Mapping[str, Blocks | None]
    look: Look


def files_below(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def printed(found: Inspection) -> None:
    """Print what an inspection found, as the command does."""
    Console(file=io.StringIO()).print(render_inspection(found.facts, per_class=True))


def each(*steps: Callable[[], object]) -> None:
    """Take steps, of which each may be refused; raise the first refusal at the end."""
    refused: list[PydreamError] = []
    for step in steps:
        try:
            step()
        except PydreamError as error:
            refused.append(error)
    if refused:
        raise refused[0]


# Sets


def other_images(distilled: DistilledSet) -> str | None:
    """Compare the images of a set, if they can be read, with what Pillow reads."""
    try:
        found = distilled.images
    except PydreamError:
        return None  # refused again below
    files = sorted(distilled.path.glob("images/*/*.png"))
    wanted = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return None if np.array_equal(found.numpy(), wanted) else "other images than by Pillow"


def in_set(root: Path, name: str) -> str | None:
    """Open a set, describe, show and export it; what it says must be what the manifest says."""
    path = root / name.partition("/")[0]
    distilled = load_set(path)
    content = json.loads((path / "manifest.json").read_text())
    if [*distilled.class_names] != content["class_names"]:
        return f"classes {distilled.class_names}"
    if distilled.manifest.side != content["side"] or len(distilled.labels) != 4:
        return "another side, or other images"
    if (wrong := other_images(distilled)) is not None:
        return wrong
    layout = LAYOUTS[len((path / name).read_bytes() if (path / name).exists() else "") % 7]
    each(
        lambda: printed(inspect(InspectConfig(set=path, device="cpu"))),
        lambda: render_report(distilled),
        lambda: export_set(ExportConfig(set=path, to=layout, out=root / "out" / layout)),
        lambda: stored_seeds(distilled),
    )
    with contextlib.suppress(PydreamError):  # its real images are elsewhere
        open_real(None, distilled, "train")
    return None


REFINEMENT = {
    **{"steps": 2, "match": "features", "learning_rate": 0.1, "seed": 0, "loss": [0.5, 0.25]},
    **{"observers": [{"arch": "convnet3"}], "layers": ["layers.0"]},
    "distances": {"unrefined": 2.0, "refined": 1.0, "rounded": 1.5},
}
# By the folder of a set: the entries of its manifest that differ from those of a set of RDED.
METHODS: dict[str, dict[str, Any]] = {
    "rded": {"further_observers": [observer_entry("b" * 64, [1, 0])], "refinement": REFINEMENT},
    "dream": {
        "method": "dream",
        "observer": None,
        "views": "dsa",
        "config": {
            **{"framework": "idc", "arch": "convnet3", "recipe": "idc", "match": "gradients"},
            **{"metric": "mse", "sampler": "representative", "batch_real": 8, "iterations": 2},
            **{"inner_loop": 3, "learning_rate": 0.005, "network_images": 64},
            **{"network_epochs": 5, "cells": "shrunk", "exif": "ignore"},
        },
        "network": {"arch": "convnet3"},
        "whitening": {"method": "zca", "epsilon": 0.1, "side": 8},
        "student_rate": 0.01,
        "history": [
            {"iteration": 0, "loss": None, "top1": [0.5]},
            {"iteration": 1, "loss": 2.5, "top1": [0.75]},
        ],
    },
}


def sets(folder: Path) -> Kind:
    for name, entries in METHODS.items():
        manifest = write_set(folder / name, ipc=2, side=8, factor=2).path / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | entries))
    files = files_below(folder)
    targets = [name for name in files if name.endswith((".json", ".parquet", "0/00000.png"))]
    return Kind(files, dict.fromkeys(targets, None), in_set)


# Networks


def observer_files(folder: Path) -> dict[str, bytes]:
    torch.manual_seed(0)
    network = build_model(ARCH, num_classes=2, side=8)
    facts = {"arch": ARCH, "side": "8", "classes": '["ant", "bee"]'}
    save_weights(network, folder / "a.safetensors", facts)
    content = {"state_dict": network.state_dict(), "arch": ARCH, "epoch": 3}
    torch.save(content, folder / "b.pt")
    torch.save(content, folder / "c.pth", _use_new_zipfile_serialization=False)
    return {name: (folder / name).read_bytes() for name in ("a.safetensors", "b.pt", "c.pth")}


def in_network(root: Path, name: str) -> str | None:
    """Load an observer; its weights must be those that the libraries read."""
    observer = load_observer(root / name, side=8, precision="float32", device="cpu")
    logits = observer.logits(torch.zeros(2, 3, 8, 8))
    own, _ = read_weights(root / name)
    if logits.shape != (2, observer.num_classes):
        return "logits of another shape"
    if not logits.isfinite().all() and plain_logits(observer, own).isfinite().all():
        return "logits that are not finite, where those of the network are"
    if name.endswith("safetensors"):
        others = load_file(root / name)
    else:
        content = torch.load(root / name, weights_only=True)
        others = content.get("state_dict", content)
    same = own.keys() == others.keys() and all(torch.equal(own[key], others[key]) for key in own)
    return None if same else "other weights than the library reads"


def plain_logits(observer: Observer, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return what the network says of black images; weights of noise overflow in any program."""
    network = build_model(observer.arch, num_classes=observer.num_classes, side=observer.side)
    network.load_state_dict({**network.state_dict(), **weights})
    black = -torch.tensor(observer.mean) / torch.tensor(observer.std)
    with torch.no_grad():
        images = black.view(1, 3, 1, 1).expand(2, 3, observer.side, observer.side)
        logits: torch.Tensor = network.eval()(images)
    return logits


def networks(folder: Path) -> Kind:
    files = observer_files(folder)
    targets = {"a.safetensors": pieces(8), "b.pt": pieces(64), "c.pth": pieces(64)}
    return Kind(files, targets, in_network)


# Stored labels


def in_labels(root: Path, name: str) -> str | None:
    """Read the labels of every epoch; they must be probabilities."""
    distilled = open_set(InspectConfig(set=root / "set"))
    stored = StoredLabels(distilled, 0)
    if tuple(stored.plan.class_names) != distilled.class_names:
        return None  # refused once they are used
    targets = stored.targets(4.0, torch.device("cpu"))
    for epoch in stored.plan.stored_epochs():
        batch = cast("MixedBatch", SimpleNamespace(epoch=epoch, rows=torch.arange(4)))
        labels = targets(batch)
        sums = labels.sum(1)
        if labels.shape != (4, 2) or not torch.allclose(sums, torch.ones(4), atol=1e-3):
            return f"labels of epoch {epoch} are no probabilities: {labels}"
    return None


def labels(folder: Path) -> Kind:
    write_set(folder / "set", ipc=2, side=8)
    observer_files(folder)
    given: dict[str, Any] = {"observer": str(folder / "a.safetensors"), "epochs": 2}
    relabel(RelabelConfig(set=folder / "set", device="cpu", top_k=1, **given))
    files = {f"set/{name}": data for name, data in files_below(folder / "set").items()}
    targets = [name for name in files if "labels/" in name]
    return Kind(files, dict.fromkeys(targets, pieces(8)), in_labels)


# Runs that were stopped


class Resumed:
    """Continues a run, one file of whose finished work is damaged."""

    def __init__(self, folder: Path) -> None:
        self.pictures = write_pictures(folder / "pictures")
        torch.manual_seed(0)
        network = build_model(ARCH, num_classes=4, side=8)
        self.observer = folder / "observer.safetensors"
        save_weights(network, self.observer, {"arch": ARCH, "side": "8"})
        self.whole = hashes(self.distil(folder / "whole" / "set"))

    def distil(self, out: Path, **more: Any) -> Path:
        """Make the set in the folder of its place, so that it says the same everywhere."""
        settled = settings(self.pictures, self.observer, out, ipc=1, factor=1, crops=1, **more)
        distill(settled)
        return out

    def __call__(self, root: Path, name: str) -> str | None:
        """Compare the set with that of a run that was never stopped."""
        made = hashes(self.distil(root / "out" / "set", resume=True))
        other = {file for file in {*made, *self.whole} if made.get(file) != self.whole.get(file)}
        return f"{other} differ from those of a run that was never stopped" if other else None


def runs(folder: Path) -> Kind:
    resumed = Resumed(folder)
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, 2)
        with contextlib.suppress(KeyboardInterrupt):
            resumed.distil(folder / "stopped" / "set")
    files = {f"out/{name}": data for name, data in files_below(folder / "stopped").items()}
    targets = [name for name in files if name.endswith((".json", ".claimed")) or "/state/" in name]
    return Kind(files, dict.fromkeys(targets, None), resumed)


KINDS = {"sets": sets, "networks": networks, "stored labels": labels, "stopped runs": runs}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(campaign: Campaign, tmp_path: Path, kind: str) -> None:
    (tmp_path / "base").mkdir()
    with threads(1):  # as in trials: sums of more threads differ in their last bits
        files, targets, look = KINDS[kind](tmp_path / "base")
    count = campaign.trials(12 if kind == "stopped runs" else 40, 2000)
    trials = FileTrials(tmp_path, files, targets, look, SEED)
    outcomes = make_trials(trials, range(count))
    facts = expect_no_fault(outcomes, trials.describe, SEED)
    assert facts["answered"]
    assert facts["refused"]
    campaign.passed("inputs", f"mutated {kind}", count, **facts)
