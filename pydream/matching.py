"""What a network answers to the images of a class, and the distance of two such answers."""

from __future__ import annotations

from collections.abc import Mapping
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
    sees the batch of one class, but for `one_pass`. Its running statistics do not change.
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
        self._batch_norm = any(map(is_batch_norm, network.modules()))
        # Under vmap, PyTorch 2.15 differentiates the gradient of a batch norm's weight wrongly.
        self._apart = with_norm_and_bias and self._batch_norm
        # As constants, they share the memory of the network's parameters.
        self._constants = {name: parameter.detach() for name, parameter in parameters.items()}
        if match != "feature" and not self._matched:
            raise PydreamError(
                f"{type(network).__name__} has no convolution whose gradient could be matched: "
                "match features alone, or take another network"
            )

    def __call__(
        self, images: Tensor, labels: Tensor, weights: Tensor | None = None, *, together: bool
    ) -> Answers:
        """Return the network's answers.

        Parameters
        ----------
        images
            (K, B, C, S, S), augmented and normalised. If they require gradients, so do the answers.
        labels
            int64 (K,).
        weights
            (K, B), rows that sum to 1: weight of each image, by default equal. Images of weight 0
            pad the batch of a small class.
        together
            Pass all classes through the network as one batch: more parallel, and slower where one
            class keeps the device busy. Ignored for gradients of batch norms, and where batch norms
            would see padding.
        """
        if self._one_pass:
            return Answers([], self._features_at_once(images, weights))
        apart = self._apart or (self._batch_norm and weights is not None)
        if together and not apart:
            if weights is None:
                weights = images.new_full(images.shape[:2], 1 / images.shape[1])
            with torch.set_grad_enabled(images.requires_grad):
                buffers = {
                    name: buffer.expand(len(images), *buffer.shape).clone()
                    for name, buffer in self._buffers.items()
                }
                features, *gradients = vmap(self._answer)(buffers, images, labels, weights)
            return Answers(gradients, features)
        each_class = []
        for number, (of_class, label) in enumerate(zip(images, labels, strict=True)):
            if weights is None:
                share = images.new_full((len(of_class),), 1 / len(of_class))
            else:
                counts = weights[number] > 0
                of_class, share = of_class[counts], weights[number][counts]
            each_class.append(self._plain_answer(of_class, label, share))
        features, *gradients = (torch.stack(parts) for parts in zip(*each_class, strict=True))
        return Answers(gradients, features)

    def _features_at_once(self, images: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean features of each class, (K, D), of one pass over all images."""
        if weights is None:
            weights = images.new_full(images.shape[:2], 1 / images.shape[1])
        shares = weights.flatten()
        counts = shares > 0  # no batch norm sees padding
        classes = torch.arange(len(images), device=images.device).repeat_interleave(images.shape[1])
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        with torch.set_grad_enabled(images.requires_grad):
            state = {**self._constants, **buffers}
            _, features = functional_call(self._embedding, state, (images.flatten(0, 1)[counts],))
            one_of = functional.one_hot(classes[counts], len(images)).to(features.dtype)
            means: Tensor = (one_of * shares[counts, None]).T @ features
        return means

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


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether a module normalises by the statistics of a batch."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


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
