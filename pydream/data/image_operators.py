"""torchvision's operators for image files, without the rest of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("image_stable.*", "image.*")  # of torchvision 0.29 and later, and before


def image_operator(name: str) -> Callable[..., Any] | None:
    """Return one of torchvision's operators for image files; None if it has no such operator.

    Only the library of the operators is loaded. All of torchvision takes a second to import, and
    half a second more when the process ends.
    """
    found = find_spec("torchvision")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for pattern in _LIBRARIES:
            for library in Path(folder).glob(pattern):
                try:
                    torch.ops.load_library(library)
                except OSError:  # as of another PyTorch; torchvision goes without it, too
                    continue
    operator: Callable[..., Any] | None = getattr(torch.ops.image, name, None)
    return operator
