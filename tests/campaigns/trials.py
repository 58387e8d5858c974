"""Trials in child processes: a crash, a hang or too much memory is pinned to its trial."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pydream.errors import PydreamError

SECONDS = 10
"""Longest time of a trial on a processor of its own."""
# Others may use the processor meanwhile.
_WAITING = 12 * SECONDS
MARGIN = 64 << 20
"""Bytes that a trial may take besides those that its input explains: libraries' own buffers, and
modules that are loaded by the first trial that needs them."""
# A forked process has none of the libraries' code in its memory at first: a run takes up to 141 MB
# of it again. Files of a few kilobytes that ask for more than this ask for far more.
_CODE = 256 << 20
# Address space beyond that of the process before: allocations fail there instead of the machine.
_MOST_SPACE = 6 << 30
_LONGEST = 2000  # characters of a message


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes
    ----------
    kind
        ``"answered"``, ``"refused"`` or ``"fault"``.
    words
        The message of a refusal, or what is wrong.
    """

    kind: str
    words: str = ""


Work = Callable[[Sequence[int]], Iterator[Outcome]]
"""Function that makes the trials of some numbers, in order, and yields what came of each."""


class TooMuchMemoryError(Exception):
    """A trial has taken more memory than its input explains."""


def begin_peak() -> int:
    """Begin the peak of this process's memory anew; return the bytes that it has now."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is taken from now on
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def peak() -> int:
    """Return the most bytes of memory that this process had since `begin_peak`."""
    return _memory("VmHWM")


@contextlib.contextmanager
def bounded(explained: int = 0) -> Iterator[None]:
    """Raise TooMuchMemoryError if the block takes more bytes than so many, and `MARGIN`."""
    before = begin_peak()
    try:
        yield
    finally:
        taken = peak() - before
        if taken > explained + MARGIN:
            raise TooMuchMemoryError(f"{taken:,} bytes, where {explained:,} are explained")


def attempt(look: Callable[[], str | None], named: str | Path) -> Outcome:
    """Let a user's file be read, and judge what comes of it.

    Parameters
    ----------
    look
        Function that reads the file, and compares what it gets with a reference; returns what is
        wrong, or None.
    named
        What a message must name.
    """
    try:
        with bounded(_CODE):
            wrong = look()
    except PydreamError as error:
        wrong = wrong_words(str(error), str(named))
        return Outcome("fault" if wrong else "refused", wrong or str(error))
    return Outcome("fault" if wrong else "answered", wrong or "")


def wrong_words(message: str, named: str = "") -> str | None:
    """Return what is wrong with a message for the user; None if nothing is."""
    if not message.strip() or len(message.splitlines()) > 1 or len(message) > _LONGEST:
        return f"the message is not one line: {message!r}"
    if named not in message:
        return f"the message does not name {named}: {message!r}"
    return None


def make_trials(work: Work, numbers: Sequence[int], at_once: int = 100) -> dict[int, Outcome]:
    """Make trials in child processes, so many in each, and return what came of each number."""
    found: dict[int, Outcome] = {}
    for start in range(0, len(numbers), at_once):
        rest = [*numbers[start : start + at_once]]
        while rest:
            found |= _in_child(work, rest)
            rest = [number for number in rest if number not in found]
    return found


def expect_no_fault(
    outcomes: dict[int, Outcome], describe: Callable[[int], str], seed: int
) -> dict[str, Any]:
    """Fail with the faults among some outcomes; else return their counts, for the record."""
    faults = [number for number, outcome in outcomes.items() if outcome.kind == "fault"]
    if faults:
        lines = [f"{describe(number)}: {outcomes[number].words}" for number in faults[:30]]
        pytest.fail(
            f"{len(faults)} of {len(outcomes)} trials of seed {seed}:\n" + "\n".join(lines),
            pytrace=False,
        )
    counts = Counter(outcome.kind for outcome in outcomes.values())
    return {"answered": counts["answered"], "refused": counts["refused"]}


def _in_child(work: Work, numbers: Sequence[int]) -> dict[int, Outcome]:
    """Make trials in one child, up to the one that ends it."""
    with tempfile.TemporaryFile("w+") as told:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork
            child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                _be_child(work, numbers, told.fileno())
            os._exit(1)
        _, status = os.waitpid(child, 0)
        told.seek(0)
        *lines, rest = told.read().split("\n")
    found = {}
    for line in lines:
        if line.startswith('{"trial"'):
            entry = json.loads(line)
            number = entry.pop("trial")
            found[number] = Outcome(**entry)
    if status:
        words = f"the process ended with status {status}"
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            late = name in ("SIGALRM", "SIGPROF")
            words = f"took more than {SECONDS} s" if late else f"crashed by {name}"
        told_last = [line for line in (*lines, rest) if line and not line.startswith('{"trial"')]
        found[numbers[len(found)]] = Outcome("fault", "\n".join([words, *told_last[-20:]]))
    return found


def _be_child(work: Work, numbers: Sequence[int], told: int) -> None:
    """Make trials, and write what came of each as a line of JSON."""
    os.dup2(told, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout, sys.stderr = open(os.devnull, "w"), os.fdopen(2, "w", closefd=False)  # noqa: SIM115
    # Threads of OpenMP do not survive a fork, and one thread needs no others.
    torch.set_num_threads(1)
    faulthandler.enable(file=2)
    for late in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(late, signal.SIG_DFL)
        faulthandler.register(late, file=2, chain=True)
    space = _memory("VmSize") + _MOST_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    trials = work(numbers)
    for number in numbers:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, _WAITING)
        try:
            outcome = next(trials)
        except BaseException:
            outcome, trials = Outcome("fault", traceback.format_exc(limit=-4)), iter(())
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        line = json.dumps({"trial": number, **asdict(outcome)})
        os.write(told, f"\n{line}\n".encode())
        if outcome.kind == "fault":
            os._exit(0)  # the rest in a fresh process
    os._exit(0)


def _memory(name: str) -> int:
    """Return one of this process's measures of memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10
