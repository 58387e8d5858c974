"""Files and folders brought to the disk, where a crash of the machine leaves them.

A write is at first in the memory of the system, and a rename may reach the disk before the content
of what is renamed. So contents are synchronised before a name says that they are whole, and the
folder after the name is given.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Some network and user-space file systems do not know how to synchronise a file or folder.
_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
# A disk takes synchronisations of several threads as one: on ext4, one thread takes 2.0 ms for a
# new file, two 0.44, four 0.13, and more threads than that 0.11.
_THREADS = 8


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk.

    File systems that cannot do this are left to themselves, and so are Windows and folders that
    may be written to and not listed.

    Raises
    ------
    OSError
        If the disk reports an error.
    """
    if os.name == "nt":  # folders cannot be opened there, nor a file be synchronised that is read
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder and all in it, are on the disk; OSError as for `sync`."""
    if path.is_dir():
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(sync, (entry for entry in path.rglob("*") if _is_own(entry))):
                pass
    sync(path)


def rename(path: Path, place: Path) -> None:
    """Rename a file or folder, whose content is on the disk, and bring its new name there.

    A file or an empty folder at `place` is replaced.

    Raises
    ------
    OSError
        If it cannot be renamed, or the disk reports an error.
    """
    path.replace(place)
    sync(place.parent)


def renamed_anew(path: Path, place: Path) -> bool:
    """Rename a file as `rename` does, unless something is at `place`; return whether it was done.

    When several processes do this at once, one succeeds. File systems without hard links, such as
    FAT, do not promise that.

    Raises
    ------
    OSError
        If it cannot be renamed, or the disk reports an error.
    """
    try:
        os.link(path, place)
    except FileExistsError:
        return False
    except OSError:  # no hard links here
        if os.path.lexists(place):
            return False
        rename(path, place)
        return True
    path.unlink()
    sync(place.parent)
    return True


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and bring their names to the disk; it may exist.

    Raises
    ------
    OSError
        If it cannot be made, or the disk reports an error.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def _is_own(entry: Path) -> bool:
    return not entry.is_symlink() and (entry.is_file() or entry.is_dir())
