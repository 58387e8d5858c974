"""Classes written by threads, several at a time: finished only when all their files are."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from pydream.durable import sync_tree
from pydream.errors import PydreamError
from pydream.ranks import Ranks
from pydream.sets import writer as writer_module
from pydream.sets.writer import SetWriter

LARGE = torch.zeros(2, 3, 65, 65, dtype=torch.uint8)  # two images of more bytes than are small
SMALL = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
PATIENCE = 60.0  # seconds, after which a test that would wait for ever fails


@pytest.fixture
def writer(tmp_path: Path) -> SetWriter:
    return SetWriter(tmp_path / "set", {"seed": 0}, resume=True)


def write(writer: SetWriter, label: int, images: torch.Tensor, waiting: int | None) -> None:
    writer.write_class(
        label, images, {"label": label}, image_format="png", quality=1, waiting=waiting
    )


class _Held:
    """Saves images when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        save = writer_module.save_image

        def held(*given: Any) -> None:
            self.begun.set()
            assert self.go.wait(PATIENCE)
            save(*given)

        monkeypatch.setattr(writer_module, "save_image", held)


@pytest.mark.parametrize("images", [SMALL, LARGE], ids=["small", "large"])
def test_a_class_is_finished_when_its_files_are_there(
    writer: SetWriter, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor
) -> None:
    held = _Held(monkeypatch)
    with writer.begin():
        write(writer, 0, images, waiting=2 * images.nbytes)
        write(writer, 1, images, waiting=2 * images.nbytes)  # returns, as both have room
        assert held.begun.wait(PATIENCE)
        assert writer.finished_class(0) is None
        held.go.set()
        writer.settle()
        assert [writer.finished_class(label) for label in (0, 1)] == [{"label": 0}, {"label": 1}]
        assert len(list((writer.set / "images").glob("*/*.png"))) == 2 * len(images)


def test_no_more_images_wait_than_there_is_room_for(
    writer: SetWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = _Held(monkeypatch)
    with writer.begin():
        write(writer, 0, LARGE, waiting=LARGE.nbytes)
        threading.Timer(0.05, held.go.set).start()
        write(writer, 1, LARGE, waiting=LARGE.nbytes)  # waits until the first is encoded
        assert held.go.is_set()


def test_a_call_that_lets_none_wait_returns_when_images_are_encoded_or_the_class_is_finished(
    writer: SetWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def held(path: Path) -> None:
        assert go.wait(PATIENCE)
        sync_tree(path)

    monkeypatch.setattr("pydream.sets.writer.sync_tree", held)
    with writer.begin():
        write(writer, 0, LARGE, waiting=0)
        assert len(list(writer.partial.glob("scratch/*/*.png"))) == len(LARGE)
        assert writer.finished_class(0) is None
        threading.Timer(0.05, go.set).start()
        write(writer, 1, LARGE, waiting=None)
        assert [writer.finished_class(label) for label in (0, 1)] == [{"label": 0}, {"label": 1}]


def test_classes_that_were_begun_are_kept_when_the_run_fails(
    writer: SetWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = _Held(monkeypatch)
    with suppress(PydreamError), writer.begin():
        write(writer, 0, LARGE, waiting=LARGE.nbytes)
        held.go.set()
        raise PydreamError("of the run")
    assert writer.finished_class(0) == {"label": 0}


def test_a_class_with_a_file_that_cannot_be_written_is_not_finished(
    writer: SetWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = writer_module.save_image

    def full(image: torch.Tensor, file: Path, quality: int) -> None:
        if file.name == "00001.png":
            raise OSError(28, "No space left on device")
        save(image, file, quality)

    monkeypatch.setattr(writer_module, "save_image", full)
    fails = pytest.raises(PydreamError, match=r"No space left on device.*--resume")
    with fails, writer.begin():
        write(writer, 0, LARGE, waiting=0)
    assert writer.finished_class(0) is None


def test_a_class_that_two_processes_write_is_that_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two shards of one number do; here in one process that has two names."""
    writers = [SetWriter(tmp_path / "set", {"seed": 0}, resume=True) for _ in range(2)]
    held = _Held(monkeypatch)
    with writers[0].begin(Ranks(0, 2)), writers[1].begin(Ranks(0, 2)):
        for number, writer in enumerate(writers):
            monkeypatch.setattr("platform.node", lambda number=number: f"machine-{number}")
            write(writer, 0, SMALL, waiting=1 << 20)
        held.go.set()
        for writer in writers:
            writer.settle()
        [first, second] = (writers[0].set / "images" / "00000").iterdir()
        before = first.stat().st_mtime_ns, second.stat().st_mtime_ns
        write(writers[1], 0, SMALL, waiting=None)  # which does not know that it is finished
        assert (first.stat().st_mtime_ns, second.stat().st_mtime_ns) == before
        assert writers[1].finished_class(0) == {"label": 0}
        assert not [*writers[0].partial.glob("scratch/*")]
