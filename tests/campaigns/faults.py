"""Faults of a process that runs a command of pydream, put in from outside of the package.

A hook for audits sees every change of files by Python code just before it is made. These moments
are counted, and a fault is put in at one of them.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from pydream.models import training_state

_CREATED = os.O_WRONLY | os.O_RDWR
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink")
SYNCED = "os.fsync"
_OPENED = "open"
# What each error of a disk refuses: a full one still removes and renames, and one that fails to
# synchronise has taken the writes.
_REFUSED = {
    errno.ENOSPC: {_OPENED, "os.mkdir", SYNCED},
    errno.EROFS: {_OPENED, *_CHANGES},
    errno.EIO: {SYNCED},
}
_STATUS = Path("/proc/self/statm")
_JUMP = 86400.0  # seconds that the clock jumps by, at most


@dataclass(frozen=True)
class Fault:
    """A fault, and when it comes.

    Attributes
    ----------
    kind
        ``"none"``; ``"signal"``, of `number`; ``"torn"``, death once a file is longer than `number`
        bytes; ``"long"``, an error for each such file; ``"error"``, of `number` in errno;
        ``"memory"``, no more than `number` further bytes; ``"clock"``, which jumps at each look.
    number
        As said for the kind.
    moment
        Number of the change of a file, from 1, just before which the fault comes. For memory and
        clock, it is there from the start.
    lasting
        Whether an error comes at all later changes, too.
    """

    kind: str = "none"
    number: int = 0
    moment: int = 1
    lasting: bool = True


NO_FAULT = Fault()
READY = b"\0"
"""What a process tells before all else, once the command begins."""


class Moments:
    """Counts the changes of files below a folder, and puts a fault in at one of them."""

    def __init__(self, folder: Path, fault: Fault, counted: Path | None) -> None:
        self._folder, self._fault, self._counted = str(folder) + os.sep, fault, counted
        self._numbers = itertools.count(1)
        self._done = False

    def see(self, event: str, given: tuple[Any, ...]) -> None:
        """Take part in an audit."""
        if event in _CHANGES or (event == _OPENED and self._writes(given)):
            self.change(event, given[0])

    @staticmethod
    def _writes(given: tuple[Any, ...]) -> bool:
        return isinstance(given[2], int) and bool(given[2] & _CREATED)

    def change(self, event: str, path: Any) -> None:
        """Count a change of a path, if it is below the folder, and come in before it."""
        if isinstance(path, int):
            return
        name = os.fsdecode(path)
        # Names alone are of `shutil.rmtree`, which removes them relative to their folder.
        if os.path.isabs(name) and not name.startswith(self._folder):
            return
        moment = next(self._numbers)
        if self._counted is not None:
            self._counted.write_text(str(moment))
        fault = self._fault
        if moment < fault.moment or (self._done and not fault.lasting):
            return
        if fault.kind == "error":
            if event in _REFUSED[fault.number]:
                self._done = True
                raise OSError(fault.number, os.strerror(fault.number), name)
        elif moment == fault.moment and fault.kind == "signal":
            os.kill(os.getpid(), fault.number)
        elif moment == fault.moment and fault.kind in ("torn", "long"):
            handling = signal.SIG_DFL if fault.kind == "torn" else signal.SIG_IGN
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGXFSZ, handling)
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.number, resource.RLIM_INFINITY))


class Synced:
    """Notes in a file what has been brought to the disk, and what folders then held.

    Contents are kept by further names in the folder of that file, until `power_loss` needs them.
    """

    def __init__(self, folder: Path, notes: Path) -> None:
        self._folder, self._notes = str(folder), notes
        self._kept = notes.parent

    def note(self, descriptor: int) -> None:
        """Note that a file or folder has been brought to the disk."""
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        if not place.startswith(self._folder):
            return
        found = os.fstat(descriptor)
        if os.path.isdir(place):
            self._write("folder", found.st_ino, keep_names(Path(place), self._kept))
        else:
            self._write("file", found.st_ino, [found.st_size, found.st_mtime_ns])

    def removed(self, place: str) -> None:
        """Note that a folder will be removed, after which its number is free."""
        if os.path.isdir(place):
            self._write("removed", os.stat(place).st_ino, None)

    def _write(self, what: str, number: int, content: object) -> None:
        line = json.dumps([what, number, content]) + "\n"
        descriptor = os.open(self._notes, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def keep_names(folder: Path, kept: Path) -> dict[str, int]:
    """Give the files of a folder further names in another, and return all numbers by name."""
    found = {}
    for entry in os.scandir(folder):
        found[entry.name] = entry.inode()
        if entry.is_file(follow_symlinks=False):
            try:
                os.link(entry.path, kept / str(entry.inode()))
            except (FileExistsError, FileNotFoundError):  # kept already; or removed meanwhile
                continue
    return found


def _patch(folder: Path, fault: Fault, notes: Path | None, counted: Path | None) -> None:
    """Put a fault into this process, and note what is brought to the disk."""
    moments = Moments(folder, fault, counted)
    noted = None if notes is None else Synced(folder, notes)
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        moments.change(SYNCED, os.readlink(f"/proc/self/fd/{descriptor}"))
        if noted is None:
            fsync(descriptor)
        else:
            noted.note(descriptor)

    def see(event: str, given: tuple[Any, ...]) -> None:
        moments.see(event, given)
        if noted is not None and event == "os.rmdir":
            place = os.fsdecode(given[0])
            above = given[1]
            if above not in (None, -1):
                place = os.path.join(os.readlink(f"/proc/self/fd/{above}"), place)
            noted.removed(place)

    setattr(os, "fsync", watched)  # noqa: B010
    sys.addaudithook(see)
    if fault.kind == "memory":
        taken = int(_STATUS.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + fault.number, resource.RLIM_INFINITY))
    if fault.kind == "clock":
        jumps, now = random.Random(fault.number), time.time
        setattr(time, "time", lambda: now() + jumps.uniform(-_JUMP, _JUMP))  # noqa: B010


def run_command(
    errors: Connection,
    variables: Mapping[str, str],
    threads: int,
    faulty: Callable[[], None],
    words: tuple[str, ...],
) -> None:
    """Run a command in this process, which ends with its exit status.

    Parameters
    ----------
    errors
        End of a pipe that becomes the standard errors.
    variables
        Of the environment, beside those that are there.
    threads
        Number of PyTorch's threads.
    faulty
        Function that puts in the faults.
    words
        The words of the command.
    """
    from pydream.cli import main

    os.dup2(errors.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(threads)
    setattr(training_state, "_SECONDS_BETWEEN", 0.0)  # noqa: B010
    sys.argv = ["pydream", *words]
    try:
        faulty()
        os.write(errors.fileno(), READY)
        main()
    except KeyboardInterrupt:  # before or after its own handling
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Faulty:
    """What `run_command` calls: a fault in a folder, and files for notes.

    Attributes
    ----------
    folder
        Folder whose changes are counted.
    fault
        The fault.
    notes
        File that says what has been brought to the disk; None leaves this to the system.
    counted
        File for the number of changes; None for none.
    """

    folder: Path
    fault: Fault = NO_FAULT
    notes: Path | None = None
    counted: Path | None = None

    def __call__(self) -> None:
        """Put the fault into this process."""
        _patch(self.folder, self.fault, self.notes, self.counted)
