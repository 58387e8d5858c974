"""Selection of the real images to match: images that represent their class evenly."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pydream import ops
from pydream.errors import PydreamError
from pydream.models.activations import classify_and_embed
from pydream.ops._checks import TensorLike, as_tensor, check_at_least, check_seed, check_shape
from pydream.streams import to_device

Transform = Callable[[Tensor], Tensor]


class RepresentativeSampler:
    """Chooses real images of every class near the centres of its clusters.

    The network embeds every image, k-means clusters each class in that space (all classes in one
    call), and the images nearest to the centres are chosen. A random batch leaves parts of a class
    out and takes others twice; these images cover it evenly (DREAM).

    Make one sampler for a set of images, and call it at every step of a loop that matches
    properties of real images: gradients (DC, DSA, IDC), features (DM) or both (DREAM+).

    Parameters
    ----------
    images
        (N, C, H, W), uint8 or floating point, sorted by class; on any device.
    labels
        int64 or int32 (N,), ascending: the class of each image.
    batch_real
        Number of images to choose per class. A class with fewer images gives as many as fill whole
        clusters of `per_cluster`; a class of at most `per_cluster` images gives all of them.
    per_cluster
        Number of images to choose per cluster; there are
        ``batch_real // per_cluster`` clusters.
    many_classes
        Use DREAM's method for Tiny-ImageNet: `batch_real` clusters, and of all images of the class
        the `batch_real` images nearest to the centre of their cluster.
    interval
        Number of calls with the same network between two choices, because the network changes; the
        calls between return the last choice.
    layer
        Name of the module whose output is the embedding, flattened. By default the network's method
        ``features`` embeds. In a network without one, the embedding is the input of the last linear
        layer; a module of that name, as torchvision's networks have, is not such a method.
    transform
        Function applied to a batch of images before the network, for example a normalisation. uint8
        images are first scaled to [0, 1].
    dtype
        Type of the stored embeddings, by default float16 on a GPU and float32 on the CPU; use
        bfloat16 for features above 65504. On a GPU, the network then computes in bfloat16, too.
    batch_size
        Number of images in one pass of the network.
    max_iter, tol
        Limits of each k-means; see `pydream.ops.kmeans`.
    classes
        Classes to choose images of, ascending; by default all. The choice for a class is the same
        with other classes and alone.
    seed
        Random seed, in [0, 2^63). The same seed gives the same choice for the same network.

    Raises
    ------
    TypeError, ValueError
        For images or labels of a wrong shape or dtype, unsorted labels, or numbers out of range.

    Notes
    -----
    With the network of the last call, clustering starts from the last centroids. The network embeds
    in evaluation mode and without gradients, and its own mode is restored.

    Sources: Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV
    2023, arXiv 2302.14416, section 3.2; DREAM+, arXiv 2310.15052.
    """

    def __init__(
        self,
        images: Tensor,
        labels: TensorLike,
        batch_real: int = 128,
        *,
        per_cluster: int = 1,
        many_classes: bool = False,
        interval: int = 10,
        layer: str | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 256,
        max_iter: int = 100,
        tol: float = 1e-4,
        classes: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        check_shape(images, "images", ("N", "C", "H", "W"))
        for name, value in {
            "batch_real": batch_real,
            "per_cluster": per_cluster,
            "interval": interval,
            "batch_size": batch_size,
            "max_iter": max_iter,
        }.items():
            check_at_least(value, name, 1)
        check_seed(seed)
        if per_cluster > batch_real:
            raise ValueError(
                f"per_cluster must be at most batch_real, {batch_real}, got {per_cluster}"
            )
        if many_classes and per_cluster != 1:
            raise ValueError("per_cluster has no meaning with many_classes: leave it at 1")
        self.images = images
        self.offsets = _class_offsets(labels, len(images))
        self.classes = tuple(range(self.num_classes) if classes is None else classes)
        if not all(a < b for a, b in itertools.pairwise((-1, *self.classes, self.num_classes))):
            raise ValueError(
                f"classes must ascend from 0 to at most {self.num_classes - 1}, got {classes}"
            )
        self.batch_real, self.per_cluster, self.many_classes = batch_real, per_cluster, many_classes
        self.interval, self.layer, self.transform = interval, layer, transform
        self.dtype, self.batch_size = dtype, batch_size
        self.max_iter, self.tol, self.seed = max_iter, tol, seed
        self._network: weakref.ref[nn.Module] | None = None
        self._centroids: Tensor | None = None
        self._chosen: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._calls = 0

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> list[int]:
        """Numbers of images that a call chooses from each of `classes`."""
        sizes = [self.offsets[label + 1] - self.offsets[label] for label in self.classes]
        return [
            self._clusters(size) * self.per_cluster if size > self.per_cluster else size
            for size in sizes
        ]

    @property
    def weights(self) -> list[Tensor]:
        """Weights of the images of the last choice, by the clusters that they stand for.

        For each class float32 (m,), parallel to the images: the share of the class that is in the
        image's cluster, divided among the images chosen from this cluster. They sum to 1. A class
        that gave all of its images has equal weights.
        """
        return self._weights

    def __call__(self, network: nn.Module) -> list[Tensor]:
        """Return the images to match at this step.

        Parameters
        ----------
        network
            Network that embeds the images at every `interval`-th call; a network other than that of
            the last call starts afresh.

        Returns
        -------
        list of Tensor
            For each of `classes` int64 (m,), rows of `images`, on the network's device: cluster by
            cluster, nearest first. An image nearest to two centres appears twice. Empty for a class
            without images.

        Raises
        ------
        PydreamError
            If the network lacks the layer named.
        ValueError
            If embeddings are not finite.
        """
        known = self._network is not None and self._network() is network
        if not known:
            self._network = weakref.ref(network)
            self._centroids = None
            self._calls = 0
        if self._calls % self.interval == 0:
            self._choose(self.embed(network))
        self._calls += 1
        return self._chosen

    def restart(self) -> None:
        """Choose again at the next call, as for a new network."""
        self._network = None

    @torch.no_grad()
    def embed(self, network: nn.Module) -> Tensor:
        """Return the embeddings of the images of `classes`, (n, D), on the network's device."""
        device = next((parameter.device for parameter in network.parameters()), self.images.device)
        dtype = self.dtype or (torch.float32 if device.type == "cpu" else torch.float16)
        half = device.type == "cuda" and dtype != torch.float32
        features = _feature_function(network, self.layer)
        training = [module for module in network.modules() if module.training]
        network.eval()
        kept: Tensor | None = None
        rows = self._own_rows()
        try:
            # A batch is the same whatever the classes, so that its last bits are, too.
            for first in range(0, len(self.images), self.batch_size):
                bounds = torch.tensor([first, first + self.batch_size])
                begin, end = torch.searchsorted(rows, bounds).tolist()
                if begin == end:
                    continue
                batch = self.images[first : first + self.batch_size].to(device, non_blocking=True)
                if batch.dtype == torch.uint8:
                    batch = batch.float() / 255
                if self.transform is not None:
                    batch = self.transform(batch)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    embedded = features(batch).flatten(1).to(dtype)
                if not embedded.isfinite().all():
                    row = first + int((~embedded.isfinite()).any(dim=1).nonzero()[0])
                    raise ValueError(
                        f"the embedding of images[{row}] is not finite in {str(dtype)[6:]}; where "
                        "features are too large for float16, take dtype=torch.bfloat16"
                    )
                if kept is None:
                    shape = (len(rows), embedded.shape[1])
                    kept = torch.empty(shape, dtype=dtype, device=device)
                if end - begin < len(embedded):
                    embedded = embedded[to_device(rows[begin:end] - first, device)]
                kept[begin:end] = embedded
        finally:
            for module in training:
                module.training = True
        if kept is None:
            raise PydreamError("RepresentativeSampler: there are no images")
        return kept

    def _own_rows(self) -> Tensor:
        """Return the rows of the images of `classes`, ascending, on the CPU."""
        offsets = self.offsets
        return torch.cat([torch.arange(offsets[c], offsets[c + 1]) for c in self.classes])

    def _clusters(self, size: int) -> int:
        """Return the number of clusters of a class; with `many_classes`, `per_cluster` is 1."""
        return min(self.batch_real, size) // self.per_cluster

    def _choose(self, embeddings: Tensor) -> None:
        """Cluster all classes in one call, and choose the images nearest to the centres."""
        spans = [(self.offsets[label], self.offsets[label + 1]) for label in self.classes]
        sizes = [end - begin for begin, end in spans]
        self._chosen = [torch.arange(*span, device=embeddings.device) for span in spans]
        self._weights = [own.new_full(own.shape, 1 / max(1, len(own)), dtype=torch.float32)
                         for own in self._chosen]  # fmt: skip
        clustered = [c for c, size in enumerate(sizes) if size > self.per_cluster]
        if not clustered:
            return
        rows = torch.cat([self._chosen[c] for c in clustered])
        if len(clustered) < len(sizes):
            embeddings = torch.cat([embeddings.split(sizes)[c] for c in clustered])
        offsets = [0, *itertools.accumulate(sizes[c] for c in clustered)]
        k = [self._clusters(sizes[c]) for c in clustered]
        result = ops.kmeans(
            embeddings,
            k,
            offsets=offsets,
            init="k-means++" if self._centroids is None else self._centroids,
            max_iter=self.max_iter,
            tol=self.tol,
            seed=self.seed,
        )
        self._centroids = result.centroids
        if self.many_classes:
            chosen = _closest(embeddings, result, offsets, k)
            clusters_of = [result.labels[part] for part in chosen]
        else:
            nearest = ops.nearest_samples(
                embeddings, result.centroids, self.per_cluster, offsets, k
            )
            chosen = [part.flatten() for part in torch.split(nearest, k)]
            clusters_of = [
                torch.arange(number, device=rows.device).repeat_interleave(self.per_cluster)
                for number in k
            ]
        labels = result.labels.split([end - begin for begin, end in itertools.pairwise(offsets)])
        for place, c in enumerate(clustered):
            self._chosen[c] = rows[chosen[place]]
            self._weights[c] = _shares(labels[place], clusters_of[place], k[place])


def _shares(labels: Tensor, clusters_of: Tensor, k: int) -> Tensor:
    """Return the weights of the images chosen from a class.

    Parameters
    ----------
    labels
        int (n,): the cluster of each image of the class.
    clusters_of
        int (m,): the cluster that each chosen image stands for.
    k
        Number of clusters.
    """
    sizes = torch.bincount(labels, minlength=k).double()
    chosen = torch.bincount(clusters_of, minlength=k).double()
    weights = (sizes / chosen)[clusters_of]
    return (weights / weights.sum()).float()


def _class_offsets(value: TensorLike, count: int) -> list[int]:
    """Return the index of each class's first image, and the number of all images."""
    labels: Any = as_tensor(value, "labels")
    check_shape(labels, "labels", (count,))
    if labels.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"labels must be int64 or int32, got {labels.dtype}")
    labels = labels.to("cpu", torch.int64)
    if count == 0:
        raise ValueError("images must hold at least one image, got none")
    if int(labels[0]) < 0 or (labels.diff() < 0).any():
        raise ValueError(
            "labels must be ascending and not negative: sort the images by class first, as by "
            "order = labels.argsort(stable=True)"
        )
    ends = torch.bincount(labels).cumsum(0)
    return [0, *ends.tolist()]


def _feature_function(network: nn.Module, layer: str | None) -> Callable[[Tensor], Tensor]:
    """Return the function that embeds a batch."""
    if layer is None:
        features = getattr(network, "features", None)
        if features is None or isinstance(features, nn.Module):
            return lambda images: classify_and_embed(network, images)[1]
        method: Callable[[Tensor], Tensor] = features
        return method
    modules = dict(network.named_modules())
    if layer not in modules:
        raise PydreamError(
            f"RepresentativeSampler: {type(network).__name__} has no layer {layer!r}; it has "
            f"{_layer_names(network)}"
        )

    def run(images: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = modules[layer].register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            network(images)
        finally:
            handle.remove()
        return seen[-1]

    return run


def _layer_names(network: nn.Module) -> str:
    return ", ".join(name for name, _ in network.named_modules() if name) or "none"


def _closest(
    embeddings: Tensor, result: ops.KMeansResult, offsets: list[int], k: list[int]
) -> list[Tensor]:
    """Return the k images of each class nearest to the centre of their cluster, nearest first."""
    first = list(itertools.accumulate(k, initial=0))
    chosen = []
    for c, (begin, end) in enumerate(itertools.pairwise(offsets)):
        distances = []
        for part in torch.split(torch.arange(begin, end, device=embeddings.device), 4096):
            own = result.centroids[first[c] + result.labels[part]]
            distances.append((embeddings[part] - own).square().sum(dim=1))
        order = torch.cat(distances).argsort(stable=True)
        chosen.append(begin + order[: k[c]])
    return chosen
