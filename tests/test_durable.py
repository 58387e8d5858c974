"""What is on the disk when a name says that it is whole: by the calls of the system, in order."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from pydream.durable import make_folder, rename, sync, sync_tree
from pydream.errors import PydreamError
from pydream.files import write_new, write_whole, written_beside
from pydream.partial import PartialRun
from pydream.sets.writer import SetWriter


class Disk:
    """What is synchronised, and what is not yet when a file or folder is renamed."""

    def __init__(self) -> None:
        self.synced: dict[str, int] = {}  # by path, the time of its last change that is on disk
        self.renamed: list[Path] = []
        self.missing: list[str] = []
        self.new_names: set[str] = set()  # folders with names that are not on the disk

    def fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self.synced[path] = os.stat(path).st_mtime_ns
        self.new_names.discard(path)

    def check(self, path: Path) -> None:
        """Note what in a file or folder is not on the disk."""
        for entry in [path, *path.rglob("*")]:
            if not entry.is_symlink() and self.synced.get(str(entry)) != entry.stat().st_mtime_ns:
                self.missing.append(str(entry))

    def link(self, source: os.PathLike[str], target: os.PathLike[str]) -> None:
        self.replace(source, target)
        Path(source).touch()  # the other name, which is to be removed

    def replace(self, source: os.PathLike[str], target: os.PathLike[str]) -> None:
        path, place = Path(source), Path(target)
        self.check(path)
        os.rename(path, place)
        for entry in (place, *place.rglob("*")):
            before = str(path / entry.relative_to(place))
            if before in self.synced:
                self.synced[str(entry)] = self.synced.pop(before)
        self.renamed.append(place)
        self.new_names.add(str(place.parent))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not tell the path of a descriptor")
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(os, "link", disk.link)
    monkeypatch.setattr(os, "replace", disk.replace)
    return disk


def test_a_file_is_on_the_disk_before_its_name_and_its_name_after_it(
    disk: Disk, tmp_path: Path
) -> None:
    place = tmp_path / "a" / "b" / "file"
    write_new(place, b"first")
    write_whole(place, b"second")
    assert disk.new_names == set()
    assert disk.renamed == [place, place]
    assert disk.missing == []
    made = {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")}
    assert made <= disk.synced.keys()


def test_all_in_a_folder_is_on_the_disk_before_its_name(disk: Disk, tmp_path: Path) -> None:
    with written_beside(tmp_path / "out") as folder:
        for number in range(9):
            (folder / f"{number % 3}").mkdir(parents=True, exist_ok=True)
            (folder / f"{number % 3}" / f"{number}").write_bytes(b"content")
        (folder / "link").symlink_to("nowhere")
    assert disk.renamed == [tmp_path / "out"]
    assert disk.missing == []


def test_a_class_is_on_the_disk_before_its_record_and_the_set_before_its_place(
    disk: Disk, tmp_path: Path
) -> None:
    writer = SetWriter(tmp_path / "runs" / "set", {"seed": 0}, resume=False)
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    with writer.begin():
        for label in range(2):
            writer.write_class(label, images, {"rows": []}, image_format="png", quality=90)
        writer.write_provenance([])
        disk.check(writer.set)
        writer.finish()
    assert disk.new_names == set()
    assert disk.missing == []
    names = [place.name for place in disk.renamed]
    assert names.index("00000") < names.index("00000.json") < names.index("set")
    assert str(tmp_path / "runs") in disk.synced


def test_the_state_of_a_run_is_removed_before_what_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PartialRun(tmp_path / "out", {}, resume=False, what="run", check=lambda out: None)
    left: list[list[str]] = []
    with run.begin():
        run.keep("record", {})

        def fsync(descriptor: int) -> None:
            left.append(sorted(path.name for path in run.partial.rglob("*")))

        monkeypatch.setattr(os, "fsync", fsync)
        run.forget()
    assert left == [["identity.json"], []]
    assert not run.partial.exists()


def test_an_error_of_the_disk_is_told_and_the_file_before_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_whole(file, b"first")

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(PydreamError, match=f"cannot write {file}: Input/output error; finished"):
        write_whole(file, b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_a_folder_that_may_not_be_listed_takes_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: Path, flags: int, *given: int) -> int:
        if flags == os.O_RDONLY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *given)

    (tmp_path / "source").write_bytes(b"content")
    monkeypatch.setattr(os, "open", refuse)
    rename(tmp_path / "source", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(PermissionError):  # a file is another thing
        sync(tmp_path / "file")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_synchronisation_is_left_to_itself(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    make_folder(tmp_path / "folder" / "within")
    sync(tmp_path)
    sync_tree(tmp_path)
