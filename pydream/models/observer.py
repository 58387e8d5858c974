"""The observer: a trained classifier that says how real a patch looks, and labels images."""

from __future__ import annotations

import copy
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pydream import _C
from pydream.errors import PydreamError
from pydream.models.checkpoint import hash_weights, load_into, read_weights
from pydream.models.convnet import NORMS, ConvNet
from pydream.models.inference import fold
from pydream.models.registry import KINDS, check_takes, construct
from pydream.ops._checks import check_dtype, check_shape

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_DEFAULT_SIDE = 224
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# A prime that no layer but the classifier has as its number of rows.
_MARK = 1_009

# Rows of a tile at most, and bytes that its biggest activation must stay below. On the CPU, glibc
# takes buffers of 32 MiB and more from the kernel anew, page by page, at every call, and smaller
# tiles stay in the cache. Images per second on two cores of a Xeon (AVX-512, float32), by tile:
#   ConvNet-3 at 32²     8: 1617, 16: 2003, 32: 1766, 64: 1531, 128: 1281, 512: 1314
#   ResNet-18 at 224²    2: 58, 4: 65, 8: 70, 16: 59, 32: 52
#   the same, modified, at 32²    8: 104, 16: 135, 32: 157, 64: 158, 128: 106, 256: 142
# (ConvNet-3 not folded, contiguous, 500 rows at a time: 513.) The rule gives 32, 8 and 64.
_TILE_ON_CPU = (64, 32 << 20)
_TILE_ELSEWHERE = (512, 1 << 30)


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


class Observer:
    """A frozen classifier in evaluation mode; made by ``load_observer``, which owns the model.

    Attributes
    ----------
    arch
        The architecture, as ``build_model`` takes it (or the class name of a module).
    num_classes
        Number of logits.
    side
        Height and width of the images, in pixels.
    mean, std
        What the images are normalised with, per channel, for pixels in [0, 1].
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"``: of weights and activations.
    dtype
        The same, as a torch dtype.
    weights_sha256
        Hash over names and bytes of the weights.
    device
        Where the weights are and the passes run.
    tile
        Rows of one forward pass.
    class_names
        Names of the classes in the order of the logits, where the checkpoint has them.
    """

    def __init__(
        self,
        model: nn.Module,
        tried: tuple[torch.Tensor, torch.Tensor],
        *,
        arch: str,
        num_classes: int,
        side: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        precision: str,
        device: torch.device,
        weights_sha256: str,
        class_names: tuple[str, ...] | None,
        compiled: bool,
    ) -> None:
        self.arch = arch
        self.num_classes = num_classes
        self.side = side
        self.mean = mean
        self.std = std
        self.precision = precision
        self.device = device
        self.weights_sha256 = weights_sha256
        self.class_names = class_names
        self.dtype = _DTYPES[precision]
        self._model = fold(model, *tried).to(dtype=self.dtype)
        self._model.to(memory_format=torch.channels_last)
        self._columns = num_classes
        self._order: torch.Tensor | None = None
        self.tile = self._choose_tile()
        if compiled:
            self._compile()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Classify images, in tiles of exactly ``tile`` rows, the last one filled up with zeros.

        So memory does not grow with the number of images, and an image's logits do not depend on
        how many others come with it. Where the device's memory runs out, tiles are halved.

        Parameters
        ----------
        images
            (B, 3, side, side), float32 or ``dtype``, normalised, on any device; B may be 0.
            Fastest in channels-last layout and ``dtype``.

        Returns
        -------
        Tensor
            (B, num_classes), float32, on the observer's device.

        Raises
        ------
        TypeError
            If the images have another dtype.
        ValueError
            If they have another shape.
        """
        check_shape(images, "images", ("B", 3, self.side, self.side))
        check_dtype(images, "images", *dict.fromkeys((torch.float32, self.dtype)))
        logits = torch.empty(len(images), self._columns, device=self.device)
        start = 0
        while start < len(images):
            rows = images[start : start + self.tile]
            try:
                logits[start : start + len(rows)] = self._run(rows)[: len(rows)]
            except torch.OutOfMemoryError as error:
                self.halve_tile(error)
            else:
                start += len(rows)
        return logits if self._order is None else logits[:, self._order]

    def halve_tile(self, error: torch.OutOfMemoryError) -> None:
        """Take half the rows at a time from now on, because the device's memory has run out.

        Raises
        ------
        PydreamError
            If there is only one row left to take.
        """
        if self.tile == 1:
            raise PydreamError(
                f"{self.device} has too little memory for {self.arch}: another program may hold "
                "it; else take a smaller observer, or --device cpu"
            ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.tile //= 2
        warnings.warn(
            f"{self.device} is out of memory: going on with {self.tile} images at a time",
            RuntimeWarning,
            stacklevel=2,
        )

    def with_class_order(self, order: Sequence[int]) -> Observer:
        """Return this observer with its classes renumbered; the weights are shared.

        Parameters
        ----------
        order
            Column j of the new logits is column ``order[j]`` of these. It may leave classes out.

        Raises
        ------
        ValueError
            If a class is out of range or comes twice, or none is left.
        """
        order = [int(each) for each in order]
        if not order or len(set(order)) < len(order):
            raise ValueError(f"order must hold at least one class and none twice, got {order}")
        if min(order) < 0 or max(order) >= self.num_classes:
            raise ValueError(f"order must hold classes in [0, {self.num_classes}), got {order}")
        other = copy.copy(self)
        chosen = torch.tensor(order, device=self.device)
        other._order = chosen if self._order is None else self._order[chosen]
        other.num_classes = len(order)
        if self.class_names is not None:
            other.class_names = tuple(self.class_names[each] for each in order)
        return other

    def with_side(self, side: int) -> Observer:
        """Return this observer for images of another side; the weights are shared.

        Parameters
        ----------
        side
            Height and width of the images, in pixels.

        Raises
        ------
        PydreamError
            If the network only takes the side it was made for.
        """
        other = copy.copy(self)
        other.side = side
        try:
            other.tile = other._choose_tile()
        except (AssertionError, RuntimeError) as error:
            raise PydreamError(
                f"{self.arch} takes images of {self.side} pixels a side only, not of {side}"
            ) from error
        return other

    @torch.no_grad()
    def _run(self, images: torch.Tensor) -> torch.Tensor:
        """Run up to ``tile`` images as one tile; return the logits of all its rows."""
        if len(images) < self.tile:
            empty = self.tile - len(images)
            images = torch.cat([images, images.new_zeros(empty, *images.shape[1:])])
        images = images.to(self.device, self.dtype)
        logits: torch.Tensor = self._model(images.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def _compile(self) -> None:
        """Compile the network for whole tiles, and see that it works."""
        self._model.compile(dynamic=False)
        try:
            self.logits(torch.zeros(1, 3, self.side, self.side, dtype=self.dtype))
        except PydreamError:
            raise
        except Exception as error:  # the compiler runs other programs, and fails in any way
            raise PydreamError(
                f"torch.compile cannot make kernels for {self.arch} on {self.device}: "
                f"{next(iter(str(error).strip().splitlines()), type(error).__name__)}"
            ) from error

    @torch.no_grad()
    def _choose_tile(self) -> int:
        """Return the most rows, a power of two, whose biggest activation stays within bounds."""
        bytes_per_row = 3 * self.side**2 * self.dtype.itemsize

        def note(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal bytes_per_row
            if isinstance(output, torch.Tensor):
                bytes_per_row = max(bytes_per_row, output.nbytes)

        leaves = [module for module in self._model.modules() if not any(module.children())]
        hooks = [leaf.register_forward_hook(note) for leaf in leaves]
        image = torch.zeros(1, 3, self.side, self.side, device=self.device, dtype=self.dtype)
        try:
            self._model.forward(image)  # as it is written, should it be compiled
        finally:
            for hook in hooks:
                hook.remove()
        most_rows, most_bytes = _TILE_ON_CPU if self.device.type == "cpu" else _TILE_ELSEWHERE
        fitting = max(1, (most_bytes - 1) // bytes_per_row)
        return min(most_rows, 1 << (fitting.bit_length() - 1))


def load_observer(
    checkpoint: str | os.PathLike[str] | nn.Module,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    side: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    precision: str = "auto",
    device: str | torch.device = "cpu",
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
        processor or the GPU multiplies it natively, float32 elsewhere.
    device
        Where it runs.
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
        side = side or (model.side if isinstance(model, ConvNet) else _DEFAULT_SIDE)
    else:
        where = os.fspath(checkpoint)
        weights, metadata = read_weights(checkpoint)
        arch = arch or _arch_from(metadata, where)
        side = side or _side_from(metadata, weights, where)
        model = _build(arch, num_classes, side, weights, where)
    with ThreadPoolExecutor(1) as beside:  # hashing gigabytes takes seconds, and no GIL
        weights_sha256 = beside.submit(hash_weights, weights)
        model = model.float().to(target)
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


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device, if it is there."""
    try:
        return torch.zeros(1, device=torch.device(device)).device  # with its index
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise PydreamError(f"device {str(device)!r} cannot be used: {reason}") from error


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn "auto" into what is fast on the device."""
    if precision == "float16" and device.type == "cpu":
        raise PydreamError("precision float16 is for GPUs: give --device cuda, or bfloat16")
    if precision in _DTYPES:
        return precision
    if precision != "auto":
        known = ", ".join(_DTYPES)
        raise PydreamError(f"precision must be auto or one of {known}, got {precision!r}")
    native = {"cpu": _C.native_bfloat16, "cuda": torch.cuda.is_bf16_supported}.get(device.type)
    return "bfloat16" if native is not None and native() else "float32"


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
