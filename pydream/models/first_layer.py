"""The first convolution of a network that is trained in bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn

_CHANNELS = 3  # of images


@contextmanager
def first_layer_in_float32(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Compute convolutions of images in float32 during the block, where autocast is on.

    oneDNN's gradient of such a layer in bfloat16 makes its threads wait for each other without
    sleeping. Beside other programs that want the processors, a thread may wait a whole turn of the
    scheduler each time: beside two busy processes on two cores, `pydream demo` took 28 times its
    time alone. In float32, and in layers of more channels, such waits are rare.

    Parameters
    ----------
    model
        The network. Outside autocast it computes as before.
    device
        Its device. On a GPU nothing changes.
    """
    layers = [
        layer
        for layer in model.modules()
        if device.type == "cpu"
        and isinstance(layer, nn.Conv2d)
        and layer.in_channels == _CHANNELS
        and "forward" not in vars(layer)
    ]
    for layer in layers:
        # A method, so that a copy of the layer computes with the weights of the copy.
        layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.Conv2d, images: Tensor) -> Tensor:
    plain = type(layer).forward
    if not torch.is_autocast_enabled("cpu"):
        return plain(layer, images)
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        return plain(layer, images.float()).to(dtype)
