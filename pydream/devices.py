"""Choice of the device of a run: the CPU, or a GPU that this build of pydream can use."""

from __future__ import annotations

import re

import torch

from pydream import _C
from pydream.errors import PydreamError, first_line
from pydream.launchers import place_of_rank
from pydream.ops._dispatch import no_kernels
from pydream.progress import say

_NAMES = re.compile(
    r"(?P<cpu>cpu(:0)?)|cuda|(cuda:)?(?P<index>\d{1,2})"
)  # torch takes cuda:256 for 0


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the named device, if it exists and this build's kernels run on it.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"``, a GPU's number such as ``"1"`` or ``"cuda:1"``; or ``"auto"``: the
        first GPU that this build of pydream can use, else the CPU. Of several ranks on a machine,
        each begins with a GPU of its own for ``"cuda"`` and ``"auto"``.

    Raises
    ------
    PydreamError
        If there is no such device, or this build cannot use it.
    """
    name = str(device).strip().lower()
    if name == "auto":
        return _choose()[0]
    known = _NAMES.fullmatch(name)
    if known is None:
        raise _unusable(device, f"pydream computes on {_available()}")
    if known["cpu"]:
        return torch.device("cpu")
    try:
        named = f"cuda:{known['index']}"
        if known["index"] is None:  # the current GPU, unless ranks share the machine
            named = "cuda" if place_of_rank() is None else f"cuda:{_first_gpu()}"
        place = torch.device(named)
        found = torch.zeros(1, device=place).device  # including its index
        kernels = no_kernels(found)
    except (RuntimeError, AssertionError) as error:
        why = first_line(error).rstrip(".")
        raise _unusable(device, f"{why}; there is: {_available()}") from error
    if kernels is not None:
        raise _unusable(device, kernels)
    return found


def announce_device(device: str | torch.device) -> None:
    """Report the choice for ``"auto"`` and its reason on standard error; silent for other names.

    For the moment when a run has checked its inputs and begins its work.
    """
    if str(device).strip().lower() == "auto":
        found, reason = _choose()
        say(f"device: {found} ({reason})")


def _unusable(device: str | torch.device, reason: str) -> PydreamError:
    return PydreamError(f"device {str(device)!r} cannot be used: {reason}")


def _choose() -> tuple[torch.device, str]:
    """Return the first GPU that this build can use, else the CPU, and the reason."""
    cpu = torch.device("cpu")
    if torch.version.cuda is None:
        return cpu, "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return cpu, "no GPU was found"
    if not _C.cuda_architectures:
        return cpu, f"this build of pydream has no CUDA kernels for {_gpu_name(0)}"
    refused = []
    count = torch.cuda.device_count()
    for index in ((_first_gpu() + number) % count for number in range(count)):
        try:
            return resolve_device(f"cuda:{index}"), _gpu_name(index)
        except PydreamError as error:
            refused.append(str(error))
    return cpu, refused[0]


def _first_gpu() -> int:
    """Return the GPU that a rank begins with: another one for each on its machine."""
    place = place_of_rank()
    return 0 if place is None else place.local_rank % max(1, torch.cuda.device_count())


def _available() -> str:
    """List the devices of this machine."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    names = ["cpu", *(f"cuda:{index} ({_gpu_name(index)})" for index in gpus)]
    return ", ".join(names) + ("" if gpus else " (no GPU was found)")


def _gpu_name(index: int) -> str:
    return torch.cuda.get_device_name(index)
