"""Operations of convolutions and matrix products, counted from what torch's profiler saw."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import flop_registry

from pydream.profiling.recorder import PREFIX

# By the name that the profiler has of them; their formulas are PyTorch's own.
_COUNTED = {
    f"aten::{packet.__name__}": packet
    for packet in flop_registry
    if getattr(packet, "__module__", "").endswith("aten")
}


class Operations(NamedTuple):
    """Operations of the stages, and what could not be counted.

    Attributes
    ----------
    by_stage
        By the path of the innermost stage around them.
    uncounted
        Names of products whose formula refused what the profiler tells of them.
    """

    by_stage: Counter[str]
    uncounted: set[str]


class _Event(NamedTuple):
    """A stage or a counted operation, on one thread."""

    begin: int
    end: int
    name: str
    shapes: Any
    values: Any


def count_operations(traced: torch.profiler.profile) -> Operations:
    """Count the operations of every stage.

    Parameters
    ----------
    traced
        Has ended; with ``record_shapes=True``, and the ranges of stages among its events.

    Returns
    -------
    Operations
        What autograd does in threads of its own is counted for the stage that the thread of most
        stages was in then.
    """
    by_thread = _events_by_thread(traced)
    result = Operations(Counter(), set())
    main = max(by_thread.values(), key=_stages, default=[])
    for events in by_thread.values():
        own = _stages(events) > 0
        merged = events if own else [*events, *(each for each in main if _is_stage(each))]
        _count(sorted(merged, key=lambda each: (each.begin, -each.end)), result)
    return result


def _events_by_thread(traced: torch.profiler.profile) -> dict[int, list[_Event]]:
    """Pick stages and products out of the raw events."""
    # `traced.events()` would make a Python object of each of them: a minute for a run of six.
    assert traced.profiler is not None
    results = traced.profiler.kineto_results
    assert results is not None
    found: dict[int, list[_Event]] = {}
    for event in results.events():
        name = event.name()
        if name in _COUNTED or name.startswith(PREFIX):
            begin = event.start_ns()
            found.setdefault(event.start_thread_id(), []).append(
                _Event(
                    begin,
                    begin + event.duration_ns(),
                    name,
                    _frozen(event.shapes()),
                    _frozen(event.concrete_inputs()),
                )
            )
    return found


def _is_stage(event: _Event) -> bool:
    return event.name.startswith(PREFIX)


def _stages(events: Iterable[_Event]) -> int:
    return sum(map(_is_stage, events))


def _count(events: Iterable[_Event], result: Operations) -> None:
    """Count the operations of one thread, whose events are in order, outer ones first."""
    around: list[_Event] = []
    for event in events:
        while around and around[-1].end <= event.begin:
            around.pop()
        inside_counted = any(not _is_stage(each) for each in around)
        around.append(event)
        if _is_stage(event) or inside_counted:  # it is part of what is counted as a whole
            continue
        stages = [each.name.removeprefix(PREFIX) for each in around if _is_stage(each)]
        if stages:
            try:
                count = _operations(event.name, event.shapes, event.values)
                result.by_stage[stages[-1]] += count
            except (RuntimeError, TypeError, ValueError):
                result.uncounted.add(event.name)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, (list, tuple)) else value


@functools.lru_cache(maxsize=4096)
def _operations(name: str, shapes: tuple[tuple[int, ...], ...], values: tuple[Any, ...]) -> int:
    """Count one operation by PyTorch's formula; its output's shape comes of running it on meta."""
    packet = _COUNTED[name]
    inputs = [
        torch.empty(shape, device="meta") if shape else value
        for shape, value in zip(shapes, values, strict=True)
    ]
    schema = packet.default._schema.arguments[: len(inputs)]
    pairs = list(zip(schema, inputs, strict=True))
    positional = [value for each, value in pairs if not each.kwarg_only]
    named = {each.name: value for each, value in pairs if each.kwarg_only}
    output = packet.default(*positional, **named)
    return int(flop_registry[packet](*positional, **named, out_val=output))
