"""Pictures made for the tests, and their encodings by Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def make_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth colour gradient with a little noise: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 40, width)[None, :, None]
    pixels = ramp * rng.uniform(0.4, 1.0, 3) + rng.uniform(0, 15, (height, width, 3))
    return pixels.astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode_with_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def encode_png16(samples: np.ndarray, colour_type: int) -> bytes:
    """PNG of 16-bit samples (H, W, C), which Pillow cannot write for colour."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2").reshape(height, -1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(body))
        + png_chunk(b"IEND", b"")
    )


def write_class_folders(root: Path, classes: dict[str, int], kind: str = "PNG") -> dict[str, bytes]:
    """Write so many images per class; return the content of each file by its path from root."""
    written = {}
    for name, count in classes.items():
        for number in range(count):
            key = f"{name}/{number:03d}.{kind.lower()}"
            path = root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(make_pixels(9 + number, 7, seed=hash_of(key)), kind))
            written[key] = path.read_bytes()
    return written


def write_noise(root: Path, sizes: dict[str, list[tuple[int, int]]], split: str = "train") -> Path:
    """Write PNGs of noise in a split, of so many sizes (height, width) per class; return root."""
    drawn = np.random.default_rng(3)
    for name, shapes in sizes.items():
        folder = root / split / name
        folder.mkdir(parents=True)
        for number, (height, width) in enumerate(shapes):
            pixels = drawn.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def hash_of(text: str) -> int:
    return zlib.crc32(text.encode())
