"""Operations of convolutions and matrix products, counted as they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what one thread calls, and what autograd calls for it, by the stage it is in.

    The formulas are PyTorch's own. Shapes recorded by torch's profiler would tell the same, but
    keep something of every tensor, and so memory in pieces: training steps took twice their time,
    and 40 MiB more each.

    Attributes
    ----------
    path
        Path of the stage that the thread is in; empty if there is none.
    by_stage
        Operations, a multiplication and an addition counted as two, by the path of the stage.
    uncounted
        Names of products whose formula refused what they were called with.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path = ""
        self.by_stage: Counter[str] = Counter()
        self.uncounted: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        formula: Callable[..., Any] | None = flop_registry.get(func._overloadpacket)
        if formula is None and func._can_decompose():  # in inference mode: linear, conv2d
            with self:
                return func.decompose(*args, **named)
        output = func(*args, **named)
        if formula is not None:
            try:
                self.by_stage[self.path] += int(formula(*args, **named, out_val=output))
            except (RuntimeError, TypeError, ValueError):
                self.uncounted.add(str(func._overloadpacket))
        return output
