"""Operations of convolutions and matrix products, counted at each call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class OperationCounter(TorchDispatchMode):
    """Counts the operations that one thread calls, and autograd for it, by stage.

    The formulas are PyTorch's own. The shapes recorded by torch's profiler would give the same
    counts, but keep data of every tensor and so fragment memory: training steps took twice their
    time, and 40 MiB more each.

    Attributes
    ----------
    path
        Path of the thread's current stage; empty if there is none.
    by_stage
        Operations by the path of the stage; a multiplication and an addition count as two.
    uncounted
        Names of products whose formula refused their arguments.
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
