from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pydream.data.decode import decode_image
from pydream.errors import PydreamError
from pydream.inspection import inspect_set
from pydream.report import write_report
from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.stored_images import StoredImages

MakeSet = Callable[..., DistilledSet]


def test_images_come_in_order_and_all_at_once(make_set: MakeSet) -> None:
    distilled = make_set(["ant", "bee", "cat"], ipc=3)
    files = sorted(distilled.path.glob("images/*/*"))
    assert len(distilled.stored) == len(files) == 9
    for index, file in enumerate(files):
        assert torch.equal(distilled.stored[index], decode_image(file.read_bytes()))
        assert torch.equal(distilled.images[index], distilled.stored[index - 9])
    assert torch.equal(distilled.stored[7:][1], distilled.stored[8])
    assert distilled.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(IndexError):
        distilled.stored[9]


def test_a_damaged_image_is_named_when_it_is_read(make_set: MakeSet) -> None:
    path = make_set().path
    file = path / "images" / "00001" / "00000.png"
    file.write_bytes(file.read_bytes()[:40])
    distilled = load_set(path)
    assert distilled.stored[0].shape == (32, 32, 3)
    reads: list[Callable[[], object]] = [lambda: distilled.stored[3], lambda: distilled.images]
    for read in reads:
        with pytest.raises(PydreamError, match=r"00001.00000\.png"):
            read()
    integrity = inspect_set(distilled).integrity
    assert integrity is not None
    assert not integrity.intact


def test_an_image_of_another_size_is_refused(make_set: MakeSet) -> None:
    path = make_set().path
    Image.new("RGB", (31, 32)).save(path / "images" / "00000" / "00002.png")
    with pytest.raises(PydreamError, match=r"00002\.png: the image is 32x31, .* 32x32"):
        load_set(path).stored[2]


class Counted(StoredImages):
    """Remembers which images were asked for."""

    def __init__(self, stored: StoredImages) -> None:
        super().__init__(stored.files, stored.side)
        self.read: set[int] = set()

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        self.read.add(index)
        return super().__getitem__(index)


def test_a_report_reads_only_what_it_shows(make_set: MakeSet) -> None:
    distilled = make_set([f"c{number}" for number in range(30)], ipc=60, side=256)
    assert isinstance(distilled.stored, StoredImages)
    stored = Counted(distilled.stored)
    assert stored.nbytes > 300 << 20
    distilled = dataclasses.replace(distilled, stored=stored)
    write_report(distilled, lambda path, data: None)
    assert "images" not in vars(distilled)
    # No more than the columns of 64 pixels that 4000 have room for, and ten of a class on the page.
    assert 30 * 10 <= len(stored.read) < 30 * 60


def test_folders_that_are_no_classes(make_set: MakeSet) -> None:
    path = make_set().path
    (path / "images" / "00001").rename(path / "images" / "00007")
    with pytest.raises(PydreamError, match="no class of that number"):
        load_set(path)


def test_missing_images_are_counted(make_set: MakeSet) -> None:
    path: Path = make_set(ipc=3).path
    (path / "images" / "00001" / "00001.png").unlink()
    with pytest.raises(
        PydreamError, match=r"promises 3 images of class .*, but its folder holds 2"
    ):
        load_set(path)
