"""Streams of a GPU: captures of CUDA graphs, and copies without waiting."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch

from pydream.collector import nothing_collected

_Result = TypeVar("_Result")
# Other threads go on meanwhile, and may allocate and wait. CUDA's usual mode forbids that to all
# threads: on an H200, one that decoded JPEGs by nvJPEG failed, and the capture with it.
_FORBIDDEN_TO = "thread_local"


def capture(
    call: Callable[[], _Result], device: torch.device, *, warm_up: int = 1
) -> tuple[torch.cuda.CUDAGraph, _Result]:
    """Run a call a few times on a side stream, then capture it in a CUDA graph.

    If the capture fails, the current stream is restored and another capture can begin. PyTorch
    alone would leave the captured stream current, and its allocator and its generator of random
    numbers waiting for the end of the capture.

    Other threads may use the GPU meanwhile, on other streams.

    Parameters
    ----------
    call
        Function that enqueues work on the current stream of `device`, without waiting for any.
    device
        The GPU to capture on.
    warm_up
        Number of calls before the capture, in which libraries set themselves up.

    Returns
    -------
    CUDAGraph
        Graph whose replays repeat the call.
    object
        Result of the captured call; a replay overwrites its tensors.

    Raises
    ------
    RuntimeError
        If the call does something that a capture forbids.
    """
    with torch.cuda.device(device):
        current, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            for _ in range(warm_up):
                call()
        current.wait_stream(beside)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        # The outer block restores the stream if the inner one fails to.
        with torch.cuda.stream(beside):
            try:
                # An older graph that the collector frees within a capture ends it.
                gc.collect()
                with (
                    nothing_collected(),
                    torch.cuda.graph(
                        graph, pool=pool, stream=beside, capture_error_mode=_FORBIDDEN_TO
                    ),
                ):
                    result = call()
            except BaseException:
                _abandon(pool)
                raise
    return graph, result


def _abandon(pool: tuple[int, int]) -> None:
    """End what PyTorch leaves of a failed capture: random numbers and the next capture need it."""
    index = torch.cuda.current_device()
    numbers = torch.cuda.default_generators[index]
    numbers.graphsafe_set_state(numbers.clone_state())  # the copy knows of no capture
    with suppress(RuntimeError):  # if only the call failed, the capture itself has ended properly
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)


def capturing(device: torch.device) -> bool:
    """Return whether a CUDA graph is being captured on a device's current stream.

    PyTorch reports it only for the current device, which may differ from that of a tensor.
    """
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to a device; to a GPU through page-locked memory, in its stream."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
