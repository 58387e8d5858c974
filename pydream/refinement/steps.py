"""The steps of a refinement: every cell moves until it shows an observer what its anchor shows.

A cell of a collage is stored small and seen enlarged. Its anchor is the crop it was made of, at the
size at which the cell is seen. A step enlarges the cells (`pydream.ops.multi_formation`), augments
cells and anchors by the same draw, and moves the cells against the derivative of the squared
distance between their features at one layer of the observer. Cells do not influence each other,
because the observer is in evaluation mode. So classes can be refined in groups, one after another.

Source: the residual matching of CIM (ECCV 2026): AdamW with a learning rate of 0.01 on the
difference to the first image, and one draw of DSA's crop, cutout and flip for a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pydream.allocator import keep_freed_memory
from pydream.arithmetic import repeatable_float32
from pydream.errors import PydreamError
from pydream.models.layers import LayerFeatures
from pydream.ops import diff_augment, gradient_distance, multi_formation, random_augment
from pydream.replay import Replayed
from pydream.streams import to_device
from pydream.timeline import stage

_STRATEGY = "crop_cutout_flip"


@dataclass(frozen=True)
class Refined:
    """Refined images.

    Attributes
    ----------
    values
        float32 (n, 3, S, S) in [0, 1], on the CPU.
    losses
        Loss at each step, before the images move: the squared distance of two features, averaged
        over the features of a cell and summed over the cells.
    distances
        The same without augmentation, averaged over the observers: of the images as they were
        (``unrefined``), as they are (``refined``), and of the latter in 8 bits (``rounded``).
    """

    values: Tensor
    losses: list[float]
    distances: dict[str, float]


class Refiner:
    """Refines the images of a set, a group of classes at a time.

    Parameters
    ----------
    features
        The layer to match of one or several observers, which take turns.
    steps
        Number of steps.
    learning_rate
        Learning rate of AdamW.
    factor
        Number of cells along each side of an image.
    side
        Height and width of the images, in pixels.
    seed
        Random seed of the augmentations.

    Attributes
    ----------
    factor
        Number of cells along each side of an image.
    layers
        Name of the layer of each observer.
    """

    def __init__(
        self,
        features: Sequence[LayerFeatures],
        *,
        steps: int,
        learning_rate: float,
        factor: int,
        side: int,
        seed: int,
    ) -> None:
        self._features, self._learning_rate = list(features), learning_rate
        self.factor, self._side = factor, side
        self._device = features[0].device
        self.layers = [layer.layer for layer in features]
        # Images whose cells fill a pass of the observer.
        self._at_once = max(1, min(layer.tile for layer in features) // factor**2)
        drawn = random_augment(steps, side, _STRATEGY, seed=seed)
        self._augmentations = to_device(drawn, self._device)
        self._buffers: _Buffers | None = None
        self._steps: list[Replayed[Tensor]] = []

    def groups(self, counts: Sequence[int]) -> list[range]:
        """Divide classes into groups of whole classes that fill a pass of the observer.

        Parameters
        ----------
        counts
            Number of images of each class.
        """
        groups, first, images = [], 0, 0
        for label, count in enumerate(counts):
            if images and images + count > self._at_once:
                groups.append(range(first, label))
                first, images = label, 0
            images += count
        return [*groups, range(first, len(counts))]

    def __call__(self, images: Tensor, anchors: Tensor) -> Refined:
        """Refine the images of a group.

        Parameters
        ----------
        images
            (n, 3, S, S) uint8.
        anchors
            (f², n, 3, S, S) uint8: the anchor of each cell, row by row, of each image.

        Raises
        ------
        PydreamError
            If the loss or a pixel is no longer finite.
        """
        buffers = self._buffers_for(images.shape)
        buffers.begin(to_device(images, self._device), to_device(anchors, self._device))
        turns = itertools.cycle(self._steps)
        with repeatable_float32(), keep_freed_memory():
            losses = [
                step(augmentation)
                for step, augmentation in zip(turns, self._augmentations, strict=False)
            ]
        found, values = torch.stack(losses).cpu(), buffers.images().detach().cpu()
        finite = found.isfinite()
        if not (bool(finite.all()) and bool(values.isfinite().all())):
            good = int(finite.logical_not().nonzero()[0]) if not finite.all() else len(found) - 1
            raise PydreamError(
                f"the loss of the refinement became infinite after {good} good steps: give a "
                f"--learning-rate below {self._learning_rate:g}, or fewer steps"
            )
        rounded = (values * 255).round() / 255
        of_images = {"unrefined": images.float() / 255, "refined": values, "rounded": rounded}
        with repeatable_float32():
            distances = {name: self._to_anchors(buffers, of) for name, of in of_images.items()}
        return Refined(values, found.tolist(), distances)

    def _buffers_for(self, shape: torch.Size) -> _Buffers:
        """Return the buffers of a group; groups of one shape share them, and a captured step."""
        if self._buffers is None or self._buffers.base.shape != shape:
            self._buffers = _Buffers(shape, self.factor, self._learning_rate, self._device)
            self._steps = [
                Replayed(partial(self._step, self._buffers, layer), self._buffers.changing())
                for layer in self._features
            ]
        return self._buffers

    def _step(self, buffers: _Buffers, layer: LayerFeatures, augmentation: Tensor) -> Tensor:
        """Move the images of a group once; return their loss before that."""
        images, losses, slopes = buffers.images(), [], []
        for part in self._passes(len(images)):
            loss, slope = self._gradient(
                layer, images[part], buffers.anchors[:, part], augmentation
            )
            losses.append(loss)
            slopes.append(slope)
        with stage("move", self._device):
            buffers.move(torch.cat(slopes))
        return torch.stack(losses).sum()

    def _passes(self, count: int) -> list[slice]:
        """Divide images into passes of the observer, of sizes that differ by at most one."""
        passes = -(-count // self._at_once)
        ends = [count * number // passes for number in range(passes + 1)]
        return [slice(begin, end) for begin, end in itertools.pairwise(ends)]

    @torch.no_grad()
    def _to_anchors(self, buffers: _Buffers, images: Tensor) -> float:
        """Return the distance of images to the anchors of a group, without augmentation."""
        images, total = to_device(images, self._device), 0.0
        for layer in self._features:
            for part in self._passes(len(images)):
                anchors = buffers.anchors[:, part].flatten(0, 1).float() / 255
                cells = multi_formation(images[part], self.factor, self._side)
                expected, found = (layer(layer.normalise(seen)) for seen in (anchors, cells))
                total += float(_distance(found, expected))
        return total / len(self._features)

    def _gradient(
        self, layer: LayerFeatures, images: Tensor, anchors: Tensor, augmentation: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of some images, and its derivative with respect to them.

        Shapes: images (n, 3, S, S) float32; anchors (f², n, 3, S, S) uint8.
        """
        with torch.no_grad(), stage("features of anchors", self._device):
            expected = self._seen(layer, anchors.flatten(0, 1).float() / 255, augmentation)
        images = images.detach().requires_grad_()
        with stage("features of cells", self._device):
            cells = multi_formation(images, self.factor, self._side)
            found = self._seen(layer, cells, augmentation)
            loss = _distance(found, expected)
        with stage("derivative", self._device):
            (slope,) = torch.autograd.grad(loss, images)
        return loss.detach(), slope

    def _seen(self, layer: LayerFeatures, images: Tensor, augmentation: Tensor) -> Tensor:
        """Return the features of images in [0, 1], all augmented by one draw."""
        draw = augmentation.expand(len(images), -1).contiguous()
        return layer(diff_augment(layer.normalise(images), draw))


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    """Return the squared distance of features, averaged over those of an image, and summed."""
    distance = gradient_distance([_in_memory_order(found)], [_in_memory_order(expected)])
    return distance / found[0].numel()


def _in_memory_order(features: Tensor) -> Tensor:
    """Return features such that the kernel need not copy those in channels-last layout."""
    return features.permute(0, 2, 3, 1) if features.dim() == 4 else features


class _Buffers:
    """The images of a group under AdamW: their first values, and the residual that moves them."""

    def __init__(
        self, shape: torch.Size, factor: int, learning_rate: float, device: torch.device
    ) -> None:
        self.base = torch.zeros(shape, device=device)
        self.anchors = torch.zeros((factor**2, *shape), dtype=torch.uint8, device=device)
        self._residual = torch.zeros(shape, device=device, requires_grad=True)
        self._residual.grad = torch.zeros(shape, device=device)
        self._optimizer = torch.optim.AdamW(
            [self._residual], learning_rate, capturable=device.type == "cuda"
        )
        self._optimizer.step()  # allocates the moments

    def changing(self) -> list[Tensor]:
        """Return the tensors that a step changes."""
        return [self._residual, *self._optimizer.state[self._residual].values()]

    @torch.no_grad()
    def begin(self, images: Tensor, anchors: Tensor) -> None:
        """Begin with other images, (n, 3, S, S) uint8, and their anchors."""
        self.base.copy_(images.float() / 255)
        self.anchors.copy_(anchors)
        for tensor in self.changing():
            tensor.zero_()

    def images(self) -> Tensor:
        """Return the images as they are now."""
        return (self.base + self._residual.detach()).clamp(0, 1)

    @torch.no_grad()
    def move(self, slope: Tensor) -> None:
        """Step against a derivative, and keep the images in [0, 1]."""
        assert self._residual.grad is not None
        self._residual.grad.copy_(slope)
        self._optimizer.step()
        self._residual.copy_(self.images() - self.base)
