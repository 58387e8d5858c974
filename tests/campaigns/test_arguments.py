"""100,000 tuples of arguments to the ops, many of them spoiled; `make test` tries a few.

A call ends with an answer that a formula in float64 or plain PyTorch confirms, or with TypeError,
ValueError or PydreamError in one line that names an argument. It changes no argument, takes at most
ten seconds, and little more memory than its arguments and its answer.
"""

from __future__ import annotations

import faulthandler
import inspect
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from campaigns.argument_answers import EVERY, plain
from campaigns.argument_spoiling import Tuple, tuples
from campaigns.argument_values import Guest, Out, flat_bytes
from campaigns.conftest import Campaign
from campaigns.trials import begin_peak, peak
from every_op import ARGUMENTS

from pydream import ops
from pydream.errors import PydreamError

EACH = 100_000 // len(ARGUMENTS)
"""Number of tuples for each op."""
SECONDS = 10
"""Longest call."""
FLOOR, TIMES = 64 << 20, 8
"""Bytes that any call may take beyond its arguments and its answer, and their multiple.

Between calls the allocators and sanitizers keep freed memory, some tens of megabytes.
"""
MOST_BYTES = 4 << 30
"""Memory of the process beyond which it ends at once."""
LONGEST = 500
"""Letters of an error message."""
OTHERS_WORDS = ("Tensor.", "argument '", "Internal error", "schema", "Could not run", "std::")


@pytest.fixture(scope="module", autouse=True)
def memory_guard() -> Iterator[None]:
    """End the process, with its stacks, before it takes all memory of the machine."""
    done, page = threading.Event(), os.sysconf("SC_PAGE_SIZE")

    def watch() -> None:
        while not done.wait(0.05):
            if int(Path("/proc/self/statm").read_text().split()[1]) * page > MOST_BYTES:
                faulthandler.dump_traceback()
                os._exit(1)

    watcher = threading.Thread(target=watch)
    if Path("/proc/self/statm").exists():
        watcher.start()
    yield
    done.set()


def made(drawn: Tuple) -> dict[str, Any]:
    """Build the arguments of a call."""

    def build(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(build, value))
        return value.make() if hasattr(value, "make") else value

    given = {name: build(v) for name, v in drawn.arguments.items() if not isinstance(v, Out)}
    for name, value in drawn.arguments.items():
        if isinstance(value, Out):
            given[name] = value.make(given)
    return given


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors of an argument that have memory."""
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, Guest):
        return [value.tensor]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.isnative:
        whole = value.base if isinstance(value.base, np.ndarray) else value
        return [torch.tensor(bytearray(whole.tobytes()), dtype=torch.uint8)]
    return [value] if isinstance(value, torch.Tensor) else []


def memory_of(given: dict[str, Any]) -> list[bytes]:
    """Return the bytes of all arguments but the output, with what lies around them in memory."""
    bytes_of = []
    for name, value in given.items():
        for tensor in tensors_in(value) if name != "out" else []:
            if tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested:
                memory = tensor.detach().untyped_storage()
                if isinstance(given.get("out"), torch.Tensor) and _shares(memory, given["out"]):
                    flat = flat_bytes(tensor.detach())
                else:
                    flat = torch.empty(0, dtype=torch.uint8).set_(memory)
                bytes_of.append(flat.numpy().tobytes())
    return bytes_of


def _shares(memory: torch.UntypedStorage, out: torch.Tensor) -> bool:
    strided = out.layout is torch.strided and not out.is_meta and memory.nbytes() > 0
    return strided and out.untyped_storage().data_ptr() == memory.data_ptr()


def bytes_in(value: Any) -> int:
    if isinstance(value, tuple) and not isinstance(value, torch.Size):
        return sum(map(bytes_in, value))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(value))


def refused_well(name: str, error: Exception) -> None:
    """Assert that an error tells in one line which argument is meant."""
    words = str(error)
    if re.fullmatch(rf"{name}\(\) (got an unexpected keyword|missing \d+ required).*", words):
        return  # Python's own words
    names = list(inspect.signature(getattr(ops, name)).parameters)
    assert re.search(rf"\b({'|'.join(names)})\b", words), words
    assert "\n" not in words, words
    assert len(words) <= LONGEST, words[:LONGEST]
    assert not any(other in words for other in OTHERS_WORDS), words


def confirm(name: str, given: dict[str, Any], answer: Any) -> None:
    """Assert that an answer is right, and that its derivatives can be taken."""
    parameters = inspect.signature(getattr(ops, name)).parameters
    whole = {key: given.get(key, one.default) for key, one in parameters.items() if key != "out"}
    if given.get("out") is not None:
        assert answer is given["out"]
    if any(tensor.numel() > 2**20 for value in whole.values() for tensor in tensors_in(value)):
        return  # of a dimension without end, beside one of no size
    found = answer if isinstance(answer, tuple) else answer.detach().resolve_neg()
    EVERY[name](found, **{key: plain(value) for key, value in whole.items()})
    if isinstance(answer, torch.Tensor) and answer.requires_grad:
        leaves = [t for v in given.values() for t in tensors_in(v) if t.requires_grad]
        for slope, leaf in zip(
            torch.autograd.grad(answer.sum(), leaves, allow_unused=True), leaves, strict=True
        ):
            assert slope is None or slope.shape == leaf.shape


def trial(drawn: Tuple, note: Any) -> str:
    """Call an op; return whether it answered, or the kind of its error."""
    print(drawn, file=note, flush=True)  # of a crash, the last line is the tuple
    given = made(drawn)
    kept = memory_of(given)
    before = begin_peak()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        answer = getattr(ops, drawn.op)(**given)
    except (TypeError, ValueError, PydreamError) as error:
        outcome: Any = error
    else:
        outcome = None
    finally:
        faulthandler.cancel_dump_traceback_later()
    taken = peak() - before
    size = sum(map(bytes_in, given.values())) + (0 if outcome else bytes_in(answer))
    assert taken <= FLOOR + TIMES * size, f"{taken >> 20} MiB more"
    if outcome is None:
        confirm(drawn.op, given, answer)
    else:
        refused_well(drawn.op, outcome)
    assert memory_of(given) == kept, "an argument has changed"
    return "answers" if outcome is None else type(outcome).__name__


@pytest.mark.parametrize("name", list(ARGUMENTS))
def test_arguments(name: str, campaign: Campaign, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    with open(tmp_path / "tuples", "w") as note:

        @hypothesis.settings(
            max_examples=campaign.trials(60, EACH),
            derandomize=True,
            database=None,
            deadline=None,
            print_blob=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(drawn=tuples(name))
        def calls(drawn: Tuple) -> None:
            outcomes[trial(drawn, note)] += 1

        calls()
    assert 0 < outcomes["answers"] < sum(outcomes.values())
    campaign.passed("arguments", f"`{name}`", sum(outcomes.values()), **outcomes)


def test_answers_are_of_every_op() -> None:
    assert EVERY.keys() == ARGUMENTS.keys()
