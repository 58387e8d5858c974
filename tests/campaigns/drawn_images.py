"""Images of every format and kind, drawn for campaigns, and references for their pixels."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
import pictures
from campaigns.mutations import Blocks, jpeg_segments, mutate, pieces, png_chunks, riff_chunks
from pictures import encode_png16, make_pixels
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from pydream.data.formats import PILLOW_FORMATS

_ORIENTATION = 0x0112
_BLOCKS: dict[str, Blocks] = {
    "jpg": jpeg_segments,
    "png": png_chunks,
    "webp": riff_chunks,
    "tiff": pieces(12),  # entries of a directory
    "gif": pieces(32),
    "bmp": pieces(4),
}


def drawn() -> dict[str, bytes]:
    """Return images by file name, one of each kind."""
    colours = Image.fromarray(make_pixels(30, 43))
    see_through = colours.convert("RGBA")
    see_through.putalpha(Image.fromarray(make_pixels(30, 43, seed=1)[..., 0]))
    grey, two = colours.convert("L"), colours.convert("1")
    deep = np.random.default_rng(0).integers(0, 65536, (7, 13, 3), dtype=np.uint16)
    deep_grey = Image.fromarray(deep[..., 0])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "an image" * 10, zip=True)

    def others() -> list[Image.Image]:
        return [Image.fromarray(make_pixels(30, 43, seed=seed)) for seed in (2, 3)]

    found = {
        "plain.jpg": encode(colours, "JPEG"),
        "progressive.jpg": encode(colours, "JPEG", progressive=True, subsampling=0),
        "restarts.jpg": encode(colours, "JPEG", restart_marker_blocks=2),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(colours.convert("CMYK"), "JPEG", icc_profile=profile),
        "progressive-cmyk.jpg": encode(colours.convert("CMYK"), "JPEG", progressive=True),
        "films.jpg": encode(colours, "MPO", save_all=True, append_images=others()),
        "plain.png": encode(colours, "PNG", icc_profile=profile, pnginfo=text),
        "palette.png": encode(colours.quantize(16), "PNG", transparency=3),
        "alpha.png": encode(see_through, "PNG", dpi=(72, 72)),
        "grey-alpha.png": encode(see_through.convert("LA"), "PNG"),
        "grey.png": encode(grey, "PNG"),
        "two.png": encode(two, "PNG"),
        "deep.png": encode_png16(deep, 2),
        "deep-grey.png": encode(deep_grey, "PNG"),
        "film.png": encode(colours, "PNG", save_all=True, append_images=others()),
        "large.png": encode(Image.new("RGB", (1500, 1500), (9, 200, 4)), "PNG"),
        "plain.webp": encode(colours, "WEBP", icc_profile=profile),
        "lossless.webp": encode(see_through, "WEBP", lossless=True, exact=True),
        "film.webp": encode(colours, "WEBP", save_all=True, append_images=others()),
        "plain.gif": encode(colours, "GIF"),
        "film.gif": encode(
            colours.quantize(16), "GIF", save_all=True, append_images=others(), transparency=2
        ),
        "plain.bmp": encode(colours, "BMP"),
        "palette.bmp": encode(colours.quantize(16), "BMP"),
        "two.bmp": encode(two, "BMP"),
        "alpha.bmp": encode(see_through, "BMP"),
        "deep.tiff": encode(deep_grey, "TIFF"),
        "floats.tiff": encode(np.linspace(0, 1, 91, dtype=np.float32).reshape(7, 13), "TIFF"),
        "cmyk.tiff": encode(colours.convert("CMYK"), "TIFF", compression="packbits"),
        "pages.tiff": encode(colours, "TIFF", save_all=True, append_images=others()),
        "fax.tiff": encode(two, "TIFF", compression="group4"),
        "plain.avif": encode(colours, "AVIF", speed=10),
        "plain.jp2": encode(see_through, "JPEG2000"),
        "plain.ppm": encode(colours, "PPM"),
        "deep.pgm": encode(deep_grey, "PPM"),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd"):
        name = f"{compression.replace('_', '-')}.tiff"
        found[name] = encode(colours, "TIFF", compression=compression)
    for orientation in range(9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        exif[0x9286] = b"ASCII\0\0\0" + b"a comment" * 5
        kind = ("jpg", "png", "webp", "tiff", "avif")[orientation % 5]
        form = {"jpg": "JPEG", "webp": "WEBP"}.get(kind, kind.upper())
        found[f"turned-{orientation}.{kind}"] = encode(colours, form, exif=exif)
    return found


def encode(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image; a copy of it, because Pillow keeps options of one format for the next."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    return pictures.encode(image, kind, **options)


class Mutated(NamedTuple):
    """A mutated image."""

    name: str
    how: str  # which mutations
    data: bytes


class MutatedImages:
    """Mutated images by number; those of a seed are always the same.

    Every fortieth is whole, so that a campaign that refuses everything fails.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._whole = drawn()
        self.names = [*self._whole]

    def __getitem__(self, number: int) -> Mutated:
        rng = np.random.default_rng((self._seed, number))
        name = self.names[number % len(self.names)]
        other = self._whole[self.names[rng.integers(len(self.names))]]
        if number % 40 == 0:
            return Mutated(name, "whole", self._whole[name])
        how, data = mutate(
            self._whole[name], rng, other, _BLOCKS.get(name.rpartition(".")[2], pieces(64))
        )
        return Mutated(name, how, data)

    def whole(self, name: str) -> bytes:
        """Return an image as it is drawn."""
        return self._whole[name]

    def describe(self, number: int) -> str:
        """Name a mutated image."""
        image = self[number]
        return f"image {number}, {image.name} {image.how}"


def by_pillow(data: bytes, *, upright: bool = False) -> np.ndarray | str:
    """Return the pixels by Pillow, uint8 (H, W, 3), or why it has none."""
    try:
        with (
            warnings.catch_warnings(),
            Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image,
        ):
            warnings.simplefilter("ignore")
            image.load()
            if image.mode.startswith("I;16") or (
                image.mode == "I" and image.format in ("PNG", "PPM")
            ):
                high = (np.asarray(image).astype(np.int64) // 256).astype(np.uint8)
                pixels = np.repeat(high[..., None], 3, axis=2)
                return pixels
            if image.mode in ("I", "F"):
                return "32-bit samples"
            if upright and image.format != "TIFF":
                image = ImageOps.exif_transpose(image)
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises anything for damaged files
        return f"{type(error).__name__}: {error}"
