"""Sources of real images: finding, reading and decoding them."""

from __future__ import annotations

from pydream.data.base import Source
from pydream.data.decode import decode_image
from pydream.data.prefetch import decode_ahead
from pydream.data.sources import SourceSpec, has_split, open_source
from pydream.data.upload import to_device, upload
from pydream.errors import ImageError

__all__ = [
    "ImageError",
    "Source",
    "SourceSpec",
    "decode_ahead",
    "decode_image",
    "has_split",
    "open_source",
    "to_device",
    "upload",
]
