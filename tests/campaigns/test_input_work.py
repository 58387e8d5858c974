"""Damaged tensors, arrays, experts, labels of ImageNet and caches: an answer, or one line.

docs/reliability.md says what is promised here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from campaigns.conftest import Campaign
from campaigns.file_trials import FileTrials
from campaigns.mutations import Blocks, pieces
from campaigns.test_input_files import parquet, read_all, shard
from campaigns.test_input_sets import Kind, files_below, printed
from campaigns.trials import expect_no_fault, make_trials
from ilsvrc import LABELS, PUTS, WNIDS, write_train
from rded_runs import hashes
from safetensors.torch import load_file
from torch_states import threads
from trees import labels_by_name, write_images

from pydream.data import open_source, parquet_images
from pydream.dream import DreamConfig, Experts, distill
from pydream.dream.experts import write_description, write_expert
from pydream.dream.loop import MatchingLoop
from pydream.inspection import InspectConfig, inspect
from pydream.sets.imported import open_distilled

SEED = 29
CPU = torch.device("cpu")


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def with_targets(files: Mapping[str, bytes], look: Any, blocks: Blocks | None = None) -> Kind:
    """Return a kind of which every file is damaged."""
    return Kind(files, dict.fromkeys(files, blocks), look)


# Sets of tensors

COLOURS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TENSORS = {
    "a/images.pt": saved([COLOURS, torch.tensor([1, 0, 1, 0])]),
    "a/soft_labels.pt": saved(torch.tensor([[0.0, 2.0], [1.0, 0.0], [-3.0, 0.5], [0.0, -1.0]])),
    "a/info.json": json.dumps(
        {
            "package": {"name": "pydream-distill", "version": "0.1.0"},
            **{"class_names": ["ant", "bee"], "factor": 2, "views": "crop"},
        }
    ).encode(),
    "b/res.pt": saved({"data": [[COLOURS, torch.tensor([0, 1, 1, 0])]], "accs_all_exps": {}}),
    "c/set.pt": saved({"images": (COLOURS * 255).byte(), "labels": torch.tensor([0, 0, 1, 1])}),
}


SETS = {"a": "images.pt", "b": "res.pt", "c": "set.pt"}


def in_tensors(root: Path, name: str) -> str | None:
    """Open and inspect a set of tensors; its images must be those that PyTorch reads."""
    folder = name.partition("/")[0]
    file = root / folder / SETS[folder]
    distilled = open_distilled(file)
    printed(inspect(InspectConfig(set=file, device="cpu")))
    content = torch.load(file, weights_only=True)
    if isinstance(content, dict):
        content = content["data"][0] if "data" in content else [*content.values()]
    images, labels = content[:2]
    if images.is_floating_point():
        images = (images.float() * 255).round().clamp(0, 255).byte()
    wanted = images[labels.sort(stable=True).indices].movedim(1, -1)
    return None if torch.equal(distilled.images, wanted) else "other images than by PyTorch"


# Arrays


def arrays() -> bytes:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    np.savez(
        stream,
        images=rng.integers(256, size=(6, 4, 5, 3), dtype=np.uint8),
        labels=np.array([0, 1, 1, 0, 1, 0]),
        test_images=rng.integers(256, size=(2, 4, 5, 3), dtype=np.uint8),
        test_labels=np.array([1, 0]),
        class_names=np.array(["ant", "bee"]),
    )
    return stream.getvalue()


def in_arrays(root: Path, name: str) -> str | None:
    """Open both splits; their images must be those that NumPy reads, with their labels."""
    for split, first in (("train", ""), ("test", "test_")):
        source = open_source(str(root / name), split)
        with np.load(root / name) as content:
            images, labels = content[f"{first}images"], content[f"{first}labels"]
        own = {(int(label), image.tobytes()) for label, image in zip(labels, images, strict=True)}
        for index, label in enumerate(source.labels):
            if (int(label), source.image(index).numpy().tobytes()) not in own:
                return f"image {index} of {split} is none of NumPy's"
        source.fingerprint()
    return None


# Experts

EXPERT = {
    **{"arch": "convnet1", "parameters": 5, "source": "insects", "source_fingerprint": "f" * 64},
    **{"count": 2, "class_names": ["ant", "bee"]},
    "settings": {"epochs": 2, "side": 8, "exif": "ignore", "zca": False, "seed": 0},
}


def experts(folder: Path) -> Kind:
    write_description(folder / "e", EXPERT)
    for number in range(2):
        write_expert(folder / "e", number, torch.arange(15.0).view(3, 5) + number)
    return with_targets(files_below(folder), in_experts, pieces(8))


def in_experts(root: Path, _: str) -> str | None:
    """Read the weights of all experts after each epoch, as safetensors does."""
    opened = Experts.open(root / "e")
    facts: dict[str, Any] = {"arch": "convnet1", "parameters": 5, "side": 8, "exif": "ignore"}
    opened.check(**facts, source="f" * 64, epochs=2)
    opened.fingerprint()
    for number, file in enumerate(opened.files):
        for epoch in range(3):
            weights = opened.weights(number, epoch, CPU)
            if weights.shape != (5,) or not torch.equal(weights, load_file(file)["weights"][epoch]):
                return f"other weights of expert {number} after {epoch} epochs"
    return None


# Labels of ImageNet's validation images


def imagenet(folder: Path) -> Kind:
    targets = []
    for put in PUTS:
        root = folder / put.__name__
        write_train(root / "train")
        write_images(root / "val", LABELS)
        images = {*files_below(folder)}
        put(root)
        targets += [name for name in files_below(folder) if name not in images]
    return Kind(files_below(folder), dict.fromkeys(targets, pieces(32)), in_imagenet)


def in_imagenet(root: Path, name: str) -> str | None:
    """Open both splits; those of train are the same, and each validation image has a class."""
    path = str(root / name.partition("/")[0])
    train = open_source(path)
    if train.class_names != tuple(sorted(WNIDS)) or len(train) != 2 * len(WNIDS):
        return "other images for training"
    found = labels_by_name(open_source(path, "test"))
    if not {*found.values()} <= {*WNIDS}:
        return f"classes that are none: {found}"
    return None if {*found} <= {*LABELS} else f"labels of images that are not there: {found}"


def in_whole_imagenet(root: Path, name: str) -> str | None:
    """Expect the label of every validation image."""
    found = labels_by_name(open_source(str(root / name.partition("/")[0]), "test"))
    return None if found == LABELS else f"other labels: {found}"


# Stopped runs of DREAM+


class ResumedDream:
    """Continues a run of DREAM+, one file of whose finished work is damaged."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(256, size=(20, 8, 8), dtype=np.uint8)
        self.source = open_source((pixels, np.arange(20) % 2))
        self.whole = hashes(self.distil(folder / "whole" / "set"))

    def distil(self, out: Path, **more: Any) -> Path:
        settled: dict[str, Any] = {
            **{"framework": "dm", "arch": "convnet1-w4-instance", "ipc": 1, "batch_real": 4},
            **{"iterations": 3, "checkpoint_every": 1, "workers": 1, "device": "cpu"},
        }
        distill(DreamConfig("toy", out=out, **settled, **more), source=self.source)
        return out

    def __call__(self, root: Path, name: str) -> str | None:
        """Compare the set with that of a run that was never stopped."""
        made = hashes(self.distil(root / "out" / "set", resume=True))
        other = {file for file in {*made, *self.whole} if made.get(file) != self.whole.get(file)}
        return f"{other} differ from those of a run that was never stopped" if other else None


def dream_runs(folder: Path) -> Kind:
    resumed, iterate = ResumedDream(folder), MatchingLoop.iterate

    def stopping(loop: MatchingLoop, synthetic: Any, at: int) -> list[float]:
        if at == 2:
            raise SystemError
        return iterate(loop, synthetic, at)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemError):
        patch.setattr(MatchingLoop, "iterate", stopping)
        resumed.distil(folder / "stopped" / "set")
    files = {f"out/{name}": data for name, data in files_below(folder / "stopped").items()}
    return with_targets(files, resumed)


# Caches


def caches(folder: Path) -> Kind:
    """The files of the cache, made of a shard and of a parquet file whose images are unpacked."""
    files = {"s/train-0.tar": shard(), "s/classnames.txt": b"ant\nbee\n", "p.parquet": parquet()}
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for path in ("s", "p.parquet"):
            cached(folder / path)
    kept = {f"{path.suffix[1:]}.kept": path.read_bytes() for path in folder.glob("cache/*/*")}
    return Kind(files | kept, dict.fromkeys(kept, pieces(32)), in_cache)


def cached(path: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """Read a source, and keep as much in the cache as if it were too large for the memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_images, "_HELD_BYTES", 0)
        patch.setattr(parquet_images, "_MOST_READINGS", 0)
        return read_all(str(path))


def in_cache(root: Path, name: str) -> str | None:
    """Let a source be read after the file of its cache was damaged: it must be the same."""
    path = root / ("s" if name.startswith("index") else "p.parquet")
    whole = cached(path)
    (file,) = (Path(os.environ["XDG_CACHE_HOME"]) / "pydream").glob(f"*.{name.partition('.')[0]}")
    file.write_bytes((root / name).read_bytes())
    return None if cached(path) == whole else "another answer than without the cache"


KINDS: dict[str, Callable[[Path], Kind]] = {
    "sets of tensors": lambda _: with_targets(TENSORS, in_tensors, pieces(64)),
    "files of arrays": lambda _: with_targets({"a.npz": arrays()}, in_arrays, pieces(64)),
    "experts": experts,
    "labels of ImageNet": imagenet,
    "stopped runs of DREAM+": dream_runs,
    "files of the cache": caches,
}


# Trials of the short and of the long form, of kinds that take longer.
FEWER = {"labels of ImageNet": (18, 2000), "stopped runs of DREAM+": (8, 500)}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(campaign: Campaign, tmp_path: Path, kind: str) -> None:
    (tmp_path / "base").mkdir()
    with threads(1):  # as in trials: sums of more threads differ in their last bits
        files, targets, look = KINDS[kind](tmp_path / "base")
    few, many = FEWER.get(kind, (40, 2000))
    count = campaign.trials(few, many)
    whole = in_whole_imagenet if kind == "labels of ImageNet" else None
    trials = FileTrials(tmp_path, files, targets, look, SEED, whole)
    outcomes = make_trials(trials, range(count))
    facts = expect_no_fault(outcomes, trials.describe, SEED)
    assert facts["answered"]
    assert bool(facts["refused"]) == (kind != "files of the cache")  # those are made again
    campaign.passed("inputs", f"mutated {kind}", count, **facts)
