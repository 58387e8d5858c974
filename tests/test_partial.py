"""What runs keep of a set, with other runs begun, finished and killed beside them."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from pydream.errors import PydreamError
from pydream.files import check_free
from pydream.partial import PartialRun, differences
from pydream.sets.manifest import Manifest
from pydream.sets.writer import SetWriter, finished_manifest

IDENTITY = {"seed": 0, "mean": (0.5, 0.25)}
IMAGES = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 3, 4, 4)


def manifest_of(config: dict[str, Any]) -> str:
    """Return the text of a manifest that says little else than the settings of its run."""
    return Manifest(
        format=1, method="rded", class_names=("a",), images_per_class=1, side=8, config=config
    ).as_text()


MANIFEST = manifest_of({"seed": 0, "mean": [0.5, 0.25]})


class KilledError(BaseException):
    """Stands for a kill: no handler of errors sees it."""


def writer(out: Path, *, resume: bool = True, **changes: Any) -> SetWriter:
    return SetWriter(out, {**IDENTITY, **changes}, resume=resume)


def write(run: SetWriter, label: int) -> None:
    run.write_class(label, IMAGES, {"label": label}, image_format="png", quality=1)


def begin_and_die(out: Path) -> None:
    run = writer(out)
    with suppress(KilledError), run.begin():
        write(run, 0)
        raise KilledError


def finish(run: SetWriter) -> None:
    with run.begin():
        write(run, 0)
        run.write_text(run.set / "manifest.json", MANIFEST)
        run.finish()


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def enter(run: PartialRun) -> None:
    with run.begin():
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"begun with other settings \(seed 0 then, 1 now\)"),
        ({"resume": False}, "begun and not finished: add --resume"),
    ],
)
def test_a_run_does_not_go_on_with_another_that_was_begun_in_the_meantime(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    out = tmp_path / "set"
    late = writer(out, **changes)
    begin_and_die(out)
    kept = files(tmp_path)
    with pytest.raises(PydreamError, match=message):
        enter(late)
    assert files(tmp_path) == kept
    same = writer(out)
    with same.begin():
        assert same.finished_class(0) == {"label": 0}
        assert same.finished_class(1) is None


def test_a_run_leaves_nothing_where_another_has_finished_in_the_meantime(tmp_path: Path) -> None:
    out = tmp_path / "set"
    late = writer(out)
    finish(writer(out))
    with pytest.raises(PydreamError, match="already holds a distilled set"):
        enter(late)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    """A run killed before it wrote what it is leaves one."""
    (tmp_path / "set.partial").mkdir()
    finish(writer(tmp_path / "set", resume=False))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_run_killed_as_it_wrote_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / ".identity.json.there-1.beside").write_text('{"se')
    finish(writer(tmp_path / "set", resume=False))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / ".identity.json.there-1.beside").touch()
    (tmp_path / "set" / "manifest.json").write_text(MANIFEST)
    assert finished_manifest(tmp_path / "set", IDENTITY) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def kill_at_removal(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process die instead of its nth removal of a file or folder."""
    removals = itertools.count()

    def patched(remove: Callable[..., None]) -> Callable[..., None]:
        def dying(*arguments: Any, **options: Any) -> None:
            if next(removals) == number:
                raise KilledError
            remove(*arguments, **options)

        return dying

    monkeypatch.setattr(os, "unlink", patched(os.unlink))
    monkeypatch.setattr(os, "rmdir", patched(os.rmdir))


def test_a_run_killed_while_it_forgets_is_finished_by_the_next(tmp_path: Path) -> None:
    """Killed before each file and folder that it removes, until it removes all."""
    for number in itertools.count():
        out, moved = tmp_path / f"{number}" / "set", tmp_path / f"{number}" / "moved"
        run = writer(out)
        with run.begin():
            write(run, 0)
            run.write_text(run.set / "manifest.json", MANIFEST)
            with pytest.MonkeyPatch.context() as patch:
                kill_at_removal(patch, number)
                try:
                    run.finish()
                except KilledError:
                    pass
                else:
                    break
        made = files(out)
        kept = shutil.copytree(run.partial, tmp_path / f"{number}" / "kept")
        finished = finished_manifest(out, IDENTITY)
        assert finished is not None
        assert finished.as_text() == MANIFEST
        assert not run.partial.exists()
        # With the set out of the way, a run goes on from what is left, and makes all images.
        kept.rename(run.partial)
        out.rename(moved)
        again = writer(out)
        with again.begin():
            assert again.finished_class(0) is None
        finish(again)
        assert files(out) == made == files(moved)
    assert number > 4  # of them: state with a record, scratch, identity, the folder
    assert not run.partial.exists()


def test_what_another_run_keeps_beside_a_finished_set_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "set"
    finish(writer(out))
    other = tmp_path / "other"
    begin_and_die(other)
    (tmp_path / "other.partial").rename(tmp_path / "set.partial")
    (out / "manifest.json").write_text(manifest_of({"seed": 7}))
    kept = files(tmp_path / "set.partial")
    assert finished_manifest(out, {"seed": 7}) is not None
    assert files(tmp_path / "set.partial") == kept


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.partial").write_text("mine")
    with pytest.raises(PydreamError, match="is not a partial training: move it away"):
        PartialRun(tmp_path / "w", {}, resume=True, what="training", check=check_free)
    assert (tmp_path / "w.partial").read_text() == "mine"


@pytest.mark.parametrize("how", ["a number changed", "cut", "empty", "not text"])
def test_damaged_work_is_refused_and_named(tmp_path: Path, how: str) -> None:
    out = tmp_path / "set"
    begin_and_die(out)
    file = tmp_path / "set.partial" / "state" / "00000.json"
    data = file.read_bytes()
    file.write_bytes(
        {
            "a number changed": data.replace(b"0}", b"1}"),
            "cut": data[:-3],
            "empty": b"",
            "not text": b"\xff" + data,
        }[how]
    )
    with pytest.raises(PydreamError, match=r"00000\.json is damaged.*remove it"):
        writer(out).finished_class(0)
    file.unlink()
    finish(writer(out))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff{}", b"[" * 100_000])
def test_a_damaged_identity_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    begin_and_die(tmp_path / "set")
    (tmp_path / "set.partial" / "identity.json").write_bytes(content)
    with pytest.raises(PydreamError, match=r"identity\.json is damaged"):
        writer(tmp_path / "set")


def test_settings_that_differ_by_an_entry_of_none_are_named() -> None:
    assert differences({"views": {"mix": None}}, {"views": {}}) == ["views: its entries"]
