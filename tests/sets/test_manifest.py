"""The description of a set: read and written without a byte lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pydream.errors import PydreamError
from pydream.sets.manifest import Manifest

# What a file of RDED says, in its order.
CONTENT: dict[str, Any] = {
    "format": 1,
    "method": "rded",
    "package": {"name": "pydream-distill", "version": "0.1.0"},
    "config": {"ipc": 2, "canvas": "pad", "crop_scale": [0.08, 1.0]},
    "seed": 0,
    "source": {"description": "digits", "split": "train", "fingerprint": "f0"},
    "class_names": ["zéro", "one"],
    "class_to_idx": {"zéro": 0, "one": 1},
    "images_per_class": 2,
    "factor": 1,
    "side": 8,
    "mean": [0.1, 0.2, 0.3],
    "std": [1e-05, 0.5, 1.0],
    "image_format": "png",
    "images_bytes": 12,
    "images_sha256": "ab",
    "skipped": [],
    "enlarged": 0,
    "observer": {
        "arch": "convnet3",
        "weights_sha256": "cd",
        "precision": "float32",
        "top1": 0.5,
        "images": 64,
        "held_out": "test split",
        "class_order": [0, 1],
    },
}
REFINEMENT: dict[str, Any] = {
    **{"steps": 2, "match": "features", "learning_rate": 0.1, "seed": 0, "loss": [0.5, 0.25]},
    **{"observers": [{"arch": "convnet3"}], "layers": ["layers.0"]},
    "distances": {"unrefined": 2.0, "refined": 1.0, "rounded": 1.5},
}
LEAST = ("format", "class_names", "images_per_class", "side")


def write(folder: Path, content: Any) -> str:
    text = json.dumps(content, indent=2) + "\n"
    (folder / "manifest.json").write_text(text)
    return text


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"labels_bytes": 7, "labels": {"0": {"bytes": 7, "top_k": None}}},
        {"refinement": REFINEMENT},
        {"of_a_later_version": [1, 2]},
    ],
)
def test_a_manifest_that_is_read_and_written_is_the_same_text(tmp_path: Path, more: Any) -> None:
    text = write(tmp_path, CONTENT | more)
    assert Manifest.read(tmp_path).as_text() == text


def test_what_a_set_of_dream_says_comes_after_what_all_sets_say(tmp_path: Path) -> None:
    content = {key: value for key, value in CONTENT.items() if key not in ("enlarged", "observer")}
    content |= {"network": {"arch": "convnet3"}, "history": [{"iteration": 0, "loss": None}]}
    text = write(tmp_path, content)
    assert Manifest.read(tmp_path).as_text() == text


def test_what_is_changed_is_written_in_its_place(tmp_path: Path) -> None:
    write(tmp_path, CONTENT)
    changed = dataclasses.replace(Manifest.read(tmp_path), seed=3, labels_bytes=5).as_json()
    assert changed == CONTENT | {"seed": 3, "labels_bytes": 5}
    assert [*changed] == [*CONTENT, "labels_bytes"]


def test_an_older_set_tells_less(tmp_path: Path) -> None:
    write(tmp_path, {name: CONTENT[name] for name in LEAST})
    manifest = Manifest.read(tmp_path)
    assert manifest.class_names == ("zéro", "one")
    assert (manifest.images_per_class, manifest.side, manifest.factor) == (2, 8, 1)
    assert (manifest.source, manifest.observer, manifest.mean, manifest.skipped) == (None,) * 4


@pytest.mark.parametrize("name", LEAST)
def test_a_file_without_what_every_set_says_is_no_manifest(tmp_path: Path, name: str) -> None:
    write(tmp_path, {key: value for key, value in CONTENT.items() if key != name})
    with pytest.raises(PydreamError, match=rf"not a manifest of a distilled set .*{name}"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "not a manifest"),
        ({"format": "x"}, "not a manifest"),
        (CONTENT | {"format": 2}, "format 2 is newer than the 1 this version reads; upgrade"),
        (CONTENT | {"class_names": 3}, "not a manifest"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path, content)
    with pytest.raises(PydreamError, match=message):
        Manifest.read(tmp_path)


def test_a_message_does_not_quote_the_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b'{"format": 1, "method": "' + b"x" * 9999 + b'\xff"}')
    with pytest.raises(PydreamError, match="UnicodeDecodeError: 'utf-8' codec") as caught:
        Manifest.read(tmp_path)
    assert "xxx" not in str(caught.value)


def test_a_folder_without_a_manifest_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(PydreamError, match=r"no distilled set here \(manifest.json is missing\)"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"mean": "0.5"},
        {"mean": [0.1, 0.2, "x"]},
        {"std": [0.5, 0, 0.5]},
        {"std": [float("nan")] * 3},
        {"config": []},
        {"factor": 0},
        {"factor": None},
        {"side": -8},
        {"observer": "convnet3"},
        {"observer": CONTENT["observer"] | {"top1": "high"}},
        {"observer": {"arch": "convnet3"}},
        {"further_observers": [{}]},
        {"config": {"cells": "other"}},
        {"views": "all"},
        {"history": [{"iteration": 0}]},
        {"refinement": {"steps": 2}},
        {"refinement": REFINEMENT | {"layers": []}},
        {"package": {"name": "pydream-distill"}},
        {"source": {"description": "digits", "split": "train"}},
        {"source": {"description": "digits", "split": None}},
        {"skipped": [{"key": 1}]},
        {"images_bytes": 1e400},
        {"format": float("inf")},
    ],
    ids=str,
)
def test_an_entry_of_another_type_is_refused(tmp_path: Path, entry: Any) -> None:
    write(tmp_path, CONTENT | entry)
    with pytest.raises(PydreamError, match=r"manifest\.json: not a manifest"):
        Manifest.read(tmp_path)
