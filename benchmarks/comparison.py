"""An op beside others on a GPU: whoever fails or disagrees is named, and the figures go on."""

from __future__ import annotations

import argparse
import textwrap
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cuda_events import call_seconds, measure_limits, seconds_on
from benchmarks.records import RESULTS, GrowingRecord
from benchmarks.timing import Timing, Work
from pydream.profiling import Limits

Case = dict[str, Any]

_LONGEST_REASON = 160  # characters: some of PyTorch's name every backend
_REHEARSED = 0.02  # seconds for each figure of a rehearsal


@dataclass(frozen=True)
class Setting:
    """Where cases are measured.

    Attributes
    ----------
    device
        A GPU; on the CPU a benchmark is only rehearsed.
    limits
        What the device can do at most: copy, and multiply float32 (on a GPU in TF32).
    least
        Seconds to spend on each figure.
    """

    device: torch.device
    limits: Limits
    least: float

    @property
    def small(self) -> bool:
        """Whether small inputs suffice, since it is only a rehearsal."""
        return self.device.type == "cpu"


@dataclass(frozen=True)
class Rival:
    """A way to a result.

    Attributes
    ----------
    call
        Takes one of the inputs and does the whole work.
    captured
        Whether a CUDA graph can hold the call.
    items
        How many items of an input it does, where that is not all of them.
    agree
        Raises `AssertionError` where its result is another than ours; by default the case's.
    """

    call: Callable[[Any], Any]
    captured: bool = True
    items: int | None = None
    agree: Callable[[Any, Any], None] | None = None


def compared(
    ours: Rival,
    rivals: Mapping[str, Rival],
    inputs: list[Any],
    device: torch.device,
    *,
    agree: Callable[[Any, Any], None],
    items: int,
    work: Work,
    limit: float | None,
    least: float,
    unit: str = "item",
    limits: Limits | None = None,
) -> Case:
    """Time ours, then each rival that finds the same result, all on the same inputs.

    Parameters
    ----------
    ours, rivals
        An error of ours is raised; a rival's becomes its remark.
    inputs
        Of one call each; they take turns.
    device
        On the CPU, where a benchmark is only rehearsed, a call's time stands for the device's.
    agree
        Raises `AssertionError` where a rival's result is another than ours, on the first input.
    items
        Of one call.
    work
        The least of one call.
    limit
        Seconds that the device needs for that work at least; None where that is not known.
    least
        Seconds to spend on each figure.
    unit
        What an item is.
    limits
        The device's for the case's type of numbers, where they are not those of the whole record.
    """
    taken = {"pydream": _timed(ours, inputs, device, least)}
    mine = ours.call(inputs[0])
    counts, remarks = {"pydream": items}, {}
    for name, rival in rivals.items():
        remark = _complaint(rival, mine, inputs[0], rival.agree or agree)
        if remark is None:
            try:
                taken[name] = _timed(rival, inputs, device, least)
                counts[name] = rival.items or items
            except Exception as error:
                remark = describe(error)
        if remark is not None:
            remarks[name] = remark
            _recover(device)
    own, own_call = taken["pydream"][0].median / items, taken["pydream"][1] / items
    others = [name for name in taken if name != "pydream"]
    return {
        "items": items,
        "unit": unit,
        "work": asdict(work),
        "device_seconds": {name: asdict(timing) for name, (timing, _) in taken.items()},
        "items_of_a_call": counts,
        "not_in_a_graph": [
            name for name in taken if not {"pydream": ours, **rivals}[name].captured
        ],
        "microseconds_per_item": {
            name: timing.median / counts[name] * 1e6 for name, (timing, _) in taken.items()
        },
        "microseconds_per_call": {name: seconds * 1e6 for name, (_, seconds) in taken.items()},
        "times_as_fast": {name: taken[name][0].median / counts[name] / own for name in others},
        "times_as_fast_per_call": {
            name: taken[name][1] / counts[name] / own_call for name in others
        },
        **({} if limit is None else {"fraction_of_limit": limit / taken["pydream"][0].median}),
        **({} if limits is None else {"limits": asdict(limits)}),
        "remarks": remarks,
    }


def compare_bytes(
    setting: Setting,
    ours: Callable[[Any], Any],
    rivals: Mapping[str, Rival],
    inputs: list[Any],
    agree: Callable[[Any, Any], None],
    *,
    items: int,
    work: Work,
    captured: bool = True,
) -> Case:
    """Compare with the limit of the memory: a copy of the same bytes."""
    return compared(
        Rival(ours, captured),
        rivals,
        inputs,
        setting.device,
        agree=agree,
        items=items,
        work=work,
        limit=work.nbytes / setting.limits.copy_bytes,
        least=setting.least,
    )


def within(atol: float) -> Callable[[Any, Any], None]:
    """Return an agreement of tensors, or tuples of them, to a tolerance."""
    return partial(torch.testing.assert_close, rtol=0.0, atol=atol, check_dtype=False)


def by_compile(setting: Setting, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as `torch.compile` makes it.

    In a rehearsal it is only traced: a CPU would compile for minutes.
    """
    backend = "aot_eager" if setting.small else "inductor"
    compiled: Callable[..., Any] = torch.compile(call, backend=backend, dynamic=False)
    return compiled


def _timed(
    rival: Rival, inputs: list[Any], device: torch.device, least: float
) -> tuple[Timing, float]:
    """Return the device's time, and a call's."""
    return (
        seconds_on(device, rival.call, inputs, least, captured=rival.captured),
        call_seconds(rival.call, inputs, least),
    )


def _complaint(
    rival: Rival, mine: Any, given: Any, agree: Callable[[Any, Any], None]
) -> str | None:
    """Run a rival once; what is wrong with it or with its result."""
    try:
        theirs = rival.call(given)
    except Exception as error:
        return describe(error)
    try:
        agree(mine, theirs)
    except AssertionError as error:
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        # torch.testing says by how much in a line further down.
        told = [line for line in told if line.startswith("Greatest absolute")] or told
        return f"other result: {told[0] if told else 'not ours'}"
    except Exception as error:
        return describe(error)
    return None


def describe(error: Exception) -> str:
    """Say in a line what went wrong."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = str(error).strip().splitlines()
    reason = textwrap.shorten(lines[0], _LONGEST_REASON, placeholder=" …") if lines else ""
    return f"failed: {type(error).__name__}{f': {reason}' if reason else ''}"


def _recover(device: torch.device) -> None:
    """Give back what a rival that has failed held."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            print(f"what that rival held is not given back: {describe(error)}")


def measure(
    name: str,
    description: str,
    cases: Callable[[Setting], Mapping[str, Callable[[], Case]]],
    *,
    least: float,
) -> None:
    """Be the command of a benchmark: the cases of the device that is asked for, and their record.

    Parameters
    ----------
    name
        Of the record.
    description
        For --help.
    cases
        Takes the setting; measures each case when that is called.
    least
        Seconds for each figure on a GPU.

    Raises
    ------
    SystemExit
        Where there is no such device, or a case has failed.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda", help="cpu rehearses with small inputs")
    parser.add_argument("--out", type=Path, help="of records; on the CPU there is none without it")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here; pydream doctor says what it found")
    out = arguments.out or (RESULTS if on_gpu else None)
    least = least if on_gpu else _REHEARSED
    setting = Setting(device, measure_limits(device, torch.float32, least), least)
    record = GrowingRecord(name, out, device if on_gpu else None, setting.limits)
    failed = run_cases(cases(setting), record)
    print(record.path)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run_cases(cases: Mapping[str, Callable[[], Case]], record: GrowingRecord) -> list[str]:
    """Run each case, show it, and write it to the record; return the names of those that failed."""
    failed = []
    for name, case in cases.items():
        try:
            result = case()
        except Exception as error:
            traceback.print_exc()
            result = {"failed": describe(error)}
            failed.append(name)
        record.add(name, result)
        print(_shown(name, result), flush=True)
    return failed


def _shown(name: str, case: Case) -> str:
    """Lay a case out for reading."""
    if "failed" in case:
        return f"{name}: {case['failed']}"
    if "microseconds_per_item" not in case:
        return f"{name}: " + ", ".join(f"{key} {value}" for key, value in case.items())
    limit = case.get("fraction_of_limit")
    lines = [name if limit is None else f"{name}: {limit:.0%} of the limit"]
    for rival, microseconds in case["microseconds_per_item"].items():
        times = case["times_as_fast"].get(rival)
        more = f"   pydream is {times:.1f} times as fast" if times else ""
        host = " (calls, no graph)" if rival in case["not_in_a_graph"] else ""
        lines.append(
            f"  {rival:34s} {microseconds:12.3f} us per {case['unit']}{host}; "
            f"a call {case['microseconds_per_call'][rival]:,.0f} us{more}"
        )
    lines += [f"  {rival:34s} {remark}" for rival, remark in case["remarks"].items()]
    return "\n".join(lines)
