"""All GPUs of a machine without torchrun: ``--device cuda:all`` starts a rank on each."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence

from pydream.errors import OtherRankError, PydreamError
from pydream.files import RESUME
from pydream.launchers import place_of_rank
from pydream.processors import usable_processors

ALL_GPUS = "cuda:all"
"""Value of --device that stands for all GPUs of the machine."""
# Signals that the launcher handles, and leaves handled.
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_SHARED = ("rded", "dream", "experts", "observer", "evaluate", "relabel", "inspect")


def started_on_all_gpus(arguments: Sequence[str]) -> bool:
    """Run a command on all GPUs, and return True, if its arguments ask for that.

    Parameters
    ----------
    arguments
        Command and options, as typed.

    Raises
    ------
    PydreamError
        If there are no GPUs, the command does not spread, or ranks have been started already.
    OtherRankError
        If a rank failed, which has told why.
    """
    one_each = _with_one_gpu_each(arguments)
    if one_each is None:
        return False
    if arguments[0] not in _SHARED:
        raise PydreamError(
            f"{ALL_GPUS} is for {', '.join(_SHARED[:-1])} and {_SHARED[-1]}: give --device cuda"
        )
    if place_of_rank() is not None:
        raise PydreamError(
            f"{ALL_GPUS} starts the ranks itself: give --device cuda under torchrun or srun"
        )
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise PydreamError(f"{ALL_GPUS}: no GPU is available here; give --device cpu")
    start_ranks(count, one_each)
    return True


def _with_one_gpu_each(arguments: Sequence[str]) -> list[str] | None:
    """Return the arguments of each rank; None if they do not ask for all GPUs."""
    found = [*arguments]
    for place, word in enumerate(found):
        if word == f"--device={ALL_GPUS}":
            found[place] = "--device=cuda"
            return found
        if word == ALL_GPUS and found[place - 1] == "--device":
            found[place] = "cuda"
            return found
    return None


def start_ranks(count: int, arguments: Sequence[str]) -> None:
    """Run a command by several ranks on this machine, as torchrun does, and wait for them.

    Parameters
    ----------
    count
        Number of ranks.
    arguments
        Command and options of each.

    Raises
    ------
    OtherRankError
        If a rank failed, which has told why.
    PydreamError
        If a rank was killed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    try:
        # The launcher makes a folder of logs, which stay empty, and leaves it.
        with tempfile.TemporaryDirectory() as logs, _restored_after_launch(count):
            settings = LaunchConfig(
                run_id="pydream",
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=count,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=logs),
            )
            elastic_launch(settings, sys.executable)("-m", "pydream", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise PydreamError(
                f"rank {rank} was killed by signal {-failure.exitcode}; {RESUME}"
            ) from error
        raise OtherRankError from error


@contextlib.contextmanager
def _restored_after_launch(count: int) -> Iterator[None]:
    """Limit the threads of the ranks, and undo what the launcher changes in this process."""
    given = os.environ.get("OMP_NUM_THREADS")
    handlers = {number: signal.getsignal(number) for number in _HANDLED}
    logging.disable(logging.ERROR)  # by which the launcher tells what the ranks have told already
    try:
        # Else each rank would start as many threads as the machine has processors.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_processors() // count)))
        yield
    finally:
        logging.disable(logging.NOTSET)
        if given is None:
            del os.environ["OMP_NUM_THREADS"]
        for number, handler in handlers.items():
            signal.signal(number, handler)
