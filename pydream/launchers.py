"""The place of a process among those that torchrun or srun has started, by the environment."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from pydream.errors import PydreamError

_PORT = 29500


class Place(NamedTuple):
    """Number of a rank, of all ranks and of the rank on its machine; where they find each other."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int


def place_of_rank() -> Place | None:
    """Return the place of this process; None if it is the only one.

    Raises
    ------
    PydreamError
        If ranks have been started without an address, or a variable that is needed is no number.
    """
    given = os.environ
    address = given.get("MASTER_ADDR")
    if "RANK" in given and _number("WORLD_SIZE", 1) > 1:
        if address is None:
            raise PydreamError(
                "RANK and WORLD_SIZE are set, but not MASTER_ADDR: start the ranks by torchrun"
            )
        rank, port = _number("RANK"), _number("MASTER_PORT", _PORT)
        return Place(rank, _number("WORLD_SIZE"), _number("LOCAL_RANK", rank), address, port)
    if "SLURM_STEP_ID" in given and (count := _tasks_of_step()) > 1:
        first = first_host(given.get("SLURM_STEP_NODELIST", "localhost"))
        # Several jobs may share a node.
        port = _number("MASTER_PORT", _PORT + _number("SLURM_JOB_ID", 0) % 1000)
        rank = _number("SLURM_PROCID")
        return Place(rank, count, _number("SLURM_LOCALID", rank), address or first, port)
    return None


def _tasks_of_step() -> int:
    """Return the number of tasks of this step of Slurm.

    In the shell of an allocation SLURM_NTASKS is that of the allocation, of which the shell is one.
    """
    given = "SLURM_STEP_NUM_TASKS" in os.environ
    return _number("SLURM_STEP_NUM_TASKS" if given else "SLURM_NTASKS", 1)


def _number(name: str, default: int | None = None) -> int:
    """Return the number in a variable of the environment, or the default where it is not set."""
    value = os.environ.get(name, "" if default is None else str(default))
    if not re.fullmatch("[0-9]+", value, re.ASCII):
        raise PydreamError(
            f"{name} must be a number, got {value!r}: unset it, or start the ranks by torchrun"
        )
    return int(value)


def first_host(hosts: str) -> str:
    """Return the first host of Slurm's list.

    >>> first_host("node[03-07,12],login")
    'node03'
    """
    found = re.match(r"([^,\[]+)(?:\[(\w+))?", hosts)
    return f"{found[1]}{found[2] or ''}" if found else "localhost"


def place_in_array() -> tuple[int, int] | None:
    """Return the number of a task of a Slurm array, from 0, and of all; None outside of one.

    Raises
    ------
    PydreamError
        If Slurm's variables are no numbers.
    """
    given = os.environ
    if "SLURM_ARRAY_TASK_ID" not in given or "SLURM_ARRAY_TASK_COUNT" not in given:
        return None
    first = _number("SLURM_ARRAY_TASK_MIN", 0)
    return _number("SLURM_ARRAY_TASK_ID") - first, _number("SLURM_ARRAY_TASK_COUNT")
