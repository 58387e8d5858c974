"""The formats of image files that are read: those for photographs that Pillow supports."""

from __future__ import annotations

import importlib

from PIL import Image, features

# By plugin of Pillow: only these are loaded, and files are tried as nothing else. Pillow also opens
# documents, icons, textures, measurements and films, which are not photographs.
_PLUGINS = {
    "JpegImagePlugin": "JPEG",
    "MpoImagePlugin": "MPO",
    "PngImagePlugin": "PNG",
    "WebPImagePlugin": "WEBP",
    "BmpImagePlugin": "BMP",
    "GifImagePlugin": "GIF",
    "TiffImagePlugin": "TIFF",
    "AvifImagePlugin": "AVIF",
    "Jpeg2KImagePlugin": "JPEG2000",
    "PpmImagePlugin": "PPM",
    "QoiImagePlugin": "QOI",
}
# Features that a build of Pillow may lack, by format.
_NEEDED = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
_NO_PHOTOGRAPHS = {".pfm"}  # floats of an unknown range


def _load() -> tuple[str, ...]:
    """Load the plugins that this Pillow has, and return their formats."""
    formats = []
    for plugin, name in _PLUGINS.items():
        try:
            importlib.import_module(f"PIL.{plugin}")
        except ImportError:
            continue
        if name not in _NEEDED or features.check(_NEEDED[name]):
            formats.append(name)
    return tuple(formats)


_LOADED = _load()

# Pillow opens MPO as the JPEG at its beginning.
PILLOW_FORMATS = tuple(name for name in _LOADED if name in Image.OPEN)
"""Names of the formats that files are tried as. Otherwise ``Image.open`` would import every plugin
of Pillow on its first call, in a worker thread."""

IMAGE_SUFFIXES = tuple(
    sorted(
        suffix
        for suffix, name in Image.EXTENSION.items()
        if name in _LOADED and suffix not in _NO_PHOTOGRAPHS
    )
)
"""Files with these endings, in any case, are images; others are ignored and counted."""
