from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rded_runs import hashes, settings, write_pictures, write_random_observer

from pydream.data import open_source
from pydream.dream import DreamConfig
from pydream.dream import distill as dream
from pydream.errors import PydreamError, UnfinishedError
from pydream.merging import merge
from pydream.rded import distill as rded
from pydream.refinement.steps import Refiner
from pydream.sets.config import MergeConfig


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A refined set of one process, and what three shards make of it in folders of their own."""
    folder = tmp_path_factory.mktemp("parts")
    pictures = write_pictures(folder / "photos")
    observer = write_random_observer(folder / "observer.safetensors")
    changes = {"device": "cpu", "cells": "matched", "refine": 2}
    made = [folder / f"part-{number}" for number in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        # Else all these classes are refined together, by one shard.
        patch.setattr(Refiner, "groups", _one_by_one)
        whole = rded(settings(pictures, observer, folder / "whole", **changes)).path
        for number, out in enumerate(made):
            with pytest.raises(UnfinishedError, match=f"shard {number}/3 is done"):
                rded(settings(pictures, observer, out, shard=f"{number}/3", **changes))
    return whole, made


def _one_by_one(_: Refiner, counts: Sequence[int]) -> list[range]:
    return [range(label, label + 1) for label in range(len(counts))]


def merged(out: Path, *parts: Path) -> Path:
    return merge(MergeConfig(out, parts)).path


def test_merged_parts_are_the_set_of_one_process(
    parts: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    whole, made = parts
    before = {part: sorted(part.with_suffix(".partial").rglob("*")) for part in made}
    set_ = merged(tmp_path / "set", made[2], made[0], made[1].with_suffix(".partial"))
    assert hashes(set_) == hashes(whole)
    assert {part: sorted(part.with_suffix(".partial").rglob("*")) for part in made} == before
    assert not (tmp_path / "set.partial").exists()


def test_what_a_killed_shard_was_writing_is_not_merged(
    parts: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    """A shard that continues leaves such files, because others may be writing them."""
    whole, made = parts
    again = shutil.copytree(made[0].with_suffix(".partial"), tmp_path / "again.partial")
    (again / "state" / ".00000.json.there-1-1.beside").write_bytes(b'{"ro')
    assert hashes(merged(tmp_path / "set", again, *made[1:])) == hashes(whole)


def test_parts_of_dream(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    source = open_source((pixels, np.arange(24) % 3))

    def config(out: Path, **changes: str) -> DreamConfig:
        return DreamConfig(
            "noise",
            out=out,
            ipc=1,
            arch="convnet2-w8-instance",
            iterations=2,
            inner_loop=1,
            batch_real=8,
            network_images=8,
            network_epochs=0,
            workers=1,
            device="cpu",
            **changes,  # type: ignore[arg-type]
        )

    whole = dream(config(tmp_path / "whole"), source=source).path
    for number in range(2):
        with pytest.raises(UnfinishedError):
            dream(config(tmp_path / f"part-{number}", shard=f"{number}/2"), source=source)
    assert hashes(merged(tmp_path / "set", tmp_path / "part-1", tmp_path / "part-0")) == hashes(
        whole
    )


def test_what_cannot_be_merged(parts: tuple[Path, list[Path]], tmp_path: Path) -> None:
    whole, made = parts
    out = tmp_path / "set"
    other = tmp_path / "other"
    shutil.copytree(made[1].with_suffix(".partial"), tmp_path / "other.partial")
    identity = tmp_path / "other.partial" / "identity.json"
    twin = tmp_path / "twin"
    shutil.copytree(made[1].with_suffix(".partial"), tmp_path / "twin.partial")
    identity.write_text(identity.read_text().replace('"seed": 0', '"seed": 1'))
    for given, message in (
        (made[:2], r"classes are in no part, first \w+: run the shards that are missing"),
        ([*made, twin], "part-1 and .*twin both have class"),
        ([*made[:1], other], r"other was made with other settings than .*seed 0 then, 1 now"),
        ([*made, whole], "whole is a whole set already"),
        ([*made, tmp_path / "nowhere"], "nowhere: no part of a set here"),
        ([out, *made], "set: no part of a set here"),
        ([], "name the parts to merge"),
    ):
        with pytest.raises(PydreamError, match=message):
            merged(out, *given)
        assert not out.exists()
        assert not (tmp_path / "set.partial").exists()


def test_a_part_is_known_by_any_name(
    parts: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set would be made where the part is, and take the images of the part for leftovers."""
    _, made = parts
    part = tmp_path / "part"
    partial = shutil.copytree(made[0].with_suffix(".partial"), tmp_path / "part.partial")
    (tmp_path / "linked.partial").symlink_to(partial)
    before = hashes(partial)
    monkeypatch.chdir(partial)
    names = (part, partial, Path("../part"), Path("../part.partial"), Path("."), Path("set/.."))
    for name in (*names, tmp_path / "linked", Path("../linked.partial")):
        for out in (part, Path("../part"), tmp_path / "linked", Path("set/../../part")):
            with pytest.raises(PydreamError, match=r"is also the part .*: name a new folder"):
                merged(out, name, *made[1:])
        with pytest.raises(PydreamError, match="are the same part: name each part once"):
            merged(tmp_path / "set", part, name, *made[1:])
    for nameless in (Path("."), Path("..")):
        with pytest.raises(PydreamError, match=r"does not name a new .*: name a new folder"):
            merged(nameless, *made)
    assert hashes(partial) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked.partial", "part.partial"]


def test_a_merging_killed_before_it_removed_its_state(
    parts: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, made = parts

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pydream.partial._remove", stop)
        with pytest.raises(KeyboardInterrupt):
            merged(tmp_path / "set", *made)
    assert (tmp_path / "set.partial").is_dir()
    assert hashes(merged(tmp_path / "set", *made)) == hashes(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
