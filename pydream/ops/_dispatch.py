"""Choice of an op's implementation: compiled for CPU or CUDA, or the plain-PyTorch reference."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from pydream import _C
from pydream.gpus import missing_kernels
from pydream.streams import capturing

if TYPE_CHECKING:
    from pydream._C import CudaKernels

# Faults that kernels report, in the order of csrc/common/faults.h.
_FAULTS = (
    "boxes[{place}] is empty",
    "boxes[{place}] is not inside its image",
    "image_index[{place}] is out of range",
    "labels must lie within the classes, and do not in {rows}: at row {place}",
    "logits hold NaN, +inf or nothing but -inf, so there is no score, in {rows}: {place}",
    "scores hold NaN in {rows}: {place}",
    "x must be finite, small enough for squared distances in float32, and for cosine not zero; "
    "it is not in {rows}: {place}",
    "centroids must be finite, and small enough for squared distances in float32; it is not in "
    "{rows}: {place}",
)
_NO_PLACE = -1  # all ones, as the kernels write it

# Memory that the kernels of each device report to, made at the first call: once for all threads.
_reports: dict[int, torch.Tensor] = {}
_making_reports = threading.Lock()


class Launch(NamedTuple):
    """CUDA kernels, and the device and stream of a call. Passed whole, as their last argument."""

    module: CudaKernels
    faults: int
    device: int
    stream: int


def launch_on(device: torch.device) -> Launch | None:
    """Return the launch of CUDA kernels for tensors of a device; None if it has no kernels.

    Raises
    ------
    RuntimeError
        If the build has no code for this GPU, or the driver is too old for the build.
    ValueError
        If an earlier op found bad values on the device.
    """
    if device.type != "cuda" or not _C.cuda_architectures or torch.version.cuda is None:
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    faults = _faults(index)
    # A capture cannot wait; the next op after it raises the fault.
    if _C.cuda.any_fault(faults.data_ptr()) and not capturing(device):
        check_values(device)
    stream = torch.cuda.current_stream(index).cuda_stream
    return Launch(_C.cuda, faults.data_ptr(), index, stream)


def has_kernels(device: torch.device) -> bool:
    """Return whether this build has kernels for a device."""
    return device.type == "cpu" or launch_on(device) is not None


def check_values(device: torch.device | str | None = None) -> None:
    """Wait for a GPU, and raise the faults that ops have found in values on it.

    Ops on CUDA tensors do not wait for their own results. Values that only a kernel can read
    (boxes, indices, labels, logits) are checked there. A bad value is skipped, and the next op on
    that device, or this function, raises the fault.

    Parameters
    ----------
    device
        The GPU, by default the current one. Other devices have no pending faults.

    Raises
    ------
    ValueError
        Names argument and row. Also if `device` does not exist on this machine.
    TypeError
        If `device` is of another type.
    """
    place = _device("cuda" if device is None else device)
    if place.type != "cuda" or not _C.cuda_architectures or not torch.cuda.is_available():
        return
    index = torch.cuda.current_device() if place.index is None else place.index
    faults = _faults(index)
    torch.cuda.synchronize(index)  # so that the counts cover all rows
    if _C.cuda.any_fault(faults.data_ptr()):
        taken = no_faults(pin=True)
        stream = torch.cuda.current_stream(index)
        launch = Launch(_C.cuda, faults.data_ptr(), index, stream.cuda_stream)
        _C.cuda.take_faults(taken.data_ptr(), launch)
        stream.synchronize()
        raise_faults(taken, torch.device("cuda", index))


def _device(value: torch.device | str) -> torch.device:
    if not isinstance(value, (torch.device, str)):
        raise TypeError(f"device must be a device or its name, got {type(value).__name__}")
    try:
        device = torch.device(value)
    except RuntimeError as error:
        raise ValueError(f"device must be a device as cpu or cuda:0, got {value!r}") from error
    if device.type == "cuda" and device.index is not None and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if device.index >= count:
            raise ValueError(f"device must be one of this machine's {count} GPUs, got {value!r}")
    return device


def no_kernels(device: torch.device) -> str | None:
    """Say why a GPU cannot run this build's kernels; None if it can, or if no build could."""
    if device.type != "cuda" or not _C.cuda_architectures or torch.version.cuda is None:
        return None
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    return missing_kernels(_C, index, name, capability)


def _faults(index: int) -> torch.Tensor:
    """Return the fault memory of a device: int64 (kinds, 2), count and place."""
    known = _reports.get(index)
    if known is not None:
        return known
    with _making_reports:
        if index not in _reports:
            reason = no_kernels(torch.device("cuda", index))
            if reason is not None:
                raise RuntimeError(reason)
            _reports[index] = no_faults(pin=True)
        return _reports[index]


def no_faults(*, pin: bool) -> torch.Tensor:
    """Allocate fault memory without a fault."""
    faults = torch.zeros(len(_FAULTS), 2, dtype=torch.int64, device="cpu", pin_memory=pin)
    faults[:, 1] = _NO_PLACE
    return faults


def raise_faults(taken: torch.Tensor, device: torch.device) -> None:
    """Raise the first kind of fault read from a device; int64 (kinds, 2)."""
    for (count, place), words in zip(taken.tolist(), _FAULTS, strict=True):
        if count and place != _NO_PLACE:  # else an earlier error has named the place
            rows = "1 row" if count == 1 else f"{count} rows, the first"
            message = words.format(place=place, rows=rows)
            raise ValueError(f"{message} (found on {device} by an earlier call)")


@functools.cache
def warn_reference_once(device: torch.device) -> None:
    """Warn once per device that its tensors use the plain-PyTorch reference."""
    warnings.warn(
        f"pydream has no compiled kernels for {device.type} in this build: plain PyTorch runs "
        "instead, more slowly. For the CUDA kernels, install pydream where nvcc is found, or with "
        "PYDREAM_CUDA=on.",
        RuntimeWarning,
        stacklevel=2,
    )


def _device_of(first: torch.Tensor | list[torch.Tensor] | int) -> torch.device:
    if isinstance(first, torch.Tensor):
        return first.device
    return first[0].device if isinstance(first, list) else _CPU


def aligned(value: Any) -> Any:
    """Copy a tensor whose address is no multiple of its elements' size, or such items of a list."""
    if isinstance(value, list):
        return [aligned(item) for item in value]
    if isinstance(value, torch.Tensor) and value.data_ptr() % value.element_size():
        return value.clone()
    return value


_CPU = torch.device("cpu")
_LIBRARY = cast(Any, torch.library.Library)("pydream", "FRAGMENT")


def register(
    schema: str,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any] | None,
    other: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    gradient: tuple[Callable[..., None], Callable[..., Any]] | None = None,
) -> None:
    """Register an op: compiled if there are kernels, else the reference.

    The op runs on the device of its first argument, a tensor or a list of tensors; on the CPU if
    that is a number. `cuda` takes a `Launch` before the op's own arguments. If it is None, the op
    has no GPU kernels in any build, and `other` runs there without a warning.

    `gradient` is a pair for an op with derivatives: the function that saves tensors, and the
    backward pass, as torch.library.register_autograd takes them.
    """

    def run(first: Any, *arguments: Any) -> Any:
        device = _device_of(first)
        if cuda is not None and (launch := launch_on(device)) is not None:
            return cuda(launch, first, *arguments)
        if device.type == "cpu":
            try:
                return cpu(first, *arguments)
            except _C.MisalignedError:
                return cpu(*map(aligned, (first, *arguments)))
        if cuda is not None:
            warn_reference_once(device)
        return other(first, *arguments)

    name = define(schema, run, fake)
    if gradient is None:
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
        return
    keep, backward = gradient
    torch.library.register_autograd(f"pydream::{name}", backward, setup_context=keep, lib=_LIBRARY)


def define(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> str:
    """Define an op that runs the same function on every device; return its name.

    The op goes straight into the dispatcher. torch.library.custom_op would add a layer of Python
    for autograd, 40 us a call when the caches are full of logits, a fifth of the whole; and the
    first call would import torch's compiler, which takes longer than torch itself.
    """
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pydream::{name}", fake, lib=_LIBRARY)
    return name


def define_writing(schema: str, run: Callable[..., None]) -> None:
    """Define an op that writes to its last argument, a tensor that requires no gradient.

    Autograd is told that the tensor has changed, as by PyTorch's own ops.
    """

    def write(*arguments: Any) -> None:
        run(*arguments)
        if not arguments[-1].is_inference():  # such tensors have no version
            torch.autograd.graph.increment_version(arguments[-1])

    name = define(schema, write, lambda *arguments: None)
    _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
