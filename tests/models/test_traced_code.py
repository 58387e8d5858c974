from __future__ import annotations

import gc
import linecache

import torch

from pydream.models import build_model, load_observer
from pydream.models.layers import LayerFeatures


def load_and_divide() -> None:
    """Load an observer, whose batch norms are folded, and take the part up to a layer."""
    model = build_model("convnet2-w16", num_classes=3, side=16)
    observer = load_observer(model, arch="convnet2-w16", side=16, precision="float32", device="cpu")
    features = LayerFeatures(observer)(torch.zeros(1, 3, 16, 16))
    assert features.isfinite().all()


def code_kept() -> list[str]:
    """Names of traced code in linecache, and in any dictionary with a text by its name."""
    dictionaries = [thing for thing in gc.get_objects() if type(thing) is dict]
    return sorted(
        name
        for thing in (linecache.cache, *dictionaries)
        for name, text in list(thing.items())
        if isinstance(name, str)
        and name.startswith("<eval_with_key>")
        and (thing is linecache.cache or isinstance(text, str))
    )


def test_code_of_traced_networks_is_not_kept() -> None:
    before = code_kept()
    load_and_divide()
    assert code_kept() == before
