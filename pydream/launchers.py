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
        If ranks have been started without an address.
    """
    given = os.environ
    address, port = given.get("MASTER_ADDR"), int(given.get("MASTER_PORT", _PORT))
    if int(given.get("WORLD_SIZE", "1")) > 1 and "RANK" in given:
        if address is None:
            raise PydreamError(
                "RANK and WORLD_SIZE are set, but not MASTER_ADDR: start the ranks by torchrun"
            )
        rank = int(given["RANK"])
        local = int(given.get("LOCAL_RANK", rank))
        return Place(rank, int(given["WORLD_SIZE"]), local, address, port)
    if int(given.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in given:
        first = first_host(given.get("SLURM_STEP_NODELIST", "localhost"))
        if "MASTER_PORT" not in given:  # several jobs may share a node
            port += int(given.get("SLURM_JOB_ID", "0")) % 1000
        rank = int(given["SLURM_PROCID"])
        local = int(given.get("SLURM_LOCALID", rank))
        return Place(rank, int(given["SLURM_NTASKS"]), local, address or first, port)
    return None


def first_host(hosts: str) -> str:
    """Return the first host of Slurm's list.

    >>> first_host("node[03-07,12],login")
    'node03'
    """
    found = re.match(r"([^,\[]+)(?:\[(\w+))?", hosts)
    return f"{found[1]}{found[2] or ''}" if found else "localhost"


def place_in_array() -> tuple[int, int] | None:
    """Return the number of a task of a Slurm array, from 0, and of all; None outside of one."""
    given = os.environ
    if "SLURM_ARRAY_TASK_ID" not in given or "SLURM_ARRAY_TASK_COUNT" not in given:
        return None
    first = int(given.get("SLURM_ARRAY_TASK_MIN", "0"))
    return int(given["SLURM_ARRAY_TASK_ID"]) - first, int(given["SLURM_ARRAY_TASK_COUNT"])
