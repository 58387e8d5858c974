"""What a network answers to the images of a class, and the distance of two such answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from pydream.errors import PydreamError
from pydream.models.activations import classify_and_embed
from pydream.ops import gradient_distance
from pydream.ops.matching import distance_and_slopes

Match: TypeAlias = Literal["bidirectional", "gradient", "feature"]


class Answers(NamedTuple):
    """Answer of a network to one batch of each of K classes.

    Attributes
    ----------
    gradients
        Gradients of the mean cross entropy with respect to each matched parameter: (K, *shape).
    features
        Mean features of the batch, (K, D).
    """

    gradients: list[Tensor]
    features: Tensor


class _Embedding(nn.Module):
    """A network that returns its features along with its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return classify_and_embed(self.network, images)


class Matcher:
    """Computes the answers of a network to the batches of several classes.

    Parameters
    ----------
    network
        Classifier of normalised images. Its features are the input of its last linear layer, or its
        logits if it has none. It is not copied: when its weights change, so do the answers.
    match
        Quantities to match.
    with_norm_and_bias
        Match the parameters of one dimension, too.
    with_classifier
        Match the parameters of two dimensions, too.
    one_pass
        True if a batch norm sees the batches of all classes at once. Features alone can be matched
        then.

    Raises
    ------
    PydreamError
        If the network has no parameter to match.

    Notes
    -----
    DREAM+ (arXiv 2310.15052, section 3.3). The batches of all classes pass through the network
    together or one after another; the answers are equal up to rounding. In both cases a batch norm
    sees the batch of one class, but for `one_pass`. Its running statistics do not change. Nothing
    waits for a GPU, so a CUDA graph can capture it.
    """

    def __init__(
        self,
        network: nn.Module,
        match: Match,
        *,
        with_norm_and_bias: bool = False,
        with_classifier: bool = False,
        one_pass: bool = False,
    ) -> None:
        if one_pass and match != "feature":
            raise ValueError("a gradient is that of one class: one_pass is for features alone")
        self.match, self._one_pass = match, one_pass
        self._embedding = _Embedding(network)
        self._buffers = dict(self._embedding.named_buffers())
        left_out = {
            0: True,
            1: not with_norm_and_bias,
            2: not with_classifier,
        }
        parameters = dict(self._embedding.named_parameters())
        self._matched = {
            name: parameter if parameter.requires_grad else parameter.detach().requires_grad_()
            for name, parameter in parameters.items()
            if not left_out.get(parameter.dim(), False)
        }
        self._network = network
        self._with_norm_and_bias = with_norm_and_bias
        # As constants, they share the memory of the network's parameters.
        self._constants = {name: parameter.detach() for name, parameter in parameters.items()}
        if match != "feature" and not self._matched:
            raise PydreamError(
                f"{type(network).__name__} has no convolution whose gradient could be matched: "
                "match features alone, or take another network"
            )

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        counts: Sequence[int] | None = None,
        *,
        together: bool,
    ) -> Answers:
        """Return the network's answers.

        Parameters
        ----------
        images
            (K, B, C, S, S), augmented and normalised. If they require gradients, so do the answers.
        labels
            int64 (K,).
        weights
            (K, B), rows that sum to 1: weight of each image, by default equal.
        counts
            Number of images of each class, by default B. The others pad the batch and have weight
            0; no batch norm sees them.
        together
            Pass all classes through the network as one batch: more parallel, and slower where one
            class keeps the device busy. Classes of different counts pass apart where a batch norm
            sees the batch; so do all classes where the gradients of such a norm are matched.
        """
        if weights is None:
            weights = images.new_full(images.shape[:2], 1 / images.shape[1])
        if self._one_pass:
            return Answers([], self._features_at_once(images, weights, counts))
        sees_batch = any(map(_sees_batch, self._network.modules()))
        # Under vmap, PyTorch 2.14 differentiates the gradient of a batch norm's weight wrongly.
        together = together and not (sees_batch and self._with_norm_and_bias)
        if together and (counts is None or not sees_batch):
            features, *gradients = self._vectorised_answer(images, labels, weights)
            return Answers(gradients, features)
        answers: dict[int, tuple[Tensor, ...]] = {}
        for count, classes in _by_count(images, counts).items():
            given = [(images[c, :count], labels[c], weights[c, :count]) for c in classes]
            if together:
                batch = (torch.stack(parts) for parts in zip(*given, strict=True))
                found = list(zip(*self._vectorised_answer(*batch), strict=True))
            else:
                found = [self._plain_answer(*of_class) for of_class in given]
            answers.update(zip(classes, found, strict=True))
        in_order = (answers[c] for c in range(len(images)))
        features, *gradients = (torch.stack(parts) for parts in zip(*in_order, strict=True))
        return Answers(gradients, features)

    def _features_at_once(
        self, images: Tensor, weights: Tensor, counts: Sequence[int] | None
    ) -> Tensor:
        """Return the mean features of each class, (K, D), of one pass over all images."""
        if counts is None:
            counts = [images.shape[1]] * len(images)
        seen = torch.cat([of_class[:n] for of_class, n in zip(images, counts, strict=True)])
        shares = [share[None, :n] for share, n in zip(weights, counts, strict=True)]
        state = {**self._constants, **{name: own.clone() for name, own in self._buffers.items()}}
        with torch.set_grad_enabled(images.requires_grad):
            _, features = functional_call(self._embedding, state, (seen,))
            means: Tensor = torch.block_diag(*shares) @ features
        return means

    def _vectorised_answer(
        self, images: Tensor, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the mean features of the batches of k classes and the gradients, by vmap."""
        with torch.set_grad_enabled(images.requires_grad):
            buffers = {
                name: buffer.expand(len(images), *buffer.shape).clone()
                for name, buffer in self._buffers.items()
            }
            found: tuple[Tensor, ...] = vmap(self._answer)(buffers, images, labels, weights)
        return found

    def _answer(
        self, buffers: Mapping[str, Tensor], images: Tensor, label: Tensor, weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the mean features of the batch of one class and the gradients; for vmap."""
        matched = {name: self._constants[name] for name in self._matched}
        if self.match == "feature":
            return (self._loss(matched, buffers, images, label, weights)[1],)
        gradients, features = grad(self._loss, has_aux=True)(
            matched, buffers, images, label, weights
        )
        return features, *gradients.values()

    def _plain_answer(self, images: Tensor, label: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Return the same as `_answer`, by plain autograd."""
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        wanted = images.requires_grad
        if self.match == "feature":
            with torch.set_grad_enabled(wanted):
                return (self._loss(self._constants, buffers, images, label, weights)[1],)
        with torch.enable_grad():
            loss, features = self._loss(self._matched, buffers, images, label, weights)
            gradients = torch.autograd.grad(loss, list(self._matched.values()), create_graph=wanted)
        return features if wanted else features.detach(), *gradients

    def _loss(
        self,
        matched: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        images: Tensor,
        label: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted cross entropy, and the weighted mean of the features."""
        state = {**self._constants, **matched, **buffers}
        logits, features = functional_call(self._embedding, state, (images,))
        loss = functional.cross_entropy(logits, label.expand(len(images)), reduction="none")
        return loss @ weights, weights @ features


def _by_count(images: Tensor, counts: Sequence[int] | None) -> dict[int, list[int]]:
    """Return the classes of a batch, (K, B, …), by their number of images."""
    if counts is None:
        return {images.shape[1]: list(range(len(images)))}
    classes: dict[int, list[int]] = {}
    for label, count in enumerate(counts):
        classes.setdefault(count, []).append(label)
    return classes


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether a module normalises by the statistics of a batch."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _sees_batch(module: nn.Module) -> bool:
    """Return whether a module normalises by the batch that it is given, not by kept statistics."""
    return is_batch_norm(module) and (module.training or module.running_mean is None)


class DistanceAndSlopes(NamedTuple):
    """Distance of two answers, and where a backward pass begins.

    Attributes
    ----------
    distance
        The sum over classes, layers and features; it has no graph.
    answers
        The parts of the synthetic answer, as far as they require gradients.
    slopes
        Derivative of the distance by each of these. That by the images is
        ``torch.autograd.grad(answers, images, slopes)``.
    """

    distance: Tensor
    answers: list[Tensor]
    slopes: list[Tensor]


def answer_distance(synthetic: Answers, real: Answers, match: Match, metric: str) -> Tensor:
    """Return the distance of two answers, summed over classes, layers and features.

    Parameters
    ----------
    synthetic, real
        Answers of the same network to synthetic and to real images; the real ones are constants.
    match
        Quantities to compare.
    metric
        A distance of `pydream.ops.gradient_distance`. ``cos`` and ``l1_mean`` apply to the rows of
        a layer, or to the whole mean feature of a class.
    """
    return gradient_distance(*_layers(synthetic, real, match, metric), metric)


def answer_distance_and_slopes(
    synthetic: Answers, real: Answers, match: Match, metric: str
) -> DistanceAndSlopes:
    """Return the distance of two answers and its derivatives, taken together.

    Through `answer_distance`, a backward pass multiplies the derivatives by a factor that a GPU
    does not know to be 1. Parameters are those of `answer_distance`.
    """
    x, y = _layers(synthetic, real, match, metric)
    distance, slopes = distance_and_slopes(x, y, metric)
    depend = [i for i, layer in enumerate(x) if layer.requires_grad]
    return DistanceAndSlopes(distance, [x[i] for i in depend], [slopes[i] for i in depend])


def _layers(
    synthetic: Answers, real: Answers, match: Match, metric: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what is compared of two answers, layer by layer."""
    pairs = []
    if match != "feature":
        pairs += list(zip(synthetic.gradients, real.gradients, strict=True))
    if match != "gradient":
        pairs.append((synthetic.features[:, None], real.features[:, None]))
    if metric == "l2":  # one root per class
        pairs = [gradient for x, y in pairs for gradient in zip(x, y, strict=True)]
    else:
        pairs = [(x.flatten(0, 1), y.flatten(0, 1)) for x, y in pairs]
    return [x for x, _ in pairs], [y for _, y in pairs]
