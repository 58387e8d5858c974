"""Runs that are killed, or whose disk or memory fails, and that are continued to the same bytes.

Each trial interrupts a run of a small job once or twice and continues it with other numbers of
ranks and workers and other memory budgets. Then its folder has to be as after a run that nothing
disturbed, with what belongs to the user untouched and nothing temporary left.
"""

from __future__ import annotations

import errno
import itertools
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from campaigns.faults import Fault
from campaigns.interrupted_runs import Trial, Workplace, check
from campaigns.jobs import JOBS
from campaigns.power_loss import Disk

from .conftest import Campaign

NAMES = tuple(JOBS)
# Statuses of processes that were told to end, or that another rank has left alone.
KILLED = [0, 2, 130, -signal.SIGKILL, -signal.SIGTERM]
TORN = [*KILLED, -signal.SIGXFSZ]
FAILED = [0, 2, -signal.SIGTERM]  # by `interrupted_runs.run`, where another rank has failed
# Libraries without a way to say that they have no memory: the C library aborts with 127.
STARVED = [*FAILED, 127, -signal.SIGABRT, -signal.SIGSEGV]
MIB = 1 << 20


def once_or_twice(trial: Trial) -> Iterator[bool]:
    """Yield whether an attempt is the first; none follows on a result that would be made again."""
    yield True
    if trial.draws.random() < 0.5 and not trial.is_finished:
        yield False


def signals_at_any_time(trial: Trial) -> None:
    for first in once_or_twice(trial):
        number = trial.draws.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        check(trial.attempt(by=number, first=first), KILLED)


def kills_at_changes_of_files(trial: Trial) -> None:
    for first in once_or_twice(trial):
        if trial.draws.random() < 0.7:
            fault = Fault("signal", signal.SIGKILL, trial.moment())
        else:
            fault = Fault("torn", trial.draws.randrange(2000), trial.moment())
        check(trial.attempt(fault, first=first), TORN)


def losses_of_power(trial: Trial) -> None:
    for first in once_or_twice(trial):
        disk = Disk.begin(trial.folder)
        fault = Fault("signal", signal.SIGKILL, trial.moment())
        check(trial.attempt(fault, disk=disk, first=first), KILLED)
        disk.lose_power(trial.draws, trial.draws.choice(["names", "some", "nothing"]))
        shutil.rmtree(disk.kept)


def a_loss_of_power_at_the_end(trial: Trial) -> None:
    disk = Disk.begin(trial.folder)
    check(trial.attempt(disk=disk, first=True), [0])
    disk.lose_power(trial.draws, "nothing")
    shutil.rmtree(disk.kept)
    trial.check()


def errors_of_the_disk(trial: Trial) -> None:
    for first in once_or_twice(trial):
        number = trial.draws.choice([errno.ENOSPC, errno.EROFS, errno.EIO, 0])
        if number:
            lasting = trial.draws.random() < 0.7
            fault = Fault("error", number, trial.moment(), lasting)
        else:
            fault = Fault("long", trial.draws.randrange(2000), trial.moment())
        check(trial.attempt(fault, first=first), FAILED)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def a_small_or_read_only_disk(trial: Trial) -> None:
    used = sum(file.stat().st_blocks * 512 for file in trial.folder.rglob("*"))
    free = trial.draws.randrange(0, 40) * 4096
    options = f"size={used + free}" if trial.draws.random() < 0.7 else "ro"
    remount(trial.folder, options)
    check(trial.attempt(first=True), FAILED)
    remount(trial.folder, f"rw,size={64 * MIB}")


def too_little_memory(trial: Trial) -> None:
    fault = Fault("memory", trial.draws.randrange(300) * MIB)
    check(trial.attempt(fault, first=True), STARVED)


def a_clock_that_jumps(trial: Trial) -> None:
    fault = Fault("clock", trial.number)
    check(trial.attempt(fault, by=signal.SIGKILL, first=True), KILLED)


# What is tried, as the table of campaigns says it, with the numbers of trials in the short form
# and in the long one.
PARTS: dict[Callable[[Trial], None], tuple[str, int, int]] = {
    signals_at_any_time: ("kill -9, SIGTERM and Ctrl-C at any time", 1, 72),
    kills_at_changes_of_files: (
        "kill -9 before a write, rename, removal or fsync, or amid a write", 3, 72,
    ),
    losses_of_power: ("loss of power: what was not synchronised is gone, or half there", 2, 63),
    a_loss_of_power_at_the_end: ("loss of power right after the end of a command", 1, 9),
    errors_of_the_disk: (
        "full disk, read-only disk, failing fsync, limit of file sizes, from one change on", 2, 45,
    ),
    a_small_or_read_only_disk: ("file system that is full, or read-only", 1, 18),
    too_little_memory: ("memory that ends, by a limit of the address space", 1, 18),
    a_clock_that_jumps: ("clock that jumps by up to a day, and kill -9", 1, 9),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    place = Workplace.prepare(tmp_path_factory.mktemp("kills"))
    yield place
    place.check_inputs()


def try_one(place: Workplace, disturb: Callable[[Trial], None], number: int) -> None:
    """Make a trial of a part; its number decides everything."""
    name = NAMES[number % len(NAMES)]
    folder = place.trial_folder(name, number)
    shutil.rmtree(folder, ignore_errors=True)  # of a trial that has failed
    folder.mkdir()
    mounted = disturb is a_small_or_read_only_disk
    if mounted:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={64 * MIB}", "none", str(folder)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("needs the right to mount")
    try:
        trial = Trial(place, name, number)
        disturb(trial)
        trial.finish()
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
    shutil.rmtree(folder)


@pytest.mark.parametrize("disturb", PARTS, ids=lambda disturb: disturb.__name__)
def test_kills(campaign: Campaign, place: Workplace, disturb: Callable[[Trial], None]) -> None:
    part, few, all_of_them = PARTS[disturb]
    count = campaign.trials(few, all_of_them)
    # Parts begin with different jobs, so that few trials of each are of them all.
    first = sum(few for _, few, _ in itertools.islice(PARTS.values(), [*PARTS].index(disturb)))
    for number in range(first, first + count):
        try_one(place, disturb, number)
    place.check_inputs()
    campaign.passed("kills", part, count)
