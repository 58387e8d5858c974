"""Capture and replay of a step of many small kernels as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from pydream.errors import first_line
from pydream.streams import capture

_WARM_UP = 3  # calls before a capture, in which libraries set themselves up

Inputs = TypeVar("Inputs")


class Replayed(Generic[Inputs]):
    """A step on tensors at fixed addresses: on a GPU captured once, and replayed from then on.

    A matching step runs some hundred kernels for each part of the classes, most of them shorter
    than their launch. Everything else that the step reads (the network's parameters) must stay at
    its address. If a step cannot be captured, it is called each time, and one warning gives the
    reason. Calls come from one thread at a time, and from one stream.

    Parameters
    ----------
    step
        Function of the inputs (tensors in a tuple or any pytree) that changes `state` in place and
        returns a tensor. It must not wait for the device.
    state
        Tensors that the step changes.
    device
        Device that the step runs on.
    """

    def __init__(
        self, step: Callable[[Inputs], Tensor], state: Sequence[Tensor], device: torch.device
    ) -> None:
        self._step, self._state, self._device = step, list(state), device
        self._captures = device.type == "cuda"
        self._inputs: Inputs | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result = torch.empty(0)

    def __call__(self, inputs: Inputs) -> Tensor:
        """Run the step; inputs have the structure and the shapes of those it was captured with."""
        self.prepare(lambda: inputs)
        if self._graph is None or self._inputs is None:
            return self._step(inputs)
        for fixed, given in zip(tree_leaves(self._inputs), tree_leaves(inputs), strict=True):
            if isinstance(fixed, Tensor):
                fixed.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result.clone()

    def prepare(self, inputs: Callable[[], Inputs]) -> None:
        """Capture the step, if it is to be and has not been, with inputs that a function returns.

        By default, the first call captures it.
        """
        if self._captures and self._graph is None:
            self._capture(inputs())

    def _capture(self, inputs: Inputs) -> None:
        """Run the step a few times, capture it, and restore the state that these runs changed."""
        kept = [tensor.detach().clone() for tensor in self._state]
        fixed = tree_map_only(Tensor, torch.clone, inputs)
        self._inputs = fixed
        try:
            self._graph, self._result = capture(
                lambda: self._step(fixed), self._device, warm_up=_WARM_UP
            )
        except RuntimeError as error:
            reason = first_line(error)
            warnings.warn(f"the steps run without a CUDA graph: {reason}", stacklevel=2)
            self._captures = False
        with torch.no_grad():  # of a leaf that requires a gradient, too
            for tensor, before in zip(self._state, kept, strict=True):
                tensor.copy_(before)
