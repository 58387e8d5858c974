"""Sources of real images: finding, reading and decoding them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.errors import ImageError
from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream.data.decode import decode_image
    from pydream.data.prefetch import decode_ahead
    from pydream.data.source import Source
    from pydream.data.sources import SourceSpec, check_classes, has_split, open_source
    from pydream.data.upload import upload

__all__ = [
    "ImageError",
    "Source",
    "SourceSpec",
    "check_classes",
    "decode_ahead",
    "decode_image",
    "has_split",
    "open_source",
    "upload",
]

lazy_members(
    __name__,
    {
        "Source": "pydream.data.source",
        "SourceSpec": "pydream.data.sources",
        "check_classes": "pydream.data.sources",
        "decode_ahead": "pydream.data.prefetch",
        "decode_image": "pydream.data.decode",
        "has_split": "pydream.data.sources",
        "open_source": "pydream.data.sources",
        "upload": "pydream.data.upload",
    },
)
