"""PyTorch's global state, set aside while pydream's own networks run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual_torch_state() -> Iterator[None]:
    """Reset PyTorch to its initial state, and restore the caller's state at the end.

    Default dtype float32, the CPU as default device, gradients recorded, no autocast: a run then
    makes the same set in any program. As a decorator, ``@usual_torch_state()`` applies to each call
    of a function.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            # only if needed: a device mode slows down every call
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)
