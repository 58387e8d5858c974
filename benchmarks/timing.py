"""What every benchmark shares: rivals timed in turns, and what is said of their times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

# Before each call: OpenMP's threads spin for some milliseconds after a rival's work, and would
# take the processors from whoever comes next.
_SETTLE = 0.02
# A call of so many seconds is not changed by how cold it begins.
_LONG = 0.5

# Threads of all, where a benchmark does not say otherwise.
THREADS = 2


@dataclass(frozen=True)
class Work:
    """What one call must do at least.

    Attributes
    ----------
    nbytes
        To be read and written: inputs and outputs, each once.
    operations
        Additions and multiplications of the formula, as its benchmark counts them; 0 where data is
        only moved.
    """

    nbytes: int
    operations: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the middle of all rounds, and between what half of them lie."""

    median: float
    lower_quartile: float
    upper_quartile: float
    rounds: int


def compare(
    rivals: Mapping[str, Callable[[], object]], *, rounds: int, threads: int
) -> dict[str, Timing]:
    """Time the rivals in turns, so that what else the machine does meets all of them.

    Every round calls each rival twice and times the second call, and begins with another rival; one
    round before is not counted. Of a rival that takes half a second or more every call is timed and
    counted. Check that the outputs are equal before this.

    Parameters
    ----------
    rivals
        Name and call; the call does the whole work.
    rounds
        Counted rounds.
    threads
        PyTorch's threads, and so pydream's; libraries with pools of their own are the caller's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    names = list(rivals)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for number in range(-1, rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                if len(seconds[name]) == rounds:
                    continue
                time.sleep(_SETTLE)
                taken = _seconds(rivals[name])
                if taken < _LONG:  # caches and threads were cold from the pause
                    taken = _seconds(rivals[name])
                    if number < 0:
                        continue
                seconds[name].append(taken)
    finally:
        torch.set_num_threads(before)
    return {name: timing(of_rival) for name, of_rival in seconds.items()}


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def timing(seconds: list[float]) -> Timing:
    """Sum up the seconds of all rounds."""
    if len(seconds) < 2:
        return Timing(seconds[0], seconds[0], seconds[0], len(seconds))
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, lower, upper, len(seconds))


def report(
    timings: Mapping[str, Timing],
    *,
    ours: str,
    limit: str | None = None,
    items: int = 1,
    unit: str = "call",
    work: Work | None = None,
) -> dict[str, Any]:
    """Make a record of timings: microseconds an item, ratios to ours, our fraction of the limit.

    Parameters
    ----------
    timings
        From :func:`compare`.
    ours
        Whose ratios to the others are wanted.
    limit
        The entry that does nothing but the least possible, as a copy of the same bytes.
    items
        How many items (crops, rows) one call handles.
    unit
        What an item is.
    work
        Of one call, all its items together.
    """
    mine = timings[ours].median
    record: dict[str, Any] = {
        "items": items,
        "unit": unit,
        "seconds": {name: asdict(timing) for name, timing in timings.items()},
        "microseconds_per_item": {
            name: round(timing.median / items * 1e6, 3) for name, timing in timings.items()
        },
        "times_as_fast": {
            name: round(timing.median / mine, 2)
            for name, timing in timings.items()
            if name not in (ours, limit)
        },
    }
    if limit is not None:
        record["limit"] = limit
        record["fraction_of_limit"] = round(timings[limit].median / mine, 3)
    if work is not None:
        record["work"] = asdict(work)
    return record


def table(title: str, record: Mapping[str, Any]) -> str:
    """Lay a record of :func:`report` out for reading."""
    lines = [title]
    for name, microseconds in record["microseconds_per_item"].items():
        timing = record["seconds"][name]
        spread = (timing["upper_quartile"] - timing["lower_quartile"]) / timing["median"]
        ratio = record["times_as_fast"].get(name)
        times = f"   pydream is {ratio:.1f} times as fast" if ratio else ""
        lines.append(f"  {name:44s} {microseconds:9.2f} us   spread {spread:4.0%}{times}")
    return "\n".join(lines)
