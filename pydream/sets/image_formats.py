"""File formats that a distilled set's images are stored in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]
SUFFIXES: Mapping[ImageFormat, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
