"""Makes observers of checkpoints and of trained models."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pydream import _C
from pydream.arithmetic import ieee_float32
from pydream.devices import resolve_device
from pydream.errors import PydreamError
from pydream.models.checkpoint import hash_weights, load_into, read_weights
from pydream.models.convnet import NORMS, ConvNet
from pydream.models.observer import DTYPES, Observer
from pydream.models.registry import KINDS, check_takes, construct
from pydream.models.resnet_ap import ResNetAP

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_DEFAULT_SIDE = 224
# A prime that no layer but the classifier has as its number of rows.
_MARK = 1_009

# torch.nn.init hands its own functions to a mode, and those that they call inside no more.
_DRAWING = (
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
)


class _Undrawn(TorchFunctionMode):
    """Leaves out the drawing of random weights, where all of them will be loaded."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def load_observer(
    checkpoint: str | os.PathLike[str] | nn.Module,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    side: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    precision: str = "auto",
    device: str | torch.device = "auto",
    compiled: bool = False,
) -> Observer:
    """Make an observer of a checkpoint, or of a trained model.

    What is not given is taken from the checkpoint: from the metadata that ``save_weights`` wrote,
    then from the shapes of the weights, then ImageNet's mean, std and side of 224.

    Parameters
    ----------
    checkpoint
        A safetensors or torch file, or a classifier of (B, 3, side, side); the module is copied.
    arch
        As ``build_model`` takes it.
    num_classes
        Number of logits.
    side
        Height and width of the images, in pixels.
    mean, std
        Three numbers each, for pixels in [0, 1].
    precision
        ``"float32"``, ``"bfloat16"``, ``"float16"`` (on a GPU), or ``"auto"``: bfloat16 where the
        processor or the GPU multiplies it natively, float32 elsewhere. float32 means IEEE
        float32: TF32 stays off during a GPU's passes.
    device
        Where it runs: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: a GPU that this build of
        pydream can use, else the CPU.
    compiled
        Whether ``torch.compile`` makes kernels for it: some of a minute once, then faster passes.
        The last bits of the logits are others.

    Returns
    -------
    Observer

    Raises
    ------
    PydreamError
        If the checkpoint cannot be read, does not fit the architecture, or something that is
        needed is neither given nor found.
    """
    target = resolve_device(device)
    precision = resolve_precision(precision, target)
    if isinstance(checkpoint, nn.Module):
        model, weights = copy.deepcopy(checkpoint), checkpoint.state_dict()
        metadata: Mapping[str, str] = {}
        where = arch = arch or type(model).__name__
        side = side or (model.side if isinstance(model, (ConvNet, ResNetAP)) else _DEFAULT_SIDE)
    else:
        where = os.fspath(checkpoint)
        weights, metadata = read_weights(checkpoint)
        arch = arch or _arch_from(metadata, where)
        side = side or _side_from(metadata, weights, where)
        model = _build(arch, num_classes, side, weights, where)
    with ThreadPoolExecutor(1) as beside:  # hashing gigabytes takes seconds, and no GIL
        weights_sha256 = beside.submit(hash_weights, weights)
        model = model.float().to(target)
        with ieee_float32():
            tried = check_takes(model, arch, side=side)
    logits = tried[1]
    if num_classes not in (None, logits.shape[1]):
        raise PydreamError(f"{where} has {logits.shape[1]} classes, not {num_classes}")
    return Observer(
        model,
        tried,
        arch=arch,
        num_classes=logits.shape[1],
        side=side,
        mean=_three_numbers("mean", mean, metadata, IMAGENET_MEAN, where),
        std=_three_numbers("std", std, metadata, IMAGENET_STD, where),
        precision=precision,
        device=target,
        weights_sha256=weights_sha256.result(),
        class_names=_class_names(metadata, logits.shape[1], where),
        compiled=compiled,
    )


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn "auto" into what is fast on the device."""
    if precision == "float16" and device.type == "cpu":
        raise PydreamError("precision float16 is for GPUs: give --device cuda, or bfloat16")
    if precision in DTYPES:
        return precision
    if precision != "auto":
        known = ", ".join(DTYPES)
        raise PydreamError(f"precision must be auto or one of {known}, got {precision!r}")
    return "bfloat16" if _native_bfloat16(device) else "float32"


def _native_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 itself; most GPUs before 2020 emulate it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _C.native_bfloat16()


def _build(
    arch: str, num_classes: int | None, side: int, weights: Mapping[str, torch.Tensor], where: str
) -> nn.Module:
    """Build the model and load the weights into it; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]), _Undrawn():
        if num_classes is None:
            model = construct(arch, num_classes=_MARK, side=side)
            num_classes = _count_classes(model, weights)
            if num_classes is None:  # another architecture: what differs is found in loading
                load_into(model, where, weights, arch)
                raise PydreamError(f"{where} does not show its number of classes; give it")
        model = construct(arch, num_classes=num_classes, side=side)
    load_into(model, where, weights, f"{arch} for {num_classes} classes of {side}×{side} images")
    return model


def _count_classes(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> int | None:
    """Count the rows of the weights that have ``_MARK`` of them in a model for so many classes."""
    for name, each in model.named_parameters():
        if each.shape[0] == _MARK and name in weights and weights[name].dim() > 0:
            return weights[name].shape[0]
    return None


def _arch_from(metadata: Mapping[str, str], where: str) -> str:
    """Return the architecture that the metadata names."""
    arch = metadata.get("arch")
    if not arch:
        raise PydreamError(f"{where} does not say what architecture it is; give --arch: {KINDS}")
    norm = metadata.get("norm", "batch")
    if norm == "batch" or norm not in NORMS or {*NORMS} & {*arch.split("-")}:
        return arch
    return f"{arch}-{norm}" if arch.startswith("convnet") else arch


def _side_from(metadata: Mapping[str, str], weights: Mapping[str, torch.Tensor], where: str) -> int:
    """Return the image side from the metadata, a ConvNet's shapes, or the default."""
    text = metadata.get("side")
    if text is not None:
        if not text.isdigit() or int(text) < 1:
            raise PydreamError(f"{where} has the image side {text!r}; give --side")
        return int(text)
    depth = sum(name.startswith("layers.conv.") and name.endswith(".weight") for name in weights)
    classifier, last = (
        weights.get(name) for name in ("classifier.weight", f"layers.conv.{depth - 1}.weight")
    )
    if classifier is None or last is None or classifier.dim() != 2 or not len(last):
        return _DEFAULT_SIDE
    return math.isqrt(classifier.shape[1] // len(last)) << depth


def _three_numbers(
    name: str,
    given: Sequence[float] | None,
    metadata: Mapping[str, str],
    default: tuple[float, ...],
    where: str,
) -> tuple[float, ...]:
    """Return mean or std: as given, from the metadata, or the default."""
    text = metadata.get(name)
    try:
        numbers = given if given is not None or text is None else text.split(",")
        values = default if numbers is None else tuple(float(each) for each in numbers)
    except ValueError:
        values = ()
    usable = len(values) == 3 and all(map(math.isfinite, values))
    if not usable or (name == "std" and min(values) <= 0):
        what = text if given is None else tuple(given)
        raise PydreamError(f"{name} of {where} must be three numbers, got {what!r}; give --{name}")
    return values


def _class_names(
    metadata: Mapping[str, str], num_classes: int, where: str
) -> tuple[str, ...] | None:
    """Return the names of the classes, if the metadata has them as a JSON list."""
    try:
        names = json.loads(metadata.get("classes", ""))
    except json.JSONDecodeError:
        return None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        return None
    if len(names) != num_classes:
        raise PydreamError(f"{where} names {len(names)} classes but its model has {num_classes}")
    return tuple(names)
