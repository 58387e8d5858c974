"""Options behind the name of a source: SOURCE:classes=LIST,image=COLUMN,label=COLUMN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_OPTION = r"(?:classes|image|label)=[^,=]+"
_OPTIONS = re.compile(rf"(?P<name>.+?):(?P<options>{_OPTION}(?:,{_OPTION})*)")
COLUMNS = ("image", "label")


def divided(spec: str) -> tuple[str, Mapping[str, str]]:
    """Divide the name of a source into the name itself and the options behind it.

    A path that exists has no options, whatever it is called.

    >>> divided("cifar100:image=img,label=fine_label")
    ('cifar100', {'image': 'img', 'label': 'fine_label'})
    """
    found = _OPTIONS.fullmatch(spec)
    if found is None or Path(spec).exists():
        return spec, {}
    pairs = (pair.split("=") for pair in found["options"].split(","))
    return found["name"], {pair[0]: pair[1] for pair in pairs}
