"""Processes that run a command with faults, and what has to be so once it is finished."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from campaigns.faults import NO_FAULT, READY, Fault, Faulty, run_command
from campaigns.jobs import JOBS, SET, Inputs, content, shared_words, state
from campaigns.power_loss import Disk
from rank_processes import LIMIT, free_port

_CONTEXT = multiprocessing.get_context("forkserver")
_GRACE = 0.3  # seconds that ranks have to notice that one of them has failed


@dataclass(frozen=True)
class Kill:
    """A signal to some ranks of a run, some seconds after its start."""

    number: signal.Signals
    seconds: float
    ranks: Sequence[int]


@dataclass(frozen=True)
class End:
    """The end of a process: its exit status, below 0 by a signal, and what it told."""

    status: int
    told: str

    @property
    def says_why(self) -> bool:
        """Whether the last line is the error of a command."""
        return self.told.rpartition("\n")[0].rpartition("\n")[2].startswith("pydream: ")


def run(
    words: Sequence[str], faulty: Faulty, *, ranks: int = 1, rank: int = 0, kill: Kill | None = None
) -> list[End]:
    """Run a command on some ranks, one of them with a fault; stop all if one fails."""
    place = {
        "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    processes, pipes = [], []
    for number in range(ranks):
        own = {**place, "RANK": str(number), "LOCAL_RANK": str(number)} if ranks > 1 else {}
        fault = faulty if number == rank else Faulty(faulty.folder, NO_FAULT, faulty.notes)
        errors, far_end = _CONTEXT.Pipe(duplex=False)
        given = (far_end, own, torch.get_num_threads(), fault, tuple(words))
        process = _CONTEXT.Process(target=run_command, args=given)
        process.start()
        far_end.close()
        processes.append(process)
        pipes.append(errors)
    try:
        if kill is not None:
            for errors in pipes:
                assert errors.poll(LIMIT), "a process does not begin"
            wait([process.sentinel for process in processes], kill.seconds)
            for number in kill.ranks:
                _send(processes[number], kill.number)
        _until_all_ended(processes)
        return [
            End(process.exitcode or 0, _read(errors.fileno()))
            for process, errors in zip(processes, pipes, strict=True)
        ]
    finally:
        for process, errors in zip(processes, pipes, strict=True):
            process.kill()
            process.join()
            errors.close()


def _send(process: ForkServerProcess, number: int) -> None:
    if process.is_alive() and process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _until_all_ended(processes: Sequence[ForkServerProcess]) -> None:
    """Wait for all, and do as torchrun once one of them has failed."""
    end = time.monotonic() + LIMIT
    while alive := [process for process in processes if process.is_alive()]:
        assert time.monotonic() < end, "a run hangs"
        failed = any(process.exitcode for process in processes)
        wait([process.sentinel for process in alive], _GRACE if failed else LIMIT)
        if failed:
            for process in alive:
                _send(process, signal.SIGTERM)


def _read(descriptor: int) -> str:
    """Read what a pipe holds, nobody writing to it any more."""
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts).removeprefix(READY).decode()


def check(ends: Sequence[End], allowed: Sequence[int]) -> None:
    """Fail unless all ranks ended in a decent way, and one of them says why if all have failed."""
    for end in ends:
        assert end.status in allowed, ends
        assert "Traceback" not in end.told, end.told
        assert "Exception ignored" not in end.told, end.told
    assert not all(end.status == 2 for end in ends) or any(end.says_why for end in ends), ends


@dataclass
class Workplace:
    """Inputs of all trials, and the results of runs without faults.

    Attributes
    ----------
    folder
        Folder for everything.
    inputs
        What all jobs read, which no run may touch.
    results
        The content of the finished folder of each job, by its name and number of ranks.
    moments
        Number of changes of files that the run made.
    seconds
        Its time.
    """

    folder: Path
    inputs: Inputs
    results: dict[tuple[str, int], Mapping[str, str]] = field(default_factory=dict)
    moments: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _before: Mapping[Path, tuple[str, int]] = field(default_factory=dict)

    @classmethod
    def prepare(cls, folder: Path) -> Workplace:
        """Write the inputs, and let shards make the parts for `pydream merge`."""
        inputs = Inputs.write(folder / "inputs")
        for number in range(2):
            words = [*shared_words(inputs), "--out", str(inputs.parts / str(number))]
            check(run([*words, "--shard", f"{number}/2"], Faulty(folder / "none")), [0])
        place = cls(folder, inputs)
        place._before = state(folder / "inputs")
        return place

    def trial_folder(self, name: str, number: int) -> Path:
        """Return the folder of a trial."""
        return self.folder / f"trial-{name.replace(' ', '-')}-{number}"

    def check_inputs(self) -> None:
        """Fail if a run has changed what belongs to the user."""
        assert state(self.folder / "inputs") == self._before

    def result(self, name: str, ranks: int) -> Mapping[str, str]:
        """Return the content of the folder of a job that was not disturbed."""
        job = JOBS[name]
        key = name, ranks if job.same_ranks else 1
        if key not in self.results:
            folder, counted = self.folder / f"whole-{len(self.results)}", self.folder / "counted"
            job.prepare(self.inputs, folder)
            words = job.words(self.inputs, folder, random.Random(0))
            begun = time.perf_counter()
            check(run(words, Faulty(folder, counted=counted), ranks=key[1]), [0])
            self.seconds[name] = time.perf_counter() - begun
            self.moments[name] = int(counted.read_text())
            self.results[key] = content(folder)
        return self.results[key]


@dataclass
class Trial:
    """A run that faults interrupt until it is finished.

    Attributes
    ----------
    place
        The workplace.
    name
        Name of the job.
    number
        Number of the trial, which seeds what is drawn.
    """

    place: Workplace
    name: str
    number: int

    def __post_init__(self) -> None:
        self.draws = random.Random(f"{self.name} {self.number}")
        self.job = JOBS[self.name]
        self.folder = self.place.trial_folder(self.name, self.number)
        self.ranks = self.draws.choice(self.job.ranks)
        self.whole = self.place.result(self.name, self.ranks)
        self.job.prepare(self.place.inputs, self.folder)
        self._users = {
            file: found
            for file, found in state(self.folder).items()
            if not (self.name == "relabel" and file == self.folder / SET / "manifest.json")
        }

    def moment(self) -> int:
        """Draw the number of a change of a file."""
        return self.draws.randint(1, self.place.moments[self.name])

    def _kill(self, number: signal.Signals) -> Kill:
        """Draw a time for a signal, and the ranks that get it: one or all."""
        seconds = self.draws.uniform(0, 1.1 * self.place.seconds[self.name])
        one = self.ranks > 1 and number == signal.SIGKILL and self.draws.random() < 0.5
        everyone = range(self.ranks)
        return Kill(number, seconds, [self.draws.choice(everyone)] if one else everyone)

    def attempt(
        self,
        fault: Fault = NO_FAULT,
        *,
        by: signal.Signals | None = None,
        disk: Disk | None = None,
        first: bool = False,
    ) -> list[End]:
        """Run the command with a fault in one of its ranks or a signal, or continue it."""
        if not (first or self.job.same_ranks):
            self.ranks = self.draws.choice(self.job.ranks)
        words = self.job.words(self.place.inputs, self.folder, self.draws)
        faulty = Faulty(self.folder, fault, None if disk is None else disk.notes)
        rank = self.draws.randrange(self.ranks)
        if not first:
            words += self.job.resumed
        kill = None if by is None else self._kill(by)
        return run(words, faulty, ranks=self.ranks, rank=rank, kill=kill)

    def finish(self) -> None:
        """Continue without faults to the end, and check what is there."""
        if not self.is_finished:
            check(self.attempt(), [0])
        self.check()

    @property
    def is_finished(self) -> bool:
        """Whether the result of a command is there that would make another one."""
        result = self.folder / (self.job.result or "none")
        return result.is_dir() or (result.is_file() and result.stat().st_size > 0)

    def check(self) -> None:
        """Fail unless the folder is as after a run without faults."""
        found = content(self.folder)
        differing = {
            name: (found.get(name), self.whole.get(name))
            for name in {**found, **self.whole}
            if found.get(name) != self.whole.get(name)
        }
        assert not differing, (self.name, self.number, differing)
        now = state(self.folder)
        for file, before in self._users.items():
            assert now[file] == before, file
