"""The end of a tar, because `tarfile` silently takes an unreadable header for the end."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO

from pydream.data.layout import join

TAR_ERRORS = (tarfile.TarError, EOFError, ValueError, RecursionError)
"""What `tarfile` raises for damaged archives: also for numbers that are none, and for headers of
long names one after another, of which each calls the next."""

_SCANNED_AT_ONCE = 1 << 20  # bytes; whole blocks


def forwards(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar, each behind the one before it.

    Raises
    ------
    TarError
        If a size is negative, by which `tarfile` would read the same members again and again.
    """
    before = -1
    for member in archive:
        if archive.offset <= before or member.size < 0:
            raise tarfile.ReadError(f"its member {member.name!r} has a size below 0")
        before = archive.offset
        yield member


def check_whole(
    file: IO[bytes], stopped: int, end: int, last: tarfile.TarInfo | None, folder: str
) -> None:
    """Check that a tar ends where `tarfile` stopped reading it.

    A complete tar ends there in a block of zeros or, from some tools, with its last member, perhaps
    without padding to a block.

    Parameters
    ----------
    file
        File that contains the tar.
    stopped, end
        Offsets in the file: where the next member would begin, and where the tar must end.
    last
        The last member read.
    folder
        For a tar inside another one, its name without ``.tar``; for messages.

    Raises
    ------
    TarError
        If the tar is truncated, or damaged at that offset.
    """
    cut = stopped - end >= tarfile.BLOCKSIZE
    if last is not None and last.isreg() and not last.issparse():
        cut = cut or last.offset_data + last.size > end
    file.seek(stopped)
    if not cut and not any(file.read(max(0, min(tarfile.BLOCKSIZE, end - stopped)))):
        return
    if last is None:
        raise tarfile.ReadError(f"{folder}.tar inside it is not a tar archive")
    name = join(folder, last.name)
    raise tarfile.ReadError(f"its member {name!r} is cut off" if cut else f"damaged after {name!r}")


def find_appended(file: IO[bytes], stopped: int, end: int) -> tuple[int | None, int]:
    """Find the content after the zeros at the end of a tar.

    Parameters
    ----------
    file, stopped, end
        The same as for `check_whole`.

    Returns
    -------
    int or None
        Start of another tar, if several were joined by ``cat``.
    int
        Number of trailing bytes that are not a tar.
    """
    file.seek(stopped)
    place = stopped
    while place < end:
        data = file.read(min(_SCANNED_AT_ONCE, end - place))
        zeros = len(data) - len(data.lstrip(b"\0"))
        if not data:
            break
        place += zeros
        if zeros < len(data):
            place -= (place - stopped) % tarfile.BLOCKSIZE
            file.seek(place)
            try:
                tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
            except tarfile.TarError:
                return None, end - place
            return place, 0
    return None, 0
