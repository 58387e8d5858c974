"""The observer: a trained classifier that scores the realism of patches, and labels images."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pydream.arithmetic import arithmetic_of, ieee_float32
from pydream.errors import PydreamError
from pydream.models.activations import classify_and_embed
from pydream.models.inference import (
    compile_network,
    fold,
    fuse_convolutions,
    with_batch_statistics,
)
from pydream.models.inputs import input_words
from pydream.models.tiles import choose_tile, filled_tile
from pydream.ops import crop_resize
from pydream.ops._checks import check_dtype, check_shape
from pydream.progress import say
from pydream.replay import Replayed
from pydream.streams import to_device

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Observer:
    """A frozen classifier in evaluation mode; made by ``load_observer``, which owns the model.

    Attributes
    ----------
    arch
        Architecture, as for ``build_model`` (or the class name of a module).
    num_classes
        Number of logits.
    side
        Height and width of the images for the observer, in pixels.
    network_side
        Height and width of the network's input: images of `side`, resized.
    mean, std
        Mean and standard deviation of the input, per channel, for pixels in [0, 1].
    origins
        Origin of ``arch``, ``side``, ``mean`` and ``std``, in words; under ``weights``, the state
        dict chosen among several in the file, if there was a choice.
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"``, for weights and activations. With
        ``"float32"``, a GPU does not use TF32.
    dtype
        The precision as a torch dtype.
    weights_sha256
        Hash of the names and bytes of the weights.
    weights_bytes
        Size in bytes of the weights as they were given.
    device
        Device of the weights and of the forward passes.
    tile
        Number of rows in one forward pass.
    class_names
        Names of the classes in the order of the logits, if the checkpoint has them.
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
        origins: Mapping[str, str],
        precision: str,
        device: torch.device,
        weights_sha256: str,
        class_names: tuple[str, ...] | None,
        compiled: bool,
    ) -> None:
        self.arch = arch
        self.num_classes = num_classes
        self.side = self.network_side = side
        self.mean = mean
        self.std = std
        self.origins = dict(origins)
        self.precision = precision
        self.device = device
        self.weights_sha256 = weights_sha256
        self.weights_bytes: int = sum(tensor.nbytes for tensor in model.state_dict().values())
        self.class_names = class_names
        self.dtype = DTYPES[precision]
        self._unfolded, self._padded = model, True
        with ieee_float32():  # as for `tried`
            self._model = fold(model, *tried).to(dtype=self.dtype)
        self._model.to(memory_format=torch.channels_last)
        self._differentiable = self._model
        self._columns = num_classes
        self._order: torch.Tensor | None = None
        self._replays: dict[tuple[object, ...], Replayed[torch.Tensor]] | None = None
        self.tile = choose_tile(self._model, side, self.dtype, device)
        if compiled:
            compile_network(self._model, self.logits, arch, side, self.dtype, device)
        elif device.type == "cuda":
            noise = tried[0].to(device, self.dtype).contiguous(memory_format=torch.channels_last)
            with arithmetic_of(precision):
                self._model = fuse_convolutions(self._model, noise)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Classify images, in tiles of exactly ``tile`` rows, the last one padded with zeros.

        So memory does not grow with the number of images, and the logits of an image do not depend
        on the number of other images. If the device runs out of memory, tiles are halved.

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
        self._check(images)
        logits = self._in_tiles(images, self._run)
        return logits if self._order is None else logits[:, self._order]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images: the input of the last linear layer, or the logits if there is none.

        Parameters
        ----------
        images
            The same as for `logits`.

        Returns
        -------
        Tensor
            (B, D), float32, on the observer's device.

        Raises
        ------
        TypeError, ValueError
            For the same images as `logits`.
        """
        return self.logits_and_features(images)[1]

    def logits_and_features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Classify and embed images in one pass: the results of `logits` and of `features`.

        A compiled observer runs its original network instead, so that its logits may differ from
        those of `logits` in the last bits.

        Parameters
        ----------
        images
            The same as for `logits`.

        Returns
        -------
        tuple[Tensor, Tensor]
            (B, num_classes) and (B, D), float32, on the observer's device.

        Raises
        ------
        TypeError, ValueError
            For the same images as `logits`.
        """
        self._check(images)
        both = self._in_tiles(images, self._run_and_embed)
        logits, features = both[:, : self._columns], both[:, self._columns :].contiguous()
        return logits if self._order is None else logits[:, self._order], features

    def views(
        self,
        images: torch.Tensor,
        boxes: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Normalise images for `logits` and `features`, and resize them if necessary.

        Parameters
        ----------
        images
            (n, H, W, 3) uint8, on any device.
        boxes, image_index
            Parts of the images to use, as for `pydream.ops.crop_resize`; by default each whole
            image.

        Returns
        -------
        Tensor
            (B, 3, side, side) float32, channels last, on the device of the images.
        """
        if boxes is None:
            height, width = images.shape[1:3]
            whole = torch.tensor([[0, 0, height, width]], dtype=torch.int32)
            boxes = to_device(whole, images.device).expand(len(images), 4)
        return crop_resize(
            images,
            boxes,
            self.side,
            image_index=image_index,
            mean=self.mean,
            std=self.std,
            channels_last=True,
        )

    def _check(self, images: torch.Tensor) -> None:
        check_shape(images, "images", ("B", 3, self.side, self.side))
        check_dtype(images, "images", *dict.fromkeys((torch.float32, self.dtype)))

    def _in_tiles(
        self, images: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return the result of `run` on the images, one tile at a time: (B, columns)."""
        if len(images) == 0:
            return self._in_tiles(images.new_zeros(1, *images.shape[1:]), run)[:0]
        result, start = None, 0
        while start < len(images):
            rows = images[start : start + self.tile]
            try:
                found = run(rows)
                if result is None:
                    result = found.new_empty(len(images), found.shape[1])
                result[start : start + len(rows)] = found[: len(rows)]
            except torch.OutOfMemoryError as error:
                self.halve_tile(error)
            else:
                start += len(rows)
        assert result is not None
        return result

    def halve_tile(self, error: torch.OutOfMemoryError) -> None:
        """Halve the tile from now on, because the device is out of memory.

        Raises
        ------
        PydreamError
            If the tile has only one row, or is a batch that norms normalise over.
        """
        if not self._padded:
            raise PydreamError(
                f"{self.device} has too little memory for {self.arch} on {self.tile} images at "
                "once, and labels of batch statistics depend on the whole batch: another program "
                "may hold it; else take --device cpu, or a lower batch size, which changes labels"
            ) from error
        if self.tile == 1:
            raise PydreamError(
                f"{self.device} has too little memory for {self.arch}: another program may hold "
                "it; else take a smaller observer, or --device cpu"
            ) from error
        if self._replays:
            self._replays.clear()  # their graphs hold the memory of their activations
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.tile //= 2
        warnings.warn(
            f"{self.device} is out of memory: going on with {self.tile} images at a time",
            RuntimeWarning,
            stacklevel=2,
        )

    def with_class_order(self, order: Sequence[int]) -> Observer:
        """Return this observer with its classes reordered; the weights are shared.

        Parameters
        ----------
        order
            Old column of each new column of the logits. Classes may be left out.

        Raises
        ------
        ValueError
            If a class is out of range or repeated, or none is left.
        """
        order = [int(output) for output in order]
        if not order or len(set(order)) < len(order):
            raise ValueError(f"order must hold at least one class and none twice, got {order}")
        if min(order) < 0 or max(order) >= self.num_classes:
            raise ValueError(f"order must hold classes in [0, {self.num_classes}), got {order}")
        other = copy.copy(self)
        chosen = torch.tensor(order, device=self.device)
        other._order = chosen if self._order is None else self._order[chosen]
        other.num_classes = len(order)
        if self.class_names is not None:
            other.class_names = tuple(self.class_names[output] for output in order)
        return other

    def with_side(self, side: int) -> Observer:
        """Return this observer for images of another side; the weights are shared.

        Parameters
        ----------
        side
            Height and width of the images, in pixels. An observer that resizes images continues to;
            any other passes them to the network unchanged.

        Raises
        ------
        PydreamError
            If the network only accepts its original side.
        """
        if self.side != self.network_side:
            return self.resizing_from(side)
        other = copy.copy(self)
        other.side = other.network_side = side
        try:
            other.tile = choose_tile(self._model, side, self.dtype, self.device)
        except (AssertionError, RuntimeError) as error:
            raise PydreamError(
                f"{self.arch} takes images of {self.side} pixels a side only, not of {side}"
            ) from error
        return other

    def resizing_from(self, side: int) -> Observer:
        """Return this observer for images of another side, resized for the network.

        The weights are shared. Images are resized bilinearly, with antialiasing, after
        normalisation.

        Parameters
        ----------
        side
            Height and width of the images, in pixels.
        """
        other = copy.copy(self)
        other.side = side
        return other

    def with_batch_statistics(self) -> Observer:
        """Return this observer with batch norms that normalise over each tile, as in training.

        Its tiles are not padded, so that give `with_tile` the size of a batch: the logits of an
        image depend on the others of its batch. Other layers stay in evaluation mode.
        """
        other = copy.copy(self)
        other._model = with_batch_statistics(self._unfolded).to(dtype=self.dtype)
        other._model.to(memory_format=torch.channels_last)
        other._padded, other._replays = False, None
        return other

    def with_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> Observer:
        """Return this observer for images with another normalisation; the weights are shared.

        Parameters
        ----------
        mean, std
            Three numbers each, for pixels in [0, 1].
        """
        other = copy.copy(self)
        other.mean, other.std = tuple(mean), tuple(std)
        return other

    def facts(self) -> dict[str, str]:
        """Return the facts that decide the logits, except mean and std, ready for JSON."""
        facts = {
            "arch": self.arch,
            "weights_sha256": self.weights_sha256,
            "precision": self.precision,
        }
        resized = self.side != self.network_side
        return {**facts, "resized_to": str(self.network_side)} if resized else facts

    def output_facts(self) -> dict[str, str]:
        """Return the order of the outputs, ready for JSON; nothing if it is that of the weights."""
        order = [] if self._order is None else self._order.tolist()
        usual = order == [*range(len(order))]
        return {} if usual else {"outputs": " ".join(map(str, order))}

    def identity(self) -> dict[str, Any]:
        """Return all that decides the logits of an image, ready for JSON.

        Side, mean and std are not in the hash of the weights: files tell them beside the weights.
        """
        reads = {"side": self.network_side, "mean": list(self.mean), "std": list(self.std)}
        return {**self.facts(), **self.output_facts(), **reads}

    def input_facts(self) -> dict[str, Any]:
        """Return the input of the network and its origins, ready for JSON."""
        return {
            "side": self.network_side,
            "mean": list(self.mean),
            "std": list(self.std),
            "origins": dict(self.origins),
        }

    def announce(self) -> None:
        """Describe the observer and its origins in a line on standard error.

        For the moment when a run has checked its inputs and begins its work.
        """
        words = input_words(
            self.arch, self.network_side, self.mean, self.std, self.origins, images_side=self.side
        )
        say(f"observer: {words}")

    def replayed(self) -> Observer:
        """Return this observer with the passes of its tiles captured as CUDA graphs.

        A pass of ResNet-18 launches 50 kernels. Where many threads decode, each launch may wait for
        Python's lock; a replay is one launch. The logits stay the same. The weights are shared.
        Without a GPU, nothing is captured.

        The result must be called from one thread at a time, and from one stream.
        """
        other = copy.copy(self)
        other._replays = {}
        return other

    def with_tile(self, batch_size: int) -> Observer:
        """Return this observer with tiles cut to fit a batch size; the weights are shared.

        A padding row of a tile costs as much as an image. An observer with batch statistics gets
        tiles of the whole batch.

        Parameters
        ----------
        batch_size
            Largest number of images in a batch.
        """
        other = copy.copy(self)
        passes = -(-batch_size // self.tile) if self._padded else 1
        other.tile = -(-batch_size // passes)
        return other

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        """Run up to ``tile`` images as one tile; return the logits of all its rows."""
        return self._pass(self._classify, images)

    def _run_and_embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of all rows of a tile, and the features beside them."""
        return self._pass(self._classify_and_embed, images)

    def _pass(
        self, step: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        """Pass a tile through the network, by a replay if passes are captured."""
        rows = self.tile if self._padded else len(images)
        filled = filled_tile(images, rows, self.network_side, self.dtype, self.device)
        if self._replays is None:
            return step(filled)
        key = (step.__name__, filled.shape)
        if key not in self._replays:
            self._replays[key] = Replayed(step, (), self.device)
        return self._replays[key](filled)

    @torch.no_grad()
    def _classify(self, tile: torch.Tensor) -> torch.Tensor:
        with arithmetic_of(self.precision):
            logits: torch.Tensor = self._model(tile)
        return logits.float()

    @torch.no_grad()
    def _classify_and_embed(self, tile: torch.Tensor) -> torch.Tensor:
        with arithmetic_of(self.precision):
            both = classify_and_embed(self._model, tile)
        return torch.cat([found.float() for found in both], dim=1)
