"""Files that take long to make, made once and kept in a cache."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from pydream.data.remote import AnyPath, RemotePath
from pydream.durable import make_folder, rename, sync
from pydream.errors import PydreamError, first_line
from pydream.progress import say


def _gzip(file: IO[bytes]) -> Any:
    return gzip.GzipFile(fileobj=file)


def _zstd(file: IO[bytes]) -> Any:
    import pyarrow  # has its own codecs; the import takes a while

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")


COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"(\xb5/\xfd": _zstd,
}
"""Functions that open compressed files, by their first bytes."""

DIGEST = 32
"""Bytes of a SHA-256."""

_AT_ONCE = 16 << 20
# A compressed tar may grow by so much, and beyond that to so many times its size. A tar of small
# images is padded with zeros, but hardly to ten times their size.
_FREELY, _MOST_TIMES = 1 << 30, 100


def decompressed(path: AnyPath, magic: bytes) -> Path:
    """Return the decompressed content of a file, from the cache if it is there.

    Parameters
    ----------
    path
        The compressed file.
    magic
        First bytes of the file, a key of `COMPRESSED`.

    Raises
    ------
    PydreamError
        If it is damaged, or the cache cannot be written.
    """
    stem = path.name.partition(".")[0]
    return kept(path, [path], (stem, ".tar"), "decompress", partial(_decompress, path, magic))


def unpacked(content: bytes, most: int) -> bytes:
    """Return the decompressed content of a small file, or the content itself if it is not.

    Raises
    ------
    ValueError
        If it has more bytes than `most`; other errors if it is damaged.
    """
    for magic, opened in COMPRESSED.items():
        if content.startswith(magic):
            with opened(io.BytesIO(content)) as source:
                content = source.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes when decompressed")
    return content


def fetched(path: AnyPath) -> Path:
    """Return a file of the disk as it is, and one of a store from the cache, fetched if needed.

    Raises
    ------
    PydreamError
        If it cannot be fetched, or the cache cannot be written.
    """
    if isinstance(path, Path):
        return path
    return kept(path, [path], (path.stem, path.suffix), "fetch", partial(_fetch, path))


def _fetch(path: RemotePath, target: IO[bytes]) -> None:
    with path.open("rb", _AT_ONCE) as source:
        shutil.copyfileobj(source, target, _AT_ONCE)


def kept(
    path: AnyPath | str,
    files: Sequence[AnyPath],
    name: tuple[str, str],
    action: str,
    write: Callable[[IO[bytes]], None],
) -> Path:
    """Return a file of the cache, which is written if it is not there.

    The name of a file in the cache depends on the paths, the sizes and the modification times of
    what it is made of, or on URLs, sizes and ETags. `make_once` says how it is written.

    Parameters
    ----------
    path
        The source, for messages.
    files
        What the file is made of.
    name
        Its name before and after the part that depends on the files.
    action
        What is done to the source, for messages: decompress or unpack.
    write
        Function that writes the content.

    Raises
    ------
    PydreamError
        If the cache cannot be written, or from `write`.
    """
    identity = "\0".join(map(_identity, files))
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    folder = cache_folder()
    if folder is None:
        raise PydreamError(
            f"{path}: where should it be {action}ed? There is no home folder: set XDG_CACHE_HOME "
            "to a folder with enough room"
        )
    place = folder / f"{name[0]}-{digest}{name[1]}"
    try:
        make_once(place, write, f"{path}: {action}ing it once, to {place}")
    except OSError as error:
        raise PydreamError(
            f"{path}: cannot be {action}ed to {folder}: {error.strerror or error}; set "
            f"XDG_CACHE_HOME to a folder with enough room, or {action} it yourself"
        ) from error
    return place


def kept_bytes(
    path: AnyPath | str,
    files: Sequence[AnyPath],
    name: tuple[str, str],
    action: str,
    write: Callable[[IO[bytes]], None],
) -> bytes:
    """Return the content of a small file of the cache, made as by `kept`, whose parameters it has.

    Its SHA-256 lies behind it in the file. A damaged file is made again.

    Raises
    ------
    PydreamError
        The same as for `kept`, and if the file is damaged as soon as it is made.
    """

    def write_all(target: IO[bytes]) -> None:
        content = io.BytesIO()
        write(content)
        target.write(content.getvalue())
        target.write(hashlib.sha256(content.getbuffer()).digest())

    for _ in range(2):
        place = kept(path, files, name, action, write_all)
        with reading_cache(place):
            content = place.read_bytes()
        data = content[:-DIGEST]
        if content[-DIGEST:] == hashlib.sha256(data).digest():
            return data
        forget_damaged(place)
    raise PydreamError(f"{place} is damaged as soon as it is written: set XDG_CACHE_HOME to a disk")


@contextmanager
def reading_cache(place: Path) -> Iterator[None]:
    """Name the file of the cache if the disk does not give it."""
    try:
        yield
    except OSError as error:
        raise PydreamError(
            f"{place} cannot be read: {error.strerror or error}; remove it, or set XDG_CACHE_HOME "
            "to another folder"
        ) from error


def forget_damaged(place: Path) -> None:
    """Remove a damaged file of the cache, and say so."""
    say(f"{place}: is damaged, and made again")
    with suppress(OSError):
        place.unlink()


def make_once(place: Path, write: Callable[[IO[bytes]], None], announcement: str) -> None:
    """Write a file of the cache unless it is there.

    It is written under another name and renamed when complete, so no partial file is ever read. Of
    several runs, one writes it while the others wait. Remains of a killed run are overwritten by
    the next one.

    Parameters
    ----------
    place
        The file, in `cache_folder`.
    write
        Function that writes the content.
    announcement
        What is said before.

    Raises
    ------
    OSError
        If the cache cannot be written.
    """
    if place.is_file():
        return
    make_folder(place.parent)
    with _sole_writer(place) as part:
        if not place.is_file():  # else another run has made it meanwhile
            say(announcement)
            write(part)
            part.flush()
            sync(Path(part.name))
            rename(Path(part.name), place)


def cache_folder() -> Path | None:
    """Return ``$XDG_CACHE_HOME/pydream`` or ``~/.cache/pydream``; None if there is no home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # required by the XDG specification
        return Path(named) / "pydream"
    try:
        return Path.home() / ".cache" / "pydream"
    except RuntimeError:
        return None


def _identity(file: AnyPath) -> str:
    if isinstance(file, RemotePath):
        return f"{file}\0{file.state.size}\0{file.state.mark}"
    status = file.stat()
    return f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"


@contextmanager
def _sole_writer(place: Path) -> Iterator[IO[bytes]]:
    """Open the empty file that will be renamed to `place`, while no other run has it open.

    It is removed at the end unless it was renamed.
    """
    file = _locked(place)
    try:
        file.truncate(0)
        yield file
    finally:
        with suppress(OSError):
            os.unlink(file.name)
        with suppress(OSError):  # data that a full disk has refused
            file.close()


def _locked(place: Path) -> IO[bytes]:
    """Lock the temporary file of `place`, perhaps left by a killed run; wait for other runs.

    If the file system has no locks, each run uses a file of its own.
    """
    import fcntl  # absent on Windows

    part = place.with_name(f"{place.name}.part")
    while True:
        file = open(part, "ab")  # noqa: SIM115  (its lock is held as long as it is open)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{place}: another run is writing it; waiting for that")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            file.close()
            part.unlink(missing_ok=True)
            return open(place.with_name(f"{place.name}.{os.getpid()}.part"), "ab")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        file.close()  # the other run has renamed or removed it


def _decompress(path: AnyPath, magic: bytes, target: IO[bytes]) -> None:
    """Write the content; distinguish errors of the file itself from those of the disk."""
    written = 0
    with path.open("rb", _AT_ONCE) as file, COMPRESSED[magic](file) as source:
        while True:
            if written > _FREELY and written > _MOST_TIMES * file.tell():
                raise PydreamError(
                    f"{path}: is refused: it grows to more than {_MOST_TIMES} times its size, as "
                    "images do not; if you trust it, decompress it, and name the .tar"
                )
            try:
                data = source.read(_AT_ONCE)
            except (EOFError, zlib.error, lzma.LZMAError, OSError, ValueError) as error:
                reason = first_line(error)
                raise PydreamError(
                    f"{path}: cannot be decompressed, it is damaged or cut off: {reason}; fetch it "
                    "again"
                ) from error
            if not data:
                return
            written += target.write(data)
