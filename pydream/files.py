"""Files and folders of a run: checked before the work begins, and written atomically."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import itertools
import os
import platform
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydream.durable import make_folder, rename, renamed_anew, sync_tree
from pydream.errors import PydreamError
from pydream.urls import is_url, without_secrets

PathLike = TypeVar("PathLike", str, Path)
_ADD_RESUME = (
    "`pydream rded`, `dream`, `experts`, `refine`, `observer` and `evaluate`: add --resume"
)
KEPT = "finished work is kept; fix this and run the same command again"
RESUME = f"{KEPT} ({_ADD_RESUME})"
STOPPED = f"stopped; finished work is kept; run the same command again to continue ({_ADD_RESUME})"
ANOTHER_OUT = "give another --out"


def expand_home(path: PathLike) -> PathLike:
    """Replace a leading ``~`` by the home folder, also after the name of a set (``mnist:~/data``).

    Raises
    ------
    PydreamError
        If the home folder is unknown.
    """
    text = str(path)
    name, colon, root = text.partition(":")
    if not (colon and root.startswith("~") and name.isprintable() and os.sep not in name):
        name, colon, root = "", "", text
    if not root.startswith("~"):
        return path
    expanded = os.path.expanduser(root)
    if expanded.startswith("~") and not os.path.lexists(root):
        raise PydreamError(
            f"{text}: no home folder is known for {root.split(os.sep)[0]}; give the whole path, or "
            f"./{root} for a folder of that name"
        )
    return type(path)(name + colon + expanded)


def expand_settings(settings: Any, *names: str) -> None:
    """Expand ``~`` in the named settings of a frozen dataclass, which are paths or several paths.

    Any path may be given as a str or an `os.PathLike`. It becomes a `Path` if the setting is one,
    and a str otherwise.

    Raises
    ------
    PydreamError
        If one of them is empty, and in the cases of `expand_home`.
    """
    # As text, because the marks in annotations need tyro.
    annotations = {setting.name: str(setting.type) for setting in dataclasses.fields(settings)}
    for name in names:
        value = getattr(settings, name)
        if value is None:
            continue
        kind: type[Path | str] = Path if re.search(r"\bPath\b", annotations[name]) else str
        several = isinstance(value, (tuple, list))
        given = [os.fspath(path) for path in (value if several else [value])]
        if not all(path.strip() for path in given):
            raise PydreamError(f"{name} is empty: name a file or folder")
        paths = tuple(kind(expand_home(path)) for path in given)
        object.__setattr__(settings, name, paths if several else paths[0])


def name_after(source: str) -> str:
    """Return a name for the result of a source; the method adds its own.

    Parameters
    ----------
    source
        A folder gives its name; a file its name without its kind's ending (also ``.tar.gz``); a set
        of torchvision, such as ``mnist:ROOT``, the name of the set; a URL its last part.
    """
    if is_url(source):
        source = without_secrets(source).rpartition("://")[2].rstrip("/").rpartition("/")[2]
    path = Path(source)
    name, colon, _ = source.partition(":")
    if colon and len(name) > 1 and os.sep not in name and not os.path.lexists(path):
        return name  # one letter is a drive of Windows
    path = with_own_name(path)
    if path.is_dir():
        return path.name or "images"
    return Path(path.stem).stem if path.stem.lower().endswith(".tar") else path.stem


def with_own_name(path: Path) -> Path:
    """Return a path that ends in a name: as it is, or resolved if it ends in ``.`` or ``..``."""
    return path.resolve() if path.name in ("", "..") else path


def check_place(path: Path, remedy: str = ANOTHER_OUT) -> None:
    """Check that a file or folder can be made, or that an existing folder can be written to.

    Parameters
    ----------
    path
        The file or folder; folders above it need not exist.
    remedy
        Advice for the user if the path cannot be used.

    Raises
    ------
    PydreamError
        If the path has no name, is below a file, or cannot be written.
    """
    if path.name in ("", ".."):
        raise PydreamError(f"{str(path)!r} does not name a new file or folder: {remedy}")
    try:
        folder = next(
            ancestor for ancestor in (path, *path.absolute().parents) if _is_there(ancestor)
        )
        if not folder.is_dir():
            raise PydreamError(f"{path} cannot be made, since {folder} is not a folder: {remedy}")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PydreamError(f"{path} cannot be written: {error.strerror}; {remedy}") from error


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def check_free(path: Path, remedy: str = ANOTHER_OUT) -> None:
    """Check that a path is free and can be written.

    Raises
    ------
    PydreamError
        If the path exists, and in the cases of `check_place`.
    """
    if os.path.lexists(path) and path.name not in ("", ".."):
        raise PydreamError(_exists(path, remedy))
    check_place(path, remedy)


def _exists(path: Path, remedy: str) -> str:
    return f"{path} exists and is not overwritten: {remedy}"


def first_free(name: Callable[[int], Path], make: Callable[[Path], Any]) -> Path:
    """Make the first of numbered files or folders that does not exist, and return its path.

    Parameters
    ----------
    name
        Function that returns the path of a number, from 1 on.
    make
        Function that makes it; raises FileExistsError if it exists.
    """
    for number in itertools.count(1):
        path = name(number)
        with contextlib.suppress(FileExistsError):
            make(path)
            return path
    raise AssertionError  # numbers do not end


@contextmanager
def disk_errors(path: Path, remedy: str = KEPT) -> Iterator[None]:
    """Turn an error of the file system into one with advice for the user."""
    try:
        yield
    except OSError as error:
        raise PydreamError(
            f"cannot write {error.filename or path}: {error.strerror or error}; {remedy}"
        ) from error


@contextmanager
def written_beside(place: Path, remedy: str = KEPT, *, new_file: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `place`, and rename it to `place` at the end.

    The block makes a file or folder there, which is brought to the disk before it is renamed. It
    replaces a file or an empty folder at `place`; after an error it is removed.

    Parameters
    ----------
    place
        The file or folder to be.
    remedy
        Advice for the user if it cannot be written.
    new_file
        Whether the block makes a file that replaces none, also if another process has made one
        meanwhile.

    Raises
    ------
    PydreamError
        If it cannot be written.
    """
    beside = hidden_beside(place)
    with disk_errors(place, remedy):
        _discard(beside)  # of a killed process of the same numbers
        try:
            yield beside
            sync_tree(beside)
            if not new_file:
                rename(beside, place)
            elif not renamed_anew(beside, place):
                raise PydreamError(_exists(place, remedy))
        finally:
            with contextlib.suppress(OSError):
                _discard(beside)


def hidden_beside(place: Path) -> Path:
    """Return a hidden path beside a place, another one for each thread of each computer.

    `remove_leftovers` removes what is there once the process has ended.
    """
    writer = f"{platform.node()}-{threading.get_native_id()}-{os.getpid()}"
    return place.with_name(f".{place.name}.{writer}.beside")


def _discard(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes of this machine left in a folder as they wrote beside a place.

    Parameters
    ----------
    folder
        The folder.
    name
        Name of the place in it; None for all.

    Raises
    ------
    PydreamError
        If it cannot be removed.
    """
    named = "*" if name is None else glob.escape(name)
    with disk_errors(folder):
        for path in folder.glob(f".{named}.{glob.escape(platform.node())}-*.beside"):
            number = path.stem.rpartition("-")[2]
            if number.isdigit() and not _is_running(int(number)):
                _discard(path)


def _is_running(process: int) -> bool:
    """Return whether a process of this machine runs, as all do as far as Windows tells."""
    if os.name == "nt":  # where this would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    return True


def write_whole(file: Path, data: bytes, remedy: str = KEPT) -> None:
    """Write a file atomically, replacing an existing one.

    Raises
    ------
    PydreamError
        If it cannot be written.
    """
    with written_beside(file, remedy) as beside:
        beside.write_bytes(data)


def write_new(file: Path, data: bytes, remedy: str = ANOTHER_OUT) -> None:
    """Write a new file atomically, and make the folders above it.

    Raises
    ------
    PydreamError
        If the file exists or cannot be written.
    """
    check_free(file, remedy)
    with disk_errors(file, remedy):
        make_folder(file.parent)
    remove_leftovers(file.parent, file.name)
    with written_beside(file, remedy, new_file=True) as beside:
        beside.write_bytes(data)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of pydream from writing to a folder during the block.

    File systems without locks, such as some network ones, are not protected.

    Raises
    ------
    PydreamError
        If another process has locked the folder.
    """
    try:
        import fcntl
    except ImportError:  # absent on Windows
        yield
        return
    with disk_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PydreamError(
                f"another process of pydream is writing to {folder}: wait for its end, or give "
                "another place"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
