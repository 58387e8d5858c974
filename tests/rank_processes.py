"""Ranks of a run as processes of their own, forked from one that has loaded PyTorch already."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from pydream.models import ObserverConfig, train_observer
from pydream.models.training_state import TrainingState

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(  # whatever ranks would take seconds to load
    [
        "pydream.cli.parsing",
        "pydream.dream.distill",
        "pydream.evaluate.evaluation",
        "pydream.inspection.inspection",
        "pydream.rded.distill",
        "pydream.report.page",
        "sklearn.datasets",
        "torch._dynamo",  # by PyTorch's optimizers, a second for each process
    ]
)
LIMIT = 120  # seconds for ranks with tiny images


def free_port() -> int:
    """Return a port that no program uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_ranks(count: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """Call a function on each of several ranks, as torchrun would start them.

    Parameters
    ----------
    count
        Number of ranks.
    work
        Function of a module that is not a test.
    given
        Its arguments.

    Returns
    -------
    list
        What each rank returned or raised; None for one that was killed.
    """
    place = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    each = [{**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return in_processes(each, work, *given)


def in_processes(
    variables_of_each: Sequence[Mapping[str, str]], work: Callable[..., Any], *given: Any
) -> list[Any]:
    """Call a function in several processes at once, each with variables of its own.

    Parameters
    ----------
    variables_of_each
        Variables of each process's environment, beside those of this process.
    work, given
        Function of a module that is not a test, and its arguments.

    Returns
    -------
    list
        What each call returned or raised; None for a process that was killed.
    """
    threads = torch.get_num_threads()  # else sums would differ in their last bits
    ends, processes = [], []
    for variables in variables_of_each:
        end, far_end = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_work, args=(far_end, variables, threads, work, given))
        process.start()
        far_end.close()
        ends.append(end)
        processes.append(process)
    try:
        return [_result(end) for end in ends]
    finally:
        for process in processes:
            process.join(LIMIT)
            process.kill()


def _result(end: Connection) -> Any:
    try:
        assert end.poll(LIMIT)
        return pickle.loads(end.recv_bytes())
    except EOFError:
        return None


def _work(
    end: Connection,
    variables: Mapping[str, str],
    threads: int,
    work: Callable[..., Any],
    given: tuple[Any, ...],
) -> None:
    os.environ.update(variables)
    torch.set_num_threads(threads)
    try:
        result = work(*given)
    except Exception as error:  # told to the test
        result = error
    end.send_bytes(pickle.dumps(result))  # by value, which tensors would not be by `send`


def twice(work: Callable[..., Any], *given: Any) -> Any:
    """Do some work twice in one process; return what it gives then."""
    work(*given)
    return work(*given)


def killed_in(place: str, name: str, calls: int, work: Callable[..., Any], *given: Any) -> Any:
    """Do some work, in which the first rank is killed before the n-th call of a function.

    The other ranks wait there for its death: they would make its items, too, where the free take
    the next one.
    """
    owner = resolve_name(place)
    function, left = getattr(owner, name), [calls]

    def counted(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            if os.environ["RANK"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            _wait_for_the_end_of_the_first()
        return function(*given, **named)

    setattr(owner, name, counted)
    return work(*given)


def _wait_for_the_end_of_the_first() -> None:
    """Return when nobody listens any more where the first rank does."""
    first = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    with contextlib.suppress(ConnectionError):
        while True:
            socket.create_connection(first, timeout=LIMIT).close()
            time.sleep(0.02)


def interrupted_after(steps: int, config: ObserverConfig) -> Any:
    """Train an observer, of which the first rank gets Ctrl-C after some steps."""
    left, is_due = [steps], TrainingState.is_due

    def counted(state: TrainingState) -> bool:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        return is_due(state)

    setattr(TrainingState, "is_due", counted)  # noqa: B010
    try:
        return train_observer(config)
    except KeyboardInterrupt:
        return "stopped"


def run_command(*words: str) -> tuple[int, str, str]:
    """Run a command of pydream; its exit status, its output and its errors."""
    from pydream.cli import main

    sys.argv = ["pydream", *words]
    status = 0
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return status, output.getvalue(), errors.getvalue()


def run_command_there(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run a command of pydream as `run_command` does, from another folder."""
    os.chdir(folder)
    return run_command(*words)
