"""Optimisation of a trained classifier for inference, without changing its function."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pydream.errors import PydreamError, first_line
from pydream.models.traced_code import forget_code

# Layers whose output a ReLU may overwrite: always fresh memory that the layer does not need again.
_FRESH_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.Linear)
_FRESH_FUNCTIONS = (operator.add, torch.add)

# Folding and fusing change only the order and the number of roundings. float32 networks of a
# hundred layers differ by less than a hundredth of this share of the largest logit; 16-bit ones,
# which round each layer to 2^-8, by less than the second. A wrong network differs far more.
_SAME, _SAME_IN_16_BITS = 1e-2, 0.25


def fold(model: nn.Module, images: torch.Tensor, logits: torch.Tensor) -> nn.Module:
    """Fold batch norms into the convolutions before them, and make ReLUs work in place.

    Parameters
    ----------
    model
        A classifier of (B, 3, side, side), float32. It is frozen, set to evaluation mode, and
        shares all unfolded layers with the result.
    images, logits
        Some noise images, and the model's logits for them, which the folded network must reproduce.

    Returns
    -------
    Module
        The folded network; or the model itself if ``torch.fx`` cannot trace it, or if the trace
        computes something else (because its Python code depends on more than the image).
    """
    model.eval().requires_grad_(False)
    try:
        folded = fx.symbolic_trace(model)
    except Exception:  # code that cannot be traced fails in any way
        return model
    forget_code(folded)
    _fold_batch_norms(folded)
    _make_relus_in_place(folded)
    folded.graph.lint()
    folded.recompile()
    forget_code(folded)
    folded.delete_all_unused_submodules()
    folded.eval().requires_grad_(False)
    return folded if _agree(folded, images, logits) else model


class _FusedConvolution(nn.Module):
    """A convolution, the sum behind it if there is one, and the ReLU: one kernel of cuDNN."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.shape: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, images: torch.Tensor, *added: torch.Tensor) -> torch.Tensor:
        if added:
            return torch.cudnn_convolution_add_relu(
                images, self.weight, added[0], 1.0, self.bias, *self.shape
            )
        return torch.cudnn_convolution_relu(images, self.weight, self.bias, *self.shape)


@torch.no_grad()
def fuse_convolutions(folded: nn.Module, images: torch.Tensor) -> nn.Module:
    """Fuse the convolutions of a folded network with the ReLUs behind them, by kernels of cuDNN.

    ResNet-18 in bfloat16 takes 0.70 of its time on an H200, and 0.92 in float32.

    Parameters
    ----------
    folded
        A result of `fold`, on a GPU. It stays as it is.
    images
        (B, 3, side, side), some noise images, of its dtype, for which both must agree.

    Returns
    -------
    Module
        The fused network, which shares the weights and has no gradients; or the folded network
        itself if it has not been traced, or if cuDNN does not take its convolutions.
    """
    if not isinstance(folded, fx.GraphModule):
        return folded
    fused = fx.GraphModule(folded, copy.deepcopy(folded.graph))
    modules = dict(fused.named_modules())
    calls = Counter(node.target for node in fused.graph.nodes if node.op == "call_module")
    for node in list(fused.graph.nodes):
        if node.op == "call_function" and node.target is functional.relu:
            _fuse_before(fused, modules, calls, node)
    fused.graph.eliminate_dead_code()
    fused.recompile()
    forget_code(fused)
    fused.eval().requires_grad_(False)
    return fused if _agree(fused, images, folded(images)) else folded


def _fuse_before(
    model: fx.GraphModule, modules: dict[str, nn.Module], calls: Counter[Any], relu: fx.Node
) -> None:
    """Fuse a ReLU with the convolution, and the sum, that are there only for it."""
    before = _input_of(relu)
    terms: list[Any] = [before]
    if before.op == "call_function" and before.target in _FRESH_FUNCTIONS and not before.kwargs:
        terms = list(before.args)
    for conv in reversed(terms):  # the last: a block adds its input, or a convolution of it, to it
        if (
            isinstance(conv, fx.Node)
            and conv.op == "call_module"
            and type(modules[str(conv.target)]) is nn.Conv2d
            and calls[conv.target] == 1
            and len(conv.users) == len(before.users) == 1
        ):
            break
    else:
        return
    others = [term for term in terms if term is not conv]
    if not all(isinstance(term, fx.Node) for term in others):
        return
    name = str(conv.target)
    layer = modules[name]
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return
    modules[name] = _FusedConvolution(layer)
    model.set_submodule(name, modules[name])
    with model.graph.inserting_before(relu):
        done = model.graph.call_module(name, (_input_of(conv), *others))
    done.meta = dict(conv.meta)
    relu.replace_all_uses_with(done)
    model.graph.erase_node(relu)


def with_batch_statistics(model: nn.Module) -> nn.Module:
    """Copy a network in evaluation mode, and let its batch norms normalise over each batch.

    Its other layers stay in evaluation mode, and no statistics are kept.
    """
    twin = copy.deepcopy(model)
    for layer in twin.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = None
    return twin


def _fold_batch_norms(model: fx.GraphModule) -> None:
    """Fold each batch norm that is the sole user of a convolution; each must be called once."""
    modules = dict(model.named_modules())
    calls = Counter(node.target for node in model.graph.nodes if node.op == "call_module")
    for node in list(model.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) is not nn.BatchNorm2d:
            continue
        before, norm = _input_of(node), modules[node.target]
        if (
            before.op != "call_module"
            or type(modules[before.target]) is not nn.Conv2d
            or len(before.users) > 1
            or calls[before.target] > 1
            or calls[node.target] > 1
            or norm.running_mean is None
        ):
            continue
        conv = modules[before.target]
        fused = _fused(conv, norm)
        parent, _, name = str(before.target).rpartition(".")
        setattr(modules[parent], name, fused)
        modules[before.target] = fused
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)


def _input_of(node: fx.Node) -> fx.Node:
    """Return the only input of a layer or of a ReLU, whether its code names it or not."""
    return node.all_input_nodes[0]


def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Merge both into one convolution, scaled in float64, so that it costs one rounding."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        None if conv.bias is None else conv.bias.double(),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        None if norm.weight is None else norm.weight.double(),
        None if norm.bias is None else norm.bias.double(),
    )
    # The old weight is not copied: the new one takes its place.
    fused = copy.deepcopy(conv, {id(conv.weight): _frozen(weight)})
    fused.bias = _frozen(bias)
    return fused


def _frozen(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.float(), requires_grad=False)


def _make_relus_in_place(model: fx.GraphModule) -> None:
    """Replace each ReLU that is the sole user of a fresh tensor by one that overwrites it."""
    modules = dict(model.named_modules())
    for node in list(model.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) is not nn.ReLU:
            continue
        before = _input_of(node)
        fresh = (before.op == "call_module" and type(modules[before.target]) in _FRESH_LAYERS) or (
            before.op == "call_function" and before.target in _FRESH_FUNCTIONS
        )
        if not fresh or len(before.users) > 1:
            continue
        with model.graph.inserting_after(node):
            relu = model.graph.call_function(functional.relu, (before,), {"inplace": True})
        relu.meta = dict(node.meta)  # its layers
        node.replace_all_uses_with(relu)
        model.graph.erase_node(node)


def _agree(folded: nn.Module, images: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Return whether the folded network reproduces the logits of the images, up to rounding."""
    with torch.no_grad():
        try:
            got = folded(images)
        except Exception:  # a wrong trace may fail in any way
            return False
    share = _SAME if wanted.dtype == torch.float32 else _SAME_IN_16_BITS
    return bool(
        got.shape == wanted.shape and (got - wanted).abs().max() <= share * wanted.abs().max()
    )


def compile_network(
    model: nn.Module,
    classify: Callable[[torch.Tensor], torch.Tensor],
    arch: str,
    side: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Compile a network for tiles of one size, and check that it works.

    Parameters
    ----------
    model
        The network.
    classify
        Function of (B, 3, side, side) images that runs it on whole tiles.
    arch, side, dtype, device
        Its architecture, input and place.

    Raises
    ------
    PydreamError
        If torch.compile fails.
    """
    model.compile(dynamic=False)
    try:
        classify(torch.zeros(1, 3, side, side, dtype=dtype))
    except PydreamError:
        raise
    except Exception as error:  # the compiler runs other programs and fails in any way
        raise PydreamError(
            f"torch.compile cannot make kernels for {arch} on {device}: {first_line(error)}"
        ) from error
