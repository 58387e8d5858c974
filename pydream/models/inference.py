"""Optimisation of a trained classifier for inference, without changing its function."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pydream.errors import PydreamError, first_line
from pydream.models.traced_code import forget_code

# Layers whose output a ReLU may overwrite: always fresh memory that the layer does not need again.
_FRESH_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.Linear)
_FRESH_FUNCTIONS = (operator.add, torch.add)

# Folding changes only the order of roundings: float32 networks of a hundred layers differ by less
# than a hundredth of this share of the largest logit, while a wrong trace differs far more.
_SAME = 1e-2


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
        before = node.args[0]
        norm = modules[node.target]
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
        parent, _, name = before.target.rpartition(".")
        setattr(modules[parent], name, fused)
        modules[before.target] = fused
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)


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
        before = node.args[0]
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
    return bool(
        got.shape == wanted.shape and (got - wanted).abs().max() <= _SAME * wanted.abs().max()
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
