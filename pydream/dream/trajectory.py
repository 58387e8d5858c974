"""The derivative of a student's last weights with respect to the images that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pydream.memory_limits import usable_memory
from pydream.ops import diff_augment, gradient_distance

# Share of the memory for the graphs that are kept from the way forward. Steps beyond are computed
# again on the way back: with 24 GiB and 30 steps of ConvNet-3 at width 128 on 100 images of 32
# pixels, a quarter of GiB each, 6 are.
_SHARE = 1 / 4
_UNKNOWN = 4 << 30  # bytes of memory where the system reports none


class _Step(NamedTuple):
    """One step of a student, with the graph of its gradient.

    Attributes
    ----------
    weights
        Weights before the step, leaves of the graph.
    images
        (b, C, S, S): the batch, a leaf.
    gradient
        Derivatives of the loss with respect to the weights.
    """

    weights: list[Tensor]
    images: Tensor
    gradient: tuple[Tensor, ...]


def trajectory_gradient(
    network: nn.Module,
    start: Tensor,
    target: Tensor,
    images: Tensor,
    labels: Tensor,
    rate: Tensor,
    batches: Sequence[Tensor],
    augmentations: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Train a student on synthetic images, and tell how far it ends from an expert.

    The student takes steps of SGD: θ ← θ − rate · ∇ CE(θ). The loss is ‖θ_T − θ*‖² / ‖θ_0 − θ*‖².
    Memory holds the student's weights at each step, and graphs of at most a quarter of the memory
    of the machine or the GPU: the others are computed again, step by step backwards, to the same
    bytes.

    Parameters
    ----------
    network
        Classifier of normalised images without batch norm, which gives the layers; its own weights
        do not matter.
    start, target
        float32 or float64 (P,): θ_0 and θ*, all parameters of the network in the order of
        ``network.parameters()``, flattened.
    images
        (N, C, S, S), normalised.
    labels
        int64 (N,).
    rate
        (): learning rate of the student.
    batches
        int64 (b,) for each step: the images that it sees. Their numbers b may differ.
    augmentations
        float32 (b, 13) for each step, rows of `pydream.ops.diff_augment` for each image; None for
        none.

    Returns
    -------
    Tensor
        The loss, ().
    Tensor
        Its derivative with respect to the images, (N, C, S, S).
    Tensor
        Its derivative with respect to the rate, ().

    Notes
    -----
    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (CVPR 2022),
    equation 2.
    """
    names = [name for name, _ in network.named_parameters()]

    def step(weights: Sequence[Tensor], number: int, *, keep: bool) -> _Step:
        weights = [weight.detach().requires_grad_() for weight in weights]
        batch = images[batches[number]].detach().requires_grad_(keep)
        with torch.enable_grad():
            drawn = None if augmentations is None else augmentations[number]
            seen = batch if drawn is None else diff_augment(batch, drawn)
            logits = functional_call(network, dict(zip(names, weights, strict=True)), (seen,))
            loss = functional.cross_entropy(logits, labels[batches[number]])
            gradient = torch.autograd.grad(loss, weights, create_graph=keep)
        return _Step(weights, batch, gradient)

    rate = rate.detach()
    first, last = (_by_parameter(network, weights) for weights in (start, target))
    trajectory, graphs = _train(first, rate, len(batches), step)
    end = [weight.detach().requires_grad_() for weight in trajectory[-1]]
    distance = gradient_distance(first, last, "mse")
    loss = gradient_distance(end, last, "mse") / distance
    slopes = torch.autograd.grad(loss, end)
    of_images, of_rate = torch.zeros_like(images), torch.zeros_like(rate)
    for number in reversed(range(len(batches))):
        kept = graphs.pop(number, None) or step(trajectory[number], number, keep=True)
        along = sum(
            ((a * b).sum() for a, b in zip(kept.gradient, slopes, strict=True)), rate.new_zeros(())
        )
        *of_weights, of_batch = torch.autograd.grad(along, [*kept.weights, kept.images])
        of_images.index_add_(0, batches[number], -rate * of_batch)
        of_rate -= along.detach()
        slopes = tuple(a - rate * b for a, b in zip(slopes, of_weights, strict=True))
    return loss.detach(), of_images, of_rate


def _train(
    weights: list[Tensor], rate: Tensor, steps: int, step: Callable[..., _Step]
) -> tuple[list[list[Tensor]], dict[int, _Step]]:
    """Take all steps; return the weights before, between and after them, and the graphs kept.

    Graphs of the last steps are kept, which the way back needs first.
    """
    trajectory, graphs, first_kept = [weights], dict[int, _Step](), 0
    for number in range(steps):
        if number == 0:
            taken, size = _with_size(lambda: step(weights, 0, keep=True))
            first_kept = max(0, steps - _room(rate.device) // max(1, size))
        else:
            taken = step(trajectory[-1], number, keep=number >= first_kept)
        if number >= first_kept:
            graphs[number] = taken
        pairs = zip(trajectory[-1], taken.gradient, strict=True)
        trajectory.append([weight - rate * slope.detach() for weight, slope in pairs])
    return trajectory, graphs


def _room(device: torch.device) -> int:
    """Return how many bytes the graphs may take."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = usable_memory() or _UNKNOWN
    return int(memory * _SHARE)


def _with_size(take: Callable[[], _Step]) -> tuple[_Step, int]:
    """Take a step; return it, and the bytes that its graph keeps."""
    size = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal size
        size += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return take(), size


def _by_parameter(network: nn.Module, flat: Tensor) -> list[Tensor]:
    """Return the parameters of a network from a vector, in the memory format of its own."""
    own = list(network.parameters())
    parts = flat.split([parameter.numel() for parameter in own])
    return [
        torch.empty_like(parameter, dtype=flat.dtype, device=flat.device).copy_(
            part.view(parameter.shape)
        )
        for part, parameter in zip(parts, own, strict=True)
    ]
