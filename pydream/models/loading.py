"""Construction of observers from checkpoints and from trained models."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pydream import _C
from pydream.arithmetic import ieee_float32
from pydream.devices import resolve_device
from pydream.entry_types import parse_json
from pydream.errors import PydreamError, printable
from pydream.models.checkpoint import Checkpoint, hash_weights, load_into, open_checkpoint
from pydream.models.config import ObserverSettings
from pydream.models.convnet import NORMS, ConvNet
from pydream.models.inputs import FILE, GIVEN, SHAPES, find_inputs
from pydream.models.names import KINDS, OWN, canonical_arch
from pydream.models.observer import DTYPES, Observer
from pydream.models.recognise import recognise_arch
from pydream.models.registry import check_takes, construct
from pydream.models.resnet_ap import ResNetAP
from pydream.models.state_dicts import choose_reading, fit_names, readings
from pydream.torch_state import usual_torch_state

# A prime that is the number of rows of no layer except the classifier.
_MARK = 1_009
# Weights that a network may have though its file does not fit it, and times those of the file.
_FREELY, _MOST_TIMES = 1 << 28, 2

# torch.nn.init passes its own functions to a mode, but not those that they call.
_DRAWING = (
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
)


class _Undrawn(TorchFunctionMode):
    """Skips the drawing of random weights if all of them will be loaded."""

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


@usual_torch_state()
def load_observer(
    checkpoint: str | os.PathLike[str] | nn.Module,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    side: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    likely_side: int | None = None,
    precision: str = "auto",
    device: str | torch.device = "auto",
    compiled: bool = False,
) -> Observer:
    """Make an observer from a checkpoint or from a trained model.

    Missing values come from the metadata written by ``save_weights``, then from the shapes of the
    weights, then from timm's or torchvision's records of the architecture's own pretrained weights.
    The last resort is ImageNet's mean and std, and its side of 224; for the small-image ResNets
    (``-modified``) it is the images' side if that is at most 64, else 32. ``Observer.origins``
    records the origin of each value.

    Parameters
    ----------
    checkpoint
        A safetensors or torch file, or a classifier of (B, 3, side, side); the module is copied.
    arch
        Architecture, as for ``build_model``.
    num_classes
        Number of logits.
    side
        Height and width of the images, in pixels.
    mean, std
        Three numbers each, for pixels in [0, 1].
    likely_side
        Side of the images of the run, for a network that fits several sides if nothing else
        decides.
    precision
        ``"float32"``, ``"bfloat16"``, ``"float16"`` (on a GPU), or ``"auto"``: bfloat16 if the
        processor or the GPU multiplies it natively, else float32. float32 means IEEE float32: TF32
        is off during a GPU's passes.
    device
        Device that runs the observer: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: a GPU
        that this build of pydream can use, else the CPU.
    compiled
        Compile the network with ``torch.compile``: up to a minute once, then faster passes. It
        changes the last bits of the logits.

    Returns
    -------
    Observer

    Raises
    ------
    PydreamError
        If the checkpoint cannot be read or does not fit the architecture, or a required value is
        neither given nor found.
    """
    target = resolve_device(device)
    precision = resolve_precision(precision, target)
    opened = _open(checkpoint)
    return _observer_of(
        opened,
        arch=arch,
        num_classes=num_classes,
        side=side,
        mean=mean,
        std=std,
        likely_side=likely_side,
        precision=precision,
        target=target,
        compiled=compiled,
    )


@dataclass(frozen=True)
class _Opened:
    """Source of an observer, read once: the content of a file, or a model."""

    model: nn.Module | None
    where: str
    checkpoint: Checkpoint
    hashes: dict[int, str] = field(default_factory=dict)

    @cached_property
    def readings(self) -> list[dict[str, torch.Tensor]]:
        """The weights that may belong to the network; all, for a model."""
        weights = self.checkpoint.weights
        return readings(weights) if self.model is None else [weights]

    def sha256(self, place: int) -> str:
        """Return the hash of one of the readings, computed once."""
        if place not in self.hashes:
            self.hashes[place] = hash_weights(self.readings[place])
        return self.hashes[place]


def _open(given: str | os.PathLike[str] | nn.Module) -> _Opened:
    if isinstance(given, nn.Module):
        return _Opened(given, type(given).__name__, Checkpoint(given.state_dict(), {}, ""))
    return _Opened(None, os.fspath(given), open_checkpoint(given))


@contextmanager
def _naming(opened: _Opened) -> Iterator[None]:
    """Let every error name the file, which may have given the architecture or the side."""
    try:
        yield
    except PydreamError as error:
        if opened.model is not None or printable(opened.where) in str(error):
            raise
        raise PydreamError(f"{opened.where}: {error}") from error


def _observer_of(
    opened: _Opened,
    *,
    arch: str | None,
    num_classes: int | None,
    side: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    likely_side: int | None,
    precision: str,
    target: torch.device,
    compiled: bool,
) -> Observer:
    with _naming(opened):
        where, given = opened.where, opened.model
        weights, metadata, remark = opened.checkpoint
        origin = GIVEN
        if given is not None:
            where = arch = arch or where
            side = side or (given.side if isinstance(given, (ConvNet, ResNetAP)) else None)
        else:
            arch, origin = (arch, GIVEN) if arch else _arch_from(metadata, weights, where)
            arch = canonical_arch(arch)
        inputs = find_inputs(
            arch, weights, metadata, where, side=side, mean=mean, std=std, likely_side=likely_side
        )
        place = 0
        if given is not None:
            model = copy.deepcopy(given)
        else:
            model, place, left_out = _build(arch, num_classes, inputs.side, opened.readings, where)
            remark = "; ".join(filter(None, (remark, left_out)))
        with ThreadPoolExecutor(1) as beside:  # hashing gigabytes takes seconds, without the GIL
            weights_sha256 = beside.submit(opened.sha256, place)
            model = model.float().to(target)
            with ieee_float32():
                tried = check_takes(model, arch, side=inputs.side)
        logits = tried[1]
        if num_classes not in (None, logits.shape[1]):
            raise PydreamError(f"{where} has {logits.shape[1]} classes, not {num_classes}")
        return Observer(
            model,
            tried,
            arch=arch,
            num_classes=logits.shape[1],
            side=inputs.side,
            mean=inputs.mean,
            std=inputs.std,
            origins={"arch": origin, **inputs.origins, **({"weights": remark} if remark else {})},
            precision=precision,
            device=target,
            weights_sha256=weights_sha256.result(),
            class_names=_class_names(metadata, logits.shape[1], where),
            compiled=compiled,
        )


@usual_torch_state()
def load_configured_observer(
    checkpoint: str | os.PathLike[str] | nn.Module,
    settings: ObserverSettings,
    *,
    arch: str | None,
    side: int | None,
    likely_side: int | None = None,
    kept: Callable[[str], Mapping[str, Any]] | None = None,
    precision: str,
    device: str | torch.device,
    compiled: bool = False,
) -> Observer:
    """Load the observer given to a command, for the images of its run.

    Parameters
    ----------
    checkpoint, arch, likely_side, precision, device, compiled
        The arguments of `load_observer`.
    settings
        Side, mean and std given to the command.
    side
        Side of the images for the observer. If the settings have another side, images are resized
        to that.
    kept
        Function of the weights' SHA-256 that returns ``arch``, ``side``, ``mean`` and ``std``, as
        far as a set records them for this observer; `arch` and the settings take precedence.

    Raises
    ------
    PydreamError
        In the same cases as `load_observer`.
    """
    target = resolve_device(device)
    precision = resolve_precision(precision, target)
    opened = _open(checkpoint)
    known: Mapping[str, Any] = {}
    if kept is not None:
        hashes = map(opened.sha256, range(len(opened.readings)))
        known = next(filter(None, map(kept, hashes)), {})
    arch = arch or known.get("arch")
    given = {
        "side": settings.observer_side,
        "mean": settings.observer_mean,
        "std": settings.observer_std,
    }
    taken = {name: known[name] for name in given if given[name] is None and name in known}
    chosen = {**given, **taken}
    observer = _observer_of(
        opened,
        arch=arch,
        num_classes=None,
        **{**chosen, "side": chosen["side"] or side},
        likely_side=likely_side,
        precision=precision,
        target=target,
        compiled=compiled,
    )
    if side is not None and chosen["side"] is None:
        observer.origins["side"] = "that of the distilled images"
    observer.origins.update(dict.fromkeys(taken, "from the set"))
    if side is not None and chosen["side"] not in (None, side):
        observer = observer.resizing_from(side)
    return observer


def resolve_precision(precision: str, device: torch.device) -> str:
    """Resolve "auto" to the fastest precision of the device."""
    if precision == "float16" and device.type == "cpu":
        raise PydreamError("precision float16 is for GPUs: give --device cuda, or bfloat16")
    if precision in DTYPES:
        return precision
    if precision != "auto":
        known = ", ".join(DTYPES)
        raise PydreamError(f"precision must be auto or one of {known}, got {precision!r}")
    return "bfloat16" if _native_bfloat16(device) else "float32"


def _native_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 natively; most GPUs before 2020 emulate it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _C.native_bfloat16()


def _build(
    arch: str,
    num_classes: int | None,
    side: int,
    found: Sequence[dict[str, torch.Tensor]],
    where: str,
) -> tuple[nn.Module, int, str]:
    """Build the model and load its weights; torch's generator does not change.

    Also return the index of the reading, and a description of the weights left out.
    """
    if OWN.fullmatch(arch):
        _check_size(arch, side, found[0], where)
    with torch.random.fork_rng(devices=[]), _Undrawn():
        model = construct(arch, num_classes=num_classes or _MARK, side=side)
        place, left_out = choose_reading(found, model.state_dict())
        weights = fit_names(found[place], model.state_dict())
        _check_family(model, arch, weights, where)
        if num_classes is None:
            num_classes = _count_classes(model, weights)
            if num_classes is None:  # another architecture: loading reports the difference
                load_into(model, where, weights, arch)
                raise PydreamError(f"{where} does not show its number of classes")
            model = construct(arch, num_classes=num_classes, side=side)
    load_into(model, where, weights, f"{arch} for {num_classes} classes of {side}×{side} images")
    return model, place, left_out


def _check_size(arch: str, side: int, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise PydreamError if a file names a network that is many times larger than the file."""
    with torch.device("meta"):
        network = construct(arch, num_classes=1, side=side)
    needed = sum(tensor.numel() for tensor in network.state_dict().values())
    if needed > max(_FREELY, _MOST_TIMES * sum(tensor.numel() for tensor in weights.values())):
        raise PydreamError(
            f"{where} does not hold weights for {arch} of {side}×{side} images, which has "
            f"{needed:,} of them; give --observer-arch and --observer-side"
        )


def _check_family(
    model: nn.Module, arch: str, weights: Mapping[str, torch.Tensor], where: str
) -> None:
    """Raise PydreamError if the weights identify another architecture."""
    differing = [
        name
        for name, tensor in model.state_dict().items()
        if not name.endswith(".num_batches_tracked")
        and (name not in weights or (tensor.dim() == 4 and weights[name].shape != tensor.shape))
    ]
    recognised = recognise_arch(weights) if differing else None
    if recognised not in (None, arch):
        raise PydreamError(
            f"{where} does not hold weights for {arch}: their names and shapes are those of "
            f"{recognised}; give --observer-arch {recognised}"
        )


def _count_classes(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> int | None:
    """Count the rows of the weights that have ``_MARK`` rows in a model with ``_MARK`` classes."""
    for name, parameter in model.named_parameters():
        if parameter.shape[0] == _MARK and name in weights and weights[name].dim() > 0:
            return weights[name].shape[0]
    return None


def _arch_from(
    metadata: Mapping[str, str], weights: Mapping[str, torch.Tensor], where: str
) -> tuple[str, str]:
    """Return the architecture named by the metadata or the shapes, and which of these named it."""
    arch = metadata.get("arch")
    if not arch:
        arch = recognise_arch(weights)
        if arch is None:
            raise PydreamError(
                f"{where} does not say what architecture it is; give --observer-arch: {KINDS}"
            )
        return arch, SHAPES
    arch = canonical_arch(arch)
    norm = metadata.get("norm", "batch")
    if norm != "batch" and norm in NORMS and not {*NORMS} & {*arch.split("-")}:
        arch = f"{arch}-{norm}" if arch.startswith("convnet") else arch
    return arch, FILE


def _class_names(
    metadata: Mapping[str, str], num_classes: int, where: str
) -> tuple[str, ...] | None:
    """Return the names of the classes, if the metadata has them as a JSON list."""
    try:
        names = parse_json(metadata.get("classes", ""))
    except ValueError:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    if len(names) != num_classes:
        raise PydreamError(f"{where} names {len(names)} classes but its model has {num_classes}")
    return tuple(names)
