"""Places for what a run writes: named, tried, kept for one process, written whole or not at all."""

from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from pydream import dream, rded
from pydream.demo import DemoConfig, run_demo
from pydream.dream import CompareConfig, DreamConfig, ExpertsConfig
from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig, RelabelConfig
from pydream.files import (
    check_free,
    check_place,
    disk_errors,
    expand_home,
    first_free,
    locked,
    name_after,
    remove_leftovers,
    write_new,
    write_whole,
    written_beside,
)
from pydream.inspection import InspectConfig
from pydream.models import ObserverConfig, train_observer
from pydream.profiling import profile
from pydream.rded import RdedConfig
from pydream.refinement import RefineConfig
from pydream.sets import ExportConfig, export_set
from pydream.sets.config import MergeConfig


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # which need not exist
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(home: Path) -> None:
    given, seen = "~/a/b", str(home / "a" / "b")
    for config in (
        RdedConfig(given, given, out=Path(given)),
        DreamConfig(given, out=Path(given)),
        CompareConfig(given, out=Path(given)),
        ObserverConfig(given, out=Path(given)),
        DemoConfig(out=Path(given)),
        EvaluateConfig(set=Path(given), observer=given, source=given, out=Path(given)),
        RelabelConfig(set=Path(given), observer=given, source=given, classes=Path(given)),
        InspectConfig(set=Path(given), observer=given, source=given),
        ExportConfig(Path(given), "tensors", Path(given), observer=given),
    ):
        paths = [value for value in vars(config).values() if str(value).endswith("a/b")]
        assert paths
        assert {str(path) for path in paths} == {seen}, config


class _Named:
    """A path of another library."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return self._path


@pytest.mark.parametrize("kind", [str, Path, _Named])
def test_a_setting_takes_its_path_in_any_form(kind: Callable[[str], Any]) -> None:
    path, one, other = kind("a"), kind("one"), kind("other")
    for config in (
        RdedConfig(path, (one, other), out=path),
        RdedConfig(path, one, out=path, ipc=3),
        DreamConfig(path, out=path, framework="mtt", experts=path),
        CompareConfig(path, out=path),
        ExpertsConfig(path, out=path),
        ObserverConfig(path, out=path),
        DemoConfig(out=path),
        EvaluateConfig(set=path, observer=one, source=path, out=path, classes=path),
        RelabelConfig(set=path, observer=one, source=path, classes=path),
        RefineConfig(set=path, observer=(one, other), source=path, out=path),
        InspectConfig(set=path, observer=one, source=path, classes=path),
        ExportConfig(path, "ddranking", path, observer=one),
        MergeConfig(path, (one, other)),
    ):
        hints = get_type_hints(type(config))
        for name, value in vars(config).items():
            if value in ("a", Path("a")):
                assert isinstance(value, Path if "Path" in str(hints[name]) else str), name
        assert not any(isinstance(value, _Named) for value in vars(config).values())
        observer = getattr(config, "observer", None)
        assert observer in (None, "one", ("one", "other"))
    assert MergeConfig(path, (one, other)).parts == (Path("one"), Path("other"))


def test_a_tilde_may_stand_behind_the_name_of_a_set_and_within_a_name(home: Path) -> None:
    assert expand_home("mnist:~/data") == f"mnist:{home}/data"
    assert expand_home(Path("~")) == home
    for same in ("digits", "a/~/b", "a~", "cifar10:data", "C:/photos"):
        assert expand_home(same) == same


def test_a_home_that_is_not_known_is_refused_unless_a_folder_has_that_name(home: Path) -> None:
    name = "~nobody-of-this-name"
    with pytest.raises(PydreamError, match=f"no home folder is known for {name}; .* ./{name}/x"):
        expand_home(f"{name}/x")
    Path(name).mkdir()
    assert expand_home(name) == name


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_refused_with_the_setting_that_it_was_given_for(name: str) -> None:
    with pytest.raises(PydreamError, match=r"^source is empty: name a file or folder$"):
        RdedConfig(name, "observer.pt")
    with pytest.raises(PydreamError, match=r"^observer is empty: name a file or folder$"):
        RdedConfig("photos", name)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos", "photos"),
        (".", "here.v2"),
        ("..", "above"),
        ("below.v1", "below.v1"),
        ("odd:name/photos", "photos"),
        ("a/b.zip", "b"),
        ("a/b.v1.npz", "b.v1"),
        ("data/train.tar", "train"),
        ("data/train.tar.gz", "train"),
        ("data/Train.TAR.zst", "Train"),
        ("data/train.tgz", "train"),
        ("digits", "digits"),
        ("cifar10:/data/x", "cifar10"),
        ("cifar10:data", "cifar10"),
        ("fashion-mnist:.", "fashion-mnist"),
        ("C:photos", "C:photos"),
    ],
)
def test_what_is_made_of_a_source_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str
) -> None:
    here = tmp_path / "above" / "here.v2"
    for folder in ("below.v1", "odd:name/photos"):
        (here / folder).mkdir(parents=True)
    monkeypatch.chdir(here)
    assert name_after(source) == name


def test_a_place_that_can_be_written_to_is_left_as_it_was(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path / "a" / "b" / "new", tmp_path):
        check_place(path)
    check_free(tmp_path / "a" / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "does not name a new file or folder: give another --out"),
        (".", "does not name a new file or folder"),
        ("..", "does not name a new file or folder"),
        ("file/x/y", "file/x/y cannot be made, since .*file is not a folder: give another --out"),
        ("n" * 300, "cannot be written: File name too long; give another --out"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    for check in (check_place, check_free):
        with pytest.raises(PydreamError, match=message):
            check(Path(name))


def test_a_read_only_folder_and_a_full_disk_are_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played, since root may write anywhere."""
    for code in (errno.EROFS, errno.EACCES, errno.ENOSPC):

        def refuse(code: int = code, **options: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("pydream.files.tempfile.TemporaryFile", refuse)
        with pytest.raises(PydreamError, match=rf"new cannot be written: {os.strerror(code)}; "):
            check_place(tmp_path / "new")


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(PydreamError, match="is not overwritten: take another"):
            write_new(tmp_path / name, b"ours", "take another")
    assert (tmp_path / "file").read_text() == "mine"
    write_new(tmp_path / "a" / "b", b"ours")
    assert (tmp_path / "a" / "b").read_bytes() == b"ours"


def test_numbered_files_take_the_first_that_is_free(tmp_path: Path) -> None:
    for _ in range(3):
        first_free(lambda number: tmp_path / str(number), lambda path: path.open("x").close())
    (tmp_path / "2").unlink()
    again = first_free(lambda number: tmp_path / str(number), lambda path: path.mkdir())
    assert again == tmp_path / "2"


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_whole(file, b"before")
    before, limit = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.RLIMIT_FSIZE
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (1000, hard))
    try:
        with pytest.raises(PydreamError, match=r"cannot write .*: File too large; finished work"):
            write_whole(file, bytes(5000))
    finally:
        resource.setrlimit(limit, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    """A child has the folder until its standard input is closed."""
    script = f"""if True:
        import sys
        from pathlib import Path
        from pydream.files import locked
        with locked(Path({str(tmp_path)!r})):
            print("mine", flush=True)
            sys.stdin.read()
        """
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "mine\n"
        another = pytest.raises(PydreamError, match="another process of pydream is writing to")
        with another, locked(tmp_path):
            pass
        child.communicate()
    with locked(tmp_path):
        pass


def test_errors_of_the_disk_name_the_file_and_what_helps(tmp_path: Path) -> None:
    told = pytest.raises(PydreamError, match=r"cannot write .*nowhere: .* directory; try again")
    with told, disk_errors(tmp_path, "try again"):
        (tmp_path / "nowhere").rmdir()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file/x", "cannot be made, since .*file is not a folder: give"),
        (".", r"'\.' does not name a new file or folder: give"),
        ("file", "exists|not a folder"),
    ],
)
def test_every_command_tries_the_place_of_its_output_before_it_opens_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    place = Path(out)
    for run in (
        lambda: rded.distill(RdedConfig("nowhere", "nowhere", out=place)),
        lambda: dream.distill(DreamConfig("nowhere", out=place)),
        lambda: dream.compare(CompareConfig("nowhere", out=place)),
        lambda: train_observer(ObserverConfig("nowhere", out=place)),
        lambda: export_set(ExportConfig(Path("nowhere"), "tensors", place)),
        lambda: profile(RdedConfig("nowhere", "nowhere"), place),
        lambda: run_demo(DemoConfig(out=place)),
    ):
        with pytest.raises(PydreamError, match=message):
            run()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path("file").read_text() == "mine"


def test_what_is_made_beside_its_place_is_put_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(make: Callable[[Path], None]) -> None:
        with written_beside(tmp_path / "no") as beside:
            make(beside)
            raise ValueError("stopped")

    for make, name in ((Path.touch, "file"), (Path.mkdir, "folder")):
        with written_beside(tmp_path / name) as beside:
            make(beside)
            assert not (tmp_path / name).exists()
        assert (tmp_path / name).exists()
        with pytest.raises(ValueError, match="stopped"):
            fail(make)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*paths: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:  # as on FAT
        monkeypatch.setattr(os, "link", refuse)
    file = tmp_path / "file"

    def write_late() -> None:
        with written_beside(file, "another", new_file=True) as beside:
            beside.write_text("late")
            file.write_text("first")

    with pytest.raises(PydreamError, match=rf"{file} exists and is not overwritten: another"):
        write_late()
    assert file.read_text() == "first"
    with written_beside(tmp_path / "other", new_file=True) as beside:
        beside.write_text("alone")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "file": "first",
        "other": "alone",
    }


def test_threads_of_a_process_write_apart(tmp_path: Path) -> None:
    place, both = tmp_path / "file", threading.Barrier(2)

    def write(text: str) -> Path:
        with written_beside(place) as beside:
            both.wait(60)
            beside.write_text(text)
        return beside

    with ThreadPoolExecutor(2) as pool:
        assert len({*pool.map(write, ["one", "other"])}) == 2
    assert place.read_text() in ("one", "other")
    assert [*tmp_path.iterdir()] == [place]


def test_a_full_disk_beside_a_place_is_told_with_what_to_do(tmp_path: Path) -> None:
    message = rf"cannot write {tmp_path}/x: No space left on device; another"
    with pytest.raises(PydreamError, match=message), written_beside(tmp_path / "x", "another"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ended_process() -> int:
    """Return the number of a process that has ended, and is another's at the earliest by chance."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    host, ended = platform.node(), ended_process()
    gone = (f".a.{host}-{ended}.beside", f".a [1].{host}-{ended}.beside")
    kept = (
        f".a.{host}-{os.getpid()}.beside", f".a.elsewhere-{ended}.beside", f".a.{host}-{ended}",
        f".a.{host}-x.beside", ".a.beside", "a",
    )  # fmt: skip
    for name in (*gone, *kept):
        (tmp_path / name).write_text("mine")
    (folder := tmp_path / f".b.{host}-{ended}.beside").mkdir()
    (folder / "half").touch()
    remove_leftovers(tmp_path, "a [1]")
    assert {path.name for path in tmp_path.iterdir()} == {*gone[:1], *kept, folder.name}
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept}


def test_what_a_killed_process_of_the_same_number_left_is_not_put_in_place(tmp_path: Path) -> None:
    """As in a container, where each start has the same process number."""
    writer = f"{platform.node()}-{threading.get_native_id()}-{os.getpid()}"
    left = tmp_path / f".out.{writer}.beside"
    left.mkdir()
    (left / "half").touch()
    with written_beside(tmp_path / "out") as beside:
        beside.mkdir()
    assert [*tmp_path.rglob("*")] == [tmp_path / "out"]
