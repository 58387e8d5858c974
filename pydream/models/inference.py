"""Makes a trained classifier cheaper to run, without changing what it computes."""

from __future__ import annotations

import copy
import operator
from collections import Counter

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

# What a ReLU may overwrite: these layers always return fresh memory that they do not need again.
_FRESH_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.Linear)
_FRESH_FUNCTIONS = (operator.add, torch.add)

# Folding changes the order of roundings, no more: float32 networks of a hundred layers stay within
# a hundredth of this of the largest logit, while a wrongly traced one misses it by far.
_SAME = 1e-2


def fold(model: nn.Module, side: int) -> nn.Module:
    """Fold batch norms into the convolutions before them, and let ReLUs work in place.

    Parameters
    ----------
    model
        A classifier of (B, 3, side, side) in evaluation mode; it is left as it is.
    side
        Height and width of the images, in pixels.

    Returns
    -------
    Module
        A frozen copy, in evaluation mode. A model that ``torch.fx`` cannot trace, or whose trace
        computes something else (because its Python code looks at more than the image), is
        copied as it is.
    """
    original = copy.deepcopy(model).eval().requires_grad_(False)
    try:
        folded = fx.symbolic_trace(copy.deepcopy(original))
    except Exception:  # code that cannot be traced fails in any way
        return original
    _fold_batch_norms(folded)
    _make_relus_in_place(folded)
    folded.graph.lint()
    folded.recompile()
    folded.delete_all_unused_submodules()
    folded.eval().requires_grad_(False)
    return folded if _agree(original, folded, side) else original


def _fold_batch_norms(model: fx.GraphModule) -> None:
    """Fold each batch norm that alone takes a convolution's output; each must be called once."""
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
        # In float64: scaling the weights then costs one rounding.
        fused = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
        parent, _, name = before.target.rpartition(".")
        setattr(modules[parent], name, fused.to(conv.weight.dtype))
        modules[before.target] = fused
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)


def _make_relus_in_place(model: fx.GraphModule) -> None:
    """Replace each ReLU layer that alone takes a freshly made tensor by one that overwrites it."""
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
        node.replace_all_uses_with(relu)
        model.graph.erase_node(node)


def _agree(original: nn.Module, folded: nn.Module, side: int) -> bool:
    """Return whether both give the same logits for two images of noise, up to rounding."""
    like = next(iter(original.parameters()), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator).to(like)
    with torch.no_grad():
        try:
            wanted, got = original(images), folded(images)
        except Exception:  # a trace may have frozen what it should not, and then fail in any way
            return False
    return bool(
        got.shape == wanted.shape and (got - wanted).abs().max() <= _SAME * wanted.abs().max()
    )
