"""The code that ``torch.fx`` writes for a traced network."""

from __future__ import annotations

import linecache

from torch import fx


def forget_code(network: fx.GraphModule) -> None:
    """Release the text of a traced network's code, which PyTorch otherwise keeps for ever.

    PyTorch keeps the text of every network that it traces, for tracebacks: in a process that loads
    one observer after another, memory would grow with each. The network works as before.

    Parameters
    ----------
    network
        A network whose code has just been compiled.
    """
    name = type(network).forward.__code__.co_filename
    linecache.cache.pop(name, None)
    # Private to PyTorch: where a version has none, there is nothing to release.
    kept = getattr(getattr(fx.graph_module, "_loader", None), "eval_cache", {})
    kept.pop(name, None)
