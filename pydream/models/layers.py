"""The layers of a classifier by name or number, and the part of it that ends with one of them."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pydream.arithmetic import arithmetic_of
from pydream.errors import PydreamError
from pydream.models.observer import Observer
from pydream.models.traced_code import forget_code

_NUMBERED = re.compile(r"(^|\.)\d+$")
_CONVNET_BLOCK = re.compile(r"^layers\.pool\.\d+$")
_MOST_LISTED = 20


class _Reached(Exception):  # noqa: N818  (a signal, no error)
    """Carries the output of the layer at which a forward pass ends."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class _EndingEarly(nn.Module):
    """A network whose forward pass ends with one of its layers."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self._layer = network, network.get_submodule(layer)

    def forward(self, images: Tensor) -> Tensor:
        def end(module: nn.Module, inputs: object, output: object) -> None:
            raise _Reached(output)

        hook = self._layer.register_forward_hook(end)
        try:
            self.network.forward(images)  # the original, in case it is compiled
        except _Reached as reached:
            output: Tensor = reached.output
            return output
        finally:
            hook.remove()
        raise PydreamError("the network gave its logits without calling the layer")


class LayerFeatures:
    """The features of an observer at one of its layers, differentiable in the images.

    Parameters
    ----------
    observer
        The observer.
    wanted
        Name of the layer, or number of a block; see `find_layer`.

    Raises
    ------
    PydreamError
        If the observer has no such layer, or the layer has no features of single images.

    Attributes
    ----------
    layer
        Name of the layer.
    network
        The whole classifier.
    columns
        int64 (K,): column of each class in the classifier's logits.
    tile
        Number of images in a forward pass of the observer.
    device
        Device of the weights.
    """

    def __init__(self, observer: Observer, wanted: str | None = None) -> None:
        network = self.network = observer._differentiable
        self.layer = find_layer(network, wanted, observer.arch)
        self.tile, self.device = observer.tile, observer.device
        order = observer._order
        classes = torch.arange(observer.num_classes, device=self.device)
        self.columns = classes if order is None else order
        self._part = part_until(network, self.layer)
        self._side, self._precision = observer.network_side, observer.precision
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (observer.mean, observer.std)
        )
        image = torch.zeros(1, 3, observer.side, observer.side, device=self.device)
        with torch.no_grad():
            output = self(image)
        if not isinstance(output, Tensor) or output.dim() < 2 or len(output) != 1:
            raise PydreamError(
                f"layer {self.layer} of {observer.arch} gives no features of single images: name "
                "another one with --layer"
            )

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images in [0, 1], (B, 3, S, S)."""
        return (images - self._mean) / self._std

    def fitted(self, images: Tensor) -> Tensor:
        """Return images as the network takes them: resized if necessary, channels last."""
        if images.shape[-1] != self._side:
            images = functional.interpolate(
                images, size=(self._side, self._side), mode="bilinear", antialias=True
            )
        return images.contiguous(memory_format=torch.channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of normalised images, resized for the network if necessary.

        Parameters
        ----------
        images
            (B, 3, S, S) float32, on the observer's device.

        Returns
        -------
        Tensor
            (B, …) float32.
        """
        with arithmetic_of(self._precision):
            features: Tensor = self._part(self.fitted(images))
        return features


def layer_names(network: nn.Module) -> list[str]:
    """Return the names of all layers that a forward pass goes through.

    A batch norm that was folded into a convolution is part of it. The names come in the order of
    the pass if ``torch.fx`` has traced the network, else in the order of
    their registration.
    """
    if not isinstance(network, fx.GraphModule):
        return [name for name, _ in network.named_modules() if name]
    return list(dict.fromkeys(name for node in network.graph.nodes for name in _layers_of(node)))


def block_names(network: nn.Module) -> list[str]:
    """Return the names of the blocks, by which layers are counted.

    The blocks of a `ConvNet` end with its pools. Those of any other network are its outermost
    numbered modules: the residual blocks of a ResNet, the blocks of a transformer.
    """
    names = layer_names(network)
    pools = [name for name in names if _CONVNET_BLOCK.search(name)]
    if pools:
        return pools
    numbered = [name for name in names if _NUMBERED.search(name)]
    return [
        name for name in numbered if not any(name.startswith(f"{outer}.") for outer in numbered)
    ]


def find_layer(network: nn.Module, wanted: str | None, arch: str) -> str:
    """Return the name of a layer.

    Parameters
    ----------
    network
        The classifier.
    wanted
        Name of the layer, or number of a block, counted from 1. By default the middle block: half
        of the blocks, rounded up, which is block 2 of ConvNet-3 and block 4 of ResNet-18.
    arch
        Architecture, for the messages.

    Raises
    ------
    PydreamError
        If the network has no such layer.
    """
    names, blocks = layer_names(network), block_names(network)
    if wanted is None and blocks:
        return blocks[(len(blocks) + 1) // 2 - 1]
    if wanted is not None and wanted.isdecimal() and 1 <= int(wanted) <= len(blocks):
        return blocks[int(wanted) - 1]
    if wanted in names:
        return wanted
    what = "no numbered blocks" if wanted is None else f"no layer {wanted}"
    if blocks:
        listed = ", ".join(f"{number} ({name})" for number, name in enumerate(blocks, 1))
        raise PydreamError(f"{arch} has {what}; give --layer the number or name of one: {listed}")
    listed = ", ".join(names[:_MOST_LISTED]) + (" …" if len(names) > _MOST_LISTED else "")
    raise PydreamError(f"{arch} has {what}; give --layer the name of one: {listed}")


def part_until(network: nn.Module, layer: str) -> nn.Module:
    """Return the part of a network that computes the output of a layer; weights are shared.

    Parameters
    ----------
    network
        The classifier.
    layer
        Name of the layer, from `layer_names`.

    Returns
    -------
    Module
        Function of images that returns the output of the layer; nothing behind it is computed.
    """
    if not isinstance(network, fx.GraphModule):
        return _EndingEarly(network, layer)
    nodes = list(network.graph.nodes)
    last = max(place for place, node in enumerate(nodes) if layer in _layers_of(node))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[: last + 1]:
        copies[node] = graph.node_copy(node, lambda used: copies[used])
    graph.output(copies[nodes[last]])
    part = fx.GraphModule(network, graph)
    forget_code(part)
    part.graph.eliminate_dead_code()
    part.recompile()
    forget_code(part)
    return part.eval()


def _layers_of(node: fx.Node) -> list[str]:
    """Return the modules that an operation of a traced network is part of, the outermost first."""
    if node.op in ("placeholder", "output"):
        return []
    stack = list(node.meta.get("nn_module_stack") or {})
    own = [str(node.target)] if node.op == "call_module" else []
    return list(dict.fromkeys([*stack, *own]))
