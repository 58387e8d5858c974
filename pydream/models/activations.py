"""The features of a classifier: what enters its last layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def classify_and_embed(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and the features of images, in one pass.

    The features are the input of the last linear layer called, or the logits if there is none.

    Parameters
    ----------
    model
        The classifier.
    images
        (B, 3, side, side), normalised for the classifier, on its device.

    Returns
    -------
    tuple[Tensor, Tensor]
        (B, K) and (B, D), in the dtype of the activations, differentiable as the model is.
    """
    inputs: list[torch.Tensor] = []

    def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs.append(given[0] if given else named["input"])

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        logits: torch.Tensor = model.forward(images)  # the original, in case it is compiled
    finally:
        for hook in hooks:
            hook.remove()
    return logits, (inputs[-1] if inputs else logits).flatten(1)
