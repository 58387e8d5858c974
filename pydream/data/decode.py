"""Decoding of image files to RGB pixels.

torchvision's libjpeg-turbo binding decodes JPEG, three times as fast as Pillow for small files.
Pillow decodes everything else: its PNG decoder is as fast as torchvision's and, unlike that one,
survives damaged files.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from pydream.data.formats import PILLOW_FORMATS
from pydream.data.image_operators import image_operator
from pydream.errors import ImageError, first_line

MAX_PIXELS = 2 * 89_478_485
"""Largest image that is decoded, in pixels: Pillow's own default limit."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START, _JPEG_LAST = b"\xff\xd8\xff", b"\xff\xd9"
# Frame headers SOF0 to SOF15; C4, C8 and CC are other segments in the same range.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a segment: TEM, RST0 to RST7, SOI.
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Scans of a progressive JPEG. Encoders write about ten; every scan takes time for all pixels, even
# one of a few bytes.
_MOST_SCANS = 200
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_ADOBE = 0xEE
_ORIENTATION = 0x0112  # of EXIF
_STRIP = 1 << 20  # pixels that are copied from Pillow at once
# Content found in files in place of images, by its first bytes without leading blanks, in lower
# case.
_NO_IMAGES = {
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
    b"<svg": "SVG, which is not a raster image",
    b"version https://git-lfs": "a Git LFS pointer: `git lfs pull` fetches the file",
    b"%pdf": "a PDF",
    b"pk\x03\x04": "a zip archive",
    b"{": "JSON",
}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
_RGB_MODE = 3  # torchvision.io.ImageReadMode.RGB
# The operator, not torchvision.io.decode_jpeg, which warns of its deprecation on every call.
# Without the operator, Pillow decodes JPEG.
_torchvision_jpeg: Callable[..., torch.Tensor] | None = image_operator("decode_jpeg")


class EncodedJpeg(NamedTuple):
    """An undecoded JPEG of three 8-bit channels, complete by its first and last bytes.

    Attributes
    ----------
    data
        (n,) uint8, the content of the file.
    shape
        Shape of the decoded image: height, width, 3.
    """

    data: torch.Tensor
    shape: tuple[int, int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded image."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def decode(self) -> torch.Tensor:
        """Decode it on the CPU, like `decode_image`."""
        return decode_image(self.data.numpy().tobytes())


class Header(NamedTuple):
    """Facts about an image before it is decoded."""

    kind: str  # "jpeg", "png" or "other"
    height: int
    width: int
    plain: bool = False  # a JPEG of three 8-bit channels in YCbCr, as GPUs decode them


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the kind and size of an encoded image without decoding it.

    Parameters
    ----------
    data
        A whole image file.
    max_pixels
        Limit above which images are refused.

    Returns
    -------
    Header
        Kind, height and width.

    Raises
    ------
    ImageError
        If the file is empty, of an unknown kind, truncated in its header, or too large.
    """
    if data.startswith(_JPEG_START):
        header = _read_jpeg_header(data)
    elif data.startswith(_PNG_SIGNATURE):
        header = _read_png_header(data)
    elif data:
        with _open_with_pillow(data) as image:
            header = Header("other", image.height, image.width)
    else:
        raise ImageError("empty file")
    pixels = header.height * header.width
    if pixels == 0:
        raise ImageError(f"image of {header.width}×{header.height} pixels")
    if pixels > max_pixels:
        raise ImageError(
            f"image of {header.width}×{header.height} = {pixels:,} pixels, "
            f"above the limit of {max_pixels:,}"
        )
    return header


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """Decode an image file of one of `pydream.data.formats.PILLOW_FORMATS` to RGB.

    Grey becomes RGB with equal channels, alpha is dropped, 16-bit samples keep their high byte, and
    of an animation the first frame is used. The EXIF orientation is not applied, as in
    torchvision's ImageFolder, with which observers are trained. The exception is TIFF, in both,
    because Pillow applies it.

    A file that ends early is an error. So is a PNG with a wrong checksum. JPEG has none, so damage
    in its data that still parses goes unnoticed, as in every other decoder.

    Parameters
    ----------
    data
        A whole image file; its first bytes decide its kind, not its name.
    max_pixels
        Images with more pixels (height × width) are refused before decoding. Pillow's own limit,
        ``PIL.Image.MAX_IMAGE_PIXELS``, also applies to all but JPEG.

    Returns
    -------
    Tensor
        uint8 (H, W, 3), contiguous.

    Raises
    ------
    ImageError
        If the data cannot be decoded; the message is a short reason.
    """
    return _decode(data, read_header(data, max_pixels=max_pixels))


def prepare(
    content: bytes | np.ndarray, *, upright: bool = False
) -> tuple[int, Callable[[], torch.Tensor]]:
    """Return the memory that an image needs before it is decoded.

    Parameters
    ----------
    content
        An encoded file, or uint8 pixels (H, W), (H, W, 1) or (H, W, 3), as from `Source.read`.
    upright
        Rotate and mirror the image according to its EXIF orientation.

    Returns
    -------
    tuple[int, Callable[[], Tensor]]
        Bytes of the decoded image, and the function that decodes it.

    Raises
    ------
    ImageError
        If the header cannot be read.
    """
    if isinstance(content, np.ndarray):
        return 3 * content.shape[0] * content.shape[1], partial(_pixels_to_rgb, content)
    header = read_header(content)
    decode = partial(_decode_upright if upright else _decode, content, header)
    return 3 * header.height * header.width, decode


def prepare_for_gpu(
    content: bytes | np.ndarray, *, upright: bool = False
) -> tuple[int, Callable[[], torch.Tensor | EncodedJpeg]]:
    """Like `prepare`, but return a whole, plain JPEG undecoded, for a GPU.

    A JPEG that must be rotated is decoded on the CPU.
    """
    if isinstance(content, bytes) and content.startswith(_JPEG_START):
        header = read_header(content)
        turned = upright and _orientation(content) != 1
        if header.plain and content.endswith(_JPEG_LAST) and not turned:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            encoded = EncodedJpeg(data, (header.height, header.width, 3))
            return encoded.nbytes, lambda: encoded
    return prepare(content, upright=upright)


def _pixels_to_rgb(pixels: np.ndarray) -> torch.Tensor:
    """Return an RGB tensor of grey or colour pixels, without a copy if they are RGB already."""
    image = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
    if image.ndim == 2:
        image = image.unsqueeze(-1)
    return image.expand(-1, -1, 3).contiguous()


def _decode(data: bytes, header: Header) -> torch.Tensor:
    if header.kind == "jpeg" and _torchvision_jpeg is not None:
        return _decode_jpeg(data, _torchvision_jpeg)
    if header.kind == "png":
        _check_png(data)
    try:
        with _open_with_pillow(data) as image:
            return torch.from_numpy(_to_rgb(image))
    except ImageError as error:
        if header.kind != "jpeg":
            raise
        cut = "truncated" in str(error).lower()
        reason = "Image is incomplete or truncated" if cut else str(error)  # torchvision's words
        raise ImageError(f"damaged JPEG: {reason}") from error


def _decode_upright(data: bytes, header: Header) -> torch.Tensor:
    image, orientation = _decode(data, header), _orientation(data)
    if orientation >= 5:
        image = image.transpose(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image.flip(0)
    if orientation in (2, 3, 6, 7):
        image = image.flip(1)
    return image.contiguous()


def _orientation(data: bytes) -> int:
    """Return the EXIF orientation that must still be applied, 1 to 8; 1 is upright."""
    try:
        with _open_with_pillow(data) as image:
            # Pillow rotates a TIFF itself.
            found = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # unreadable EXIF rotates nothing, in any viewer
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _decode_jpeg(data: bytes, operator: Callable[..., torch.Tensor]) -> torch.Tensor:
    # bytearray: torch warns of read-only memory, and the copy is small.
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        image = operator(encoded, _RGB_MODE, False)
    except RuntimeError as error:
        # "decode_jpeg, <file>:<line>, <reason>", then perhaps a stack trace.
        reason = re.sub(r"^.*\.cpp:\d+, ", "", first_line(error))
        raise ImageError(f"damaged JPEG: {reason}") from error
    # The (3, H, W) view has (H, W, 3) memory, so this does not copy.
    return image.permute(1, 2, 0).contiguous()


def _open_with_pillow(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(_what_else(data)) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise anything on damaged files
        raise ImageError(first_line(error)) from error


def _what_else(data: bytes) -> str:
    """Describe a file that Pillow does not recognise as an image."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "a HEIC photograph, which Pillow cannot read: convert it to JPEG"
    start = data[:64].lstrip().lower()
    for beginning, what in _NO_IMAGES.items():
        if start.startswith(beginning):
            return f"not an image but {what}"
    return f"not an image of a known format ({', '.join(PILLOW_FORMATS)})"


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Decode an image: uint8 (H, W, 3)."""
    try:
        image.load()
        if image.mode in ("I", "F") and not _is_deep(image):
            raise ImageError(f"{image.format} of 32-bit samples, whose range is not known")
        rows = max(1, _STRIP // image.width)
        if rows >= image.height:
            return _strip_to_rgb(image, _is_deep(image))
        # By strips, because Pillow converts and copies in steps, each as large as the image.
        deep, pixels = _is_deep(image), np.empty((image.height, image.width, 3), np.uint8)
        for top in range(0, image.height, rows):
            strip = image.crop((0, top, image.width, min(top + rows, image.height)))
            pixels[top : top + rows] = _strip_to_rgb(strip, deep)
        return pixels
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ImageError(first_line(error)) from error


def _is_deep(image: Image.Image) -> bool:
    """Return whether an image has 16-bit samples."""
    # Pillow scales deep grey PPM and, in older versions, PNG to 16 bits in mode I.
    deep_in_32 = image.mode == "I" and image.format in ("PNG", "PPM")
    return image.mode.startswith("I;16") or deep_in_32


def _strip_to_rgb(strip: Image.Image, deep: bool) -> np.ndarray:
    if deep:
        samples = np.asarray(strip).astype(np.uint32)
        strip = Image.fromarray((samples >> 8).astype(np.uint8))
    return np.array(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _read_jpeg_header(data: bytes) -> Header:
    """Walk the segments up to the frame header, which contains the size."""
    position, adobe = 2, False
    while 0 <= position < len(data) - 1:
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0:  # stray bytes, which decoders skip
            position = data.find(b"\xff", position + 1)
        elif marker == 0xFF:  # fill byte
            position += 1
        elif marker in _JPEG_BARE:
            position += 2
        elif marker in (_JPEG_SCAN, _JPEG_END):
            break
        elif marker in _JPEG_FRAMES and position + 9 <= len(data):
            if marker in _JPEG_PROGRESSIVE and data.count(b"\xff\xda") > _MOST_SCANS:
                raise ImageError(f"progressive JPEG of more than {_MOST_SCANS} scans")
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            plain = data[position + 4] == 8 and data[position + 9 : position + 10] == b"\x03"
            return Header("jpeg", height, width, plain and not adobe)
        else:
            adobe |= marker == _JPEG_ADOBE  # such a file may be RGB or CMYK
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ImageError("damaged JPEG: cut off or without a frame header")


def _read_png_header(data: bytes) -> Header:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ImageError("damaged PNG: cut off or without its header")
    width = int.from_bytes(data[16:20], "big")
    height = int.from_bytes(data[20:24], "big")
    return Header("png", height, width)


def _check_png(data: bytes) -> None:
    """Check the checksums of the pixel data and the end of the file, which Pillow ignores."""
    view = memoryview(data)
    position = len(_PNG_SIGNATURE)
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        name = bytes(view[position + 4 : position + 8])
        critical = not name[0] & 0x20
        if end + 4 > len(data):
            break
        if critical and zlib.crc32(view[position + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            raise ImageError(f"damaged PNG: wrong checksum in chunk {name.decode('latin-1')}")
        if name == b"IEND":
            return
        position = end + 4
    raise ImageError("damaged PNG: cut off")
