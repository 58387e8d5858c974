"""The steps of a refinement: every cell moves until it shows an observer what its anchor shows.

A cell of a collage is stored small and seen enlarged. Its anchor is the crop it was made of, at the
size at which the cell is seen. A step enlarges the cells (`pydream.ops.multi_formation`), augments
cells and anchors by the same draw, and moves the cells against the derivative of the squared
distance between their features at one layer of the observer. Cells of different classes do not
influence each other, because the observer is in evaluation mode. So classes can be refined in
groups, one after another.

Source: the residual matching of CIM (ECCV 2026): AdamW with a learning rate of 0.01 on the
difference to the first image, and one draw of DSA's crop, cutout and flip for a step.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pydream.allocator import keep_freed_memory
from pydream.arithmetic import repeatable_float32
from pydream.errors import PydreamError
from pydream.models.layers import LayerFeatures
from pydream.ops import diff_augment, gradient_distance, multi_formation, random_augment
from pydream.refinement.bidirectional import BidirectionalDistance
from pydream.replay import Replayed
from pydream.streams import to_device
from pydream.timeline import stage

_STRATEGY = "crop_cutout_flip"

# Distance of cells to anchors, both (B, 3, S, S), normalised.
_Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Refined:
    """Refined images.

    Attributes
    ----------
    values
        float32 (n, 3, S, S) in [0, 1], on the CPU.
    losses
        Loss at each step, before the images move: the squared distance of two features, averaged
        over the features of a cell and summed over the cells; and the weighted bidirectional
        distance of each class, if that is matched.
    distances
        The squared distance of features without augmentation, averaged over the observers: of the
        images as they were (``unrefined``), as they are (``refined``), and of the latter in 8 bits
        (``rounded``).
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
    bidirectional
        Match mean features and gradients of each class, too (`BidirectionalDistance`). At the first
        step they count as much as the features of the cells.

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
        bidirectional: bool = False,
    ) -> None:
        self._features, self._learning_rate = list(features), learning_rate
        self._bidirectional = [BidirectionalDistance(layer) for layer in features if bidirectional]
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

    def __call__(
        self, images: Tensor, anchors: Tensor, labels: Sequence[int] | None = None
    ) -> Refined:
        """Refine the images of a group.

        Parameters
        ----------
        images
            (n, 3, S, S) uint8.
        anchors
            (f², n, 3, S, S) uint8: the anchor of each cell, row by row, of each image.
        labels
            Class of each image, in ascending order, for the bidirectional distance.

        Raises
        ------
        PydreamError
            If the loss or a pixel is no longer finite.
        """
        classes = Counter(labels or [0] * len(images))
        buffers = self._buffers_for(images.shape, tuple(classes.values()))
        buffers.begin(
            to_device(images, self._device), to_device(anchors, self._device), list(classes)
        )
        with repeatable_float32():
            self._weigh_classes(buffers)
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

    def _buffers_for(self, shape: torch.Size, counts: tuple[int, ...]) -> _Buffers:
        """Return the buffers of a group; groups of one shape share them, and a captured step."""
        buffers = self._buffers
        if buffers is None or buffers.base.shape != shape or buffers.counts != counts:
            observers = len(self._features)
            buffers = self._buffers = _Buffers(
                shape, counts, self.factor, self._learning_rate, observers, self._device
            )
            self._steps = [
                Replayed(partial(self._step, buffers, turn), buffers.changing(), self._device)
                for turn in range(observers)
            ]
        return buffers

    @torch.no_grad()
    def _weigh_classes(self, buffers: _Buffers) -> None:
        """Weigh both distances of each class equally, as they are before the first step."""
        for turn, weights in enumerate(buffers.weights if self._bidirectional else ()):
            layer, of_class = self._features[turn], self._bidirectional[turn]
            for number, part in enumerate(buffers.parts):
                cells, anchors = self._plain(layer, buffers.base[part], buffers.anchors[:, part])
                apart = of_class(cells, anchors, buffers.labels[number])
                of_features = _feature_distance(layer, cells, anchors)
                weights[number] = torch.where(apart > 0, of_features / apart, 0)

    def _step(self, buffers: _Buffers, turn: int, augmentation: Tensor) -> Tensor:
        """Move the images of a group once; return their loss before that."""
        images = buffers.images()
        slope, losses = torch.zeros_like(images), []
        for part, distance, weight in self._terms(buffers, turn):
            loss, of_part = self._gradient(
                distance, self._features[turn], images[part], buffers.anchors[:, part], augmentation
            )
            losses.append(weight * loss)
            slope[part] += weight * of_part
        with stage("move", self._device):
            buffers.move(slope)
        return torch.stack(losses).sum()

    def _terms(
        self, buffers: _Buffers, turn: int
    ) -> Iterator[tuple[slice, _Distance, Tensor | float]]:
        """Give out the terms of a step's loss: some images, their distance and its weight."""
        for part in self._passes(len(buffers.base)):
            yield part, partial(_feature_distance, self._features[turn]), 1.0
        if self._bidirectional:
            of_class = self._bidirectional[turn]
            for part, label, weight in zip(
                buffers.parts, buffers.labels, buffers.weights[turn], strict=True
            ):
                yield part, partial(of_class, label=label), weight

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
                seen = self._plain(layer, images[part], buffers.anchors[:, part])
                total += float(_feature_distance(layer, *seen))
        return total / len(self._features)

    def _plain(
        self, layer: LayerFeatures, images: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the cells of images and their anchors, normalised and not augmented."""
        cells = multi_formation(images, self.factor, self._side)
        return layer.normalise(cells), layer.normalise(anchors.flatten(0, 1).float() / 255)

    def _gradient(
        self,
        distance: _Distance,
        layer: LayerFeatures,
        images: Tensor,
        anchors: Tensor,
        augmentation: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return a distance of images to their anchors, and its derivative in the images.

        Shapes: images (n, 3, S, S) float32; anchors (f², n, 3, S, S) uint8.
        """
        images = images.detach().requires_grad_()
        cells, real = self._plain(layer, images, anchors)
        draw = augmentation.expand(len(cells), -1).contiguous()  # one for all
        loss = distance(diff_augment(cells, draw), diff_augment(real, draw))
        with stage("derivative", self._device):
            (slope,) = torch.autograd.grad(loss, images)
        return loss.detach(), slope


def _feature_distance(layer: LayerFeatures, cells: Tensor, anchors: Tensor) -> Tensor:
    """Return the squared distance of features, averaged over those of a cell, and summed."""
    with torch.no_grad(), stage("features of anchors", layer.device):
        expected = _in_memory_order(layer(anchors))
    with stage("features of cells", layer.device):
        found = _in_memory_order(layer(cells))
        return gradient_distance([found], [expected]) / found[0].numel()


def _in_memory_order(features: Tensor) -> Tensor:
    """Return features such that the kernel need not copy those in channels-last layout."""
    return features.permute(0, 2, 3, 1) if features.dim() == 4 else features


class _Buffers:
    """The images of a group under AdamW: their first values, and the residual that moves them.

    ``parts`` are the images of each class, ``labels`` the classes; ``weights`` (observers, classes)
    are those of the bidirectional distances.
    """

    def __init__(
        self,
        shape: torch.Size,
        counts: tuple[int, ...],
        factor: int,
        learning_rate: float,
        observers: int,
        device: torch.device,
    ) -> None:
        self.counts = counts
        ends = [0, *itertools.accumulate(counts)]
        self.parts = [slice(begin, end) for begin, end in itertools.pairwise(ends)]
        self.labels = torch.zeros(len(counts), dtype=torch.int64, device=device)
        self.weights = torch.zeros(observers, len(counts), device=device)
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
    def begin(self, images: Tensor, anchors: Tensor, labels: Sequence[int]) -> None:
        """Begin with other images, (n, 3, S, S) uint8, their anchors and their classes."""
        self.base.copy_(images.float() / 255)
        self.anchors.copy_(anchors)
        self.labels.copy_(torch.tensor(labels))
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
