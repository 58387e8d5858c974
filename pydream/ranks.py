"""Processes that share a run: ranks under torchrun or srun, and shards that never talk.

Ranks exchange a few small values through the key-value store that `torch.distributed` brings along,
and tell each other of errors and progress. Everything else goes through the folder of the run.
"""

from __future__ import annotations

import os
import pickle
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import distributed
from torch.distributed import (  # type: ignore[attr-defined]
    PrefixStore,
    ProcessGroup,
    Store,
    TCPStore,
    rendezvous,
)

from pydream.errors import OtherRankError, PydreamError, first_line
from pydream.launchers import place_in_array, place_of_rank
from pydream.life_signs import Signs

T = TypeVar("T")

_PATIENCE = 30 * 60.0  # seconds in which no rank gets on with its work
_LEAVING = 60.0  # seconds for all ranks to end once the first has
_TELLING = 3.0  # seconds for a rank that fails to tell the others
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 0.2  # seconds between two looks at the store
_SHARD = re.compile(r"(\d+)/(\d+)")


class Ranks:
    """One of several processes that share a run, or the only one.

    Parameters
    ----------
    number, count
        Number of this process, from 0, and of all of them.
    store
        Store that connects them; None for the only process, and for shards.

    Attributes
    ----------
    number, count
        As given.
    """

    def __init__(self, number: int = 0, count: int = 1, store: Store | None = None) -> None:
        self.number, self.count = number, count
        self._store = store
        self._signs = None if store is None else Signs(store, number, count)
        self._steps = 0
        self._joined = False

    def show_life(self) -> None:
        """Give signs of life from now on, and expect them of the other ranks, too."""
        assert self._signs is not None
        self._signs.show_life()

    @property
    def connected(self) -> bool:
        """Whether the processes talk to each other."""
        return self._store is not None

    @property
    def is_shard(self) -> bool:
        """Whether this is one of several processes that never talk."""
        return self.count > 1 and self._store is None

    @property
    def first(self) -> bool:
        """Whether this is the rank that measures and finishes for all; so is every shard."""
        return self.number == 0 or self._store is None

    def own(self, weights: Sequence[int]) -> range:
        """Return this process's block of items, so that all blocks weigh about the same.

        Blocks depend on nothing but the weights and the number of processes.

        Parameters
        ----------
        weights
            Work of each item.
        """
        if not len(weights):
            return range(0)
        ends = np.cumsum(weights)
        middles = ends - np.asarray(weights) / 2
        owners = np.minimum(middles * self.count // max(int(ends[-1]), 1), self.count - 1)
        mine = np.flatnonzero(owners == self.number)
        return range(int(mine[0]), int(mine[-1]) + 1) if len(mine) else range(0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """End all ranks if this one fails in the block, and wait for all at its end.

        A block inside another does nothing of its own.
        """
        if self._joined:
            yield
            return
        self._joined = True
        try:
            yield
        except OtherRankError:
            raise
        except BaseException as error:
            first = self._first_to_fail()
            if not first and isinstance(error, PydreamError):
                raise OtherRankError from error  # which has likely told the same
            raise
        finally:
            self._joined = False
        self._leave()

    def _first_to_fail(self) -> bool:
        """Tell the other ranks that this one fails; return whether none has before."""
        if self._store is None:
            return True
        try:
            return int(self._store.add("failed", 1)) == 1
        except RuntimeError:  # the store has gone with a rank that failed
            return False

    def once(self, make: Callable[[], T]) -> T:
        """Return what the first rank makes; a shard makes its own.

        Raises
        ------
        OtherRankError
            If the first rank fails to make it; that rank raises its own error.
        """
        if self._store is None:
            return make()
        key = self.new_name("made")
        if self.first:
            value = make()
            self._publish(key, value)
            return value
        made: T = self._published([key])[0]
        return made

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks by their number; all ranks call this, and all get them.

        Values travel through the store, so they are small: numbers, records, some thousand rows.

        Raises
        ------
        OtherRankError
            If another rank fails before it has one.
        """
        if self._store is None:
            return [value]
        key = self.new_name("gathered")
        self._publish(f"{key}-{self.number}", value)
        return self._published([f"{key}-{number}" for number in range(self.count)])

    def _publish(self, key: str, value: object) -> None:
        """Put a value where the other ranks find it."""
        assert self._store is not None
        with self._store_errors():
            self._store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # bytes, too

    def _published(self, keys: list[str]) -> list[Any]:
        """Wait for the values that ranks put under some keys, and return them."""
        assert self._store is not None
        store = self._store
        self.until(lambda: store.check(keys))
        with self._store_errors():
            return [pickle.loads(store.get(key)) for key in keys]

    def take_turns(self, count: int) -> Iterator[int]:
        """Yield the numbers of some items, each to one rank: the next one to whoever is free.

        Parameters
        ----------
        count
            Number of items, which all ranks know in the same order, the longest work first.
        """
        if self._store is None:
            yield from range(count)
            return
        key = self.new_name("turns")
        while True:
            with self._store_errors():
                number = self._store.add(key, 1) - 1
            if number >= count:
                return
            yield number

    def wait(self) -> None:
        """Wait until all ranks have come here; shards do not wait.

        Raises
        ------
        OtherRankError
            If another rank has failed.
        PydreamError
            If no rank has got on with its work for half an hour, or a rank is lost.
        """
        if self._store is None:
            return
        store, key = self._store, self.new_name("come")
        with self._store_errors():
            store.add(key, 1)
        self.until(lambda: store.add(key, 0) == self.count)

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raise PydreamError unless all ranks have the same facts: settings and versions."""
        of_first, *others = self.gather(dict(facts))
        for number, theirs in enumerate(others, start=1):
            names = {**of_first, **theirs}
            differing = [name for name in names if of_first.get(name) != theirs.get(name)]
            if differing:
                raise PydreamError(
                    f"rank {number} runs with another {', '.join(sorted(differing))} than rank 0: "
                    "start all ranks with one command, on machines with the same installation"
                )

    @contextmanager
    def group(self, device: torch.device) -> Iterator[ProcessGroup]:
        """Let the ranks exchange tensors in the block; all ranks enter it.

        GPUs exchange them by NCCL, which takes one rank for each; everything else by gloo. A group
        that the program has made already is taken as it is.

        Parameters
        ----------
        device
            Device of this rank's tensors.

        Raises
        ------
        OtherRankError
            If another rank has failed in the block.
        PydreamError
            If the ranks lose each other and none tells why.
        """
        assert self._store is not None
        places = self.gather((socket.gethostname(), str(device)))
        own_gpus = device.type == "cuda" and len(set(places)) == self.count
        store = PrefixStore(self.new_name("group"), self._store)
        made = not distributed.is_initialized()
        try:
            if made:
                distributed.init_process_group(
                    "nccl" if own_gpus else "gloo",
                    store=store,
                    rank=self.number,
                    world_size=self.count,
                    timeout=timedelta(seconds=_PATIENCE),
                )
            assert distributed.group.WORLD is not None
            yield distributed.group.WORLD
        except RuntimeError as error:
            if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
                raise
            self._lost(error)
        # After an error it is left as it is: NCCL might wait for the others at its end.
        if made:
            distributed.destroy_process_group()

    def _lost(self, error: RuntimeError) -> NoReturn:
        """Raise the error of a rank that has lost another one, which may tell why."""
        assert self._store is not None
        end = time.monotonic() + _TELLING
        while time.monotonic() < end:
            with self._store_errors():
                if self._store.check(["failed"]):
                    raise OtherRankError from error
            time.sleep(_LONGEST_PAUSE)
        raise PydreamError(
            f"rank {self.number} of {self.count} has lost the others: {first_line(error)}"
        ) from error

    def tell(self, work: str) -> None:
        """Tell the others what this rank is doing; at most once a second goes out."""
        if self._signs is not None:
            with self._store_errors():
                self._signs.tell(work)

    def count_together(self, name: str, done: int) -> int:
        """Add to a count of all ranks, and return it."""
        if self._store is None:
            raise ValueError("shards and single processes have nothing to count together")
        with self._store_errors():
            return int(self._store.add(f"count-{name}", done))

    def new_name(self, what: str) -> str:
        """Return a name for the next step of all ranks: the same on each, another for each step."""
        self._steps += 1
        return f"{self._steps}-{what}"

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until something is so, unless another rank fails or none does anything.

        Raises
        ------
        OtherRankError
            If another rank has failed.
        PydreamError
            If no rank has got on with its work for half an hour, or a rank is lost.
        """
        assert self._store is not None
        assert self._signs is not None
        seen: list[int] = []
        since, pause = time.monotonic(), _SHORTEST_PAUSE
        while True:
            with self._store_errors():
                if ready():
                    return
                if self._store.check(["failed"]):
                    raise OtherRankError
                progress = self._signs.progress()
                self._signs.check()
                if progress != seen:
                    seen, since = progress, time.monotonic()
                elif time.monotonic() - since > _PATIENCE:
                    told = self._signs.last_works()
                    raise PydreamError(f"no rank has done anything for half an hour; {told}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        """Turn a lost connection into the error of another rank: the store has gone with one."""
        try:
            yield
        except RuntimeError as error:
            raise OtherRankError from error

    def _leave(self) -> None:
        """Let the first rank, which may hold the store, end last."""
        if self._store is None:
            return
        with suppress(RuntimeError):
            key = self.new_name("left")
            self._store.add(key, 1)
            end = time.monotonic() + _LEAVING
            while self.first and self._store.add(key, 0) < self.count:
                if time.monotonic() > end:
                    return
                time.sleep(_SHORTEST_PAUSE)


ALONE = Ranks()
"""The only process of a run."""


def ranks_of(shard: str | None) -> Ranks:
    """Return this process's place among those that share its run.

    Parameters
    ----------
    shard
        ``"i/n"`` for one of n shards, ``"auto"`` for that of a Slurm array, or None: a rank, if
        torchrun or srun has started several, else the only process.

    Raises
    ------
    PydreamError
        If the shard is not one of its number, or the ranks cannot find each other.
    """
    if shard is None:
        return _connected()
    if shard == "auto":
        task = place_in_array()
        if task is None:
            raise PydreamError("--shard auto is for the tasks of a Slurm array; else give i/n")
        return Ranks(*task)
    found = _SHARD.fullmatch(shard)
    if found is None or not int(found[1]) < int(found[2]):
        raise PydreamError(
            f"--shard takes i/n, the number of a shard from 0 and that of all; got {shard}"
        )
    return Ranks(int(found[1]), int(found[2]))


@cache
def _connected() -> Ranks:
    """Connect with the other ranks, once for each process."""
    place = place_of_rank()
    if place is None:
        return ALONE
    number, count, _, address, port = place
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            store, number, count = next(rendezvous("env://"))
        else:
            store = TCPStore(
                address, port, count, number == 0, timeout=timedelta(seconds=_PATIENCE)
            )
    except (RuntimeError, ValueError) as error:
        raise PydreamError(
            f"rank {number} of {count} does not reach {address}:{port}: {error}; set MASTER_ADDR "
            "and MASTER_PORT to a place that all ranks reach, or start them by torchrun"
        ) from error
    # torchrun's store outlives a restart of the ranks.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    ranks = Ranks(number, count, PrefixStore(f"pydream-{attempt}", store))
    ranks.show_life()
    return ranks
