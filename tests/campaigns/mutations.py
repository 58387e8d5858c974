"""Mutations of files: small damages of many kinds, the same for the same seed."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Blocks = Callable[[bytes], list[bytes]]
"""Function that divides a file into its parts, as chunks, such that they can be joined again."""

_SIZES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_HEAD = 128  # bytes in which most formats keep their sizes


def extremes(size: int) -> list[int]:
    """Return the numbers of so many bytes at which arithmetic tends to fail."""
    top = 1 << (8 * size)
    return [0, 1, 2, 0x7F, 0xFF % top, top // 2 - 1, top // 2, top - 2, top - 1]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 9)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace a range by noise."""
    start, end = _range(data, rng)
    return data[:start] + rng.bytes(end - start) + data[end:]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Leave out the end."""
    return data[: rng.integers(len(data))]


def shortened(data: bytes, rng: np.random.Generator) -> bytes:
    """Leave out a range."""
    start, end = _range(data, rng)
    return data[:start] + data[end:]


def lengthened(data: bytes, rng: np.random.Generator) -> bytes:
    """Put in zeros or noise."""
    start, end = _range(data, rng)
    size = end - start
    return data[:start] + (bytes(size) if rng.integers(2) else rng.bytes(size)) + data[start:]


def repeated(data: bytes, rng: np.random.Generator) -> bytes:
    """Repeat a range."""
    start, end = _range(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 5)) + data[end:]


def extreme(data: bytes, rng: np.random.Generator) -> bytes:
    """Set a number to an extreme value, rather near the start."""
    changed = bytearray(data)
    size = int(rng.choice([*_SIZES]))
    last = max(1, len(data) - size + 1)
    place = int(rng.integers(min(last, _HEAD) if rng.integers(2) else last))
    order = "<>"[rng.integers(2)]
    value = struct.pack(order + _SIZES[size], int(rng.choice(np.array(extremes(size), "u8"))))
    changed[place : place + size] = value
    return bytes(changed)


_ANYWHERE: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(flipped, noise, cut, shortened, lengthened, repeated, extreme, extreme),
)
_OF_BLOCKS = ("block repeated", "blocks swapped", "block left out", "block changed")


def mutate(
    data: bytes, rng: np.random.Generator, other: bytes, blocks: Blocks | None = None
) -> tuple[str, bytes]:
    """Change a file in one way, or two; return the names of the changes, and the changed file.

    Parameters
    ----------
    data
        The file.
    rng
        Generator of all that is drawn.
    other
        A file that parts are taken from.
    blocks
        Function that divides the file into its parts.
    """
    names = []
    for _ in range(1 + int(rng.integers(4) == 0)):
        if not data:
            break
        kinds = [*_ANYWHERE, "spliced", *(_OF_BLOCKS if blocks else ())]
        kind = kinds[rng.integers(len(kinds))]
        if callable(kind):
            data = kind(data, rng)
        elif kind == "spliced":
            data = data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]
        else:
            assert blocks is not None
            data = b"".join(_with_blocks(blocks(data), kind, rng))
        names.append(kind.__name__ if callable(kind) else kind)
    return " and ".join(names), data


def _range(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + int(2 ** rng.uniform(0, 8)))


def _with_blocks(parts: list[bytes], kind: str, rng: np.random.Generator) -> list[bytes]:
    one, other = sorted(map(int, rng.integers(len(parts), size=2)))
    if kind == "block repeated":
        return parts[:one] + [parts[one]] * int(rng.integers(2, 5)) + parts[one + 1 :]
    if kind == "block left out":
        return parts[:one] + parts[one + 1 :]
    if kind == "block changed" and parts[one]:
        parts[one] = _mended((extreme, flipped)[rng.integers(2)](parts[one], rng))
    else:
        parts[one], parts[other] = parts[other], parts[one]
    return parts


def _mended(part: bytes) -> bytes:
    """Give a chunk of a PNG its checksum again, so that a decoder reads the changed content."""
    if re.match(rb"....[A-Za-z]{4}", part, re.DOTALL) and len(part) >= 12:
        return part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4]))
    return part


def png_chunks(data: bytes) -> list[bytes]:
    """Divide a PNG into its signature and its chunks."""
    parts, place = [data[:8]], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        parts.append(data[place:end])
        place = end
    return parts


def jpeg_segments(data: bytes) -> list[bytes]:
    """Divide a JPEG before each marker."""
    return re.split(rb"(?=\xff[\xc0-\xfe])", data)


def riff_chunks(data: bytes) -> list[bytes]:
    """Divide a WebP into its header and its chunks."""
    parts, place = [data[:12]], 12
    while place < len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        parts.append(data[place:end])
        place = end
    return parts


def pieces(size: int) -> Blocks:
    """Return the function that divides a file into parts of so many bytes."""
    return lambda data: [data[start : start + size] for start in range(0, len(data), size)]


def lines(data: bytes) -> list[bytes]:
    """Divide a text into its lines."""
    return data.splitlines(keepends=True) or [data]


_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "0",
        "\x00",
        "\ud800",
        "\x1b[2J",
        "é" * 300,
        "../..",
        "/",
    ),
    *([], [0], [None], ["x"] * 3, {}, {"x": 1}, [[[[]]]], {"": {"": []}}),
)


def mutate_json(text: str, rng: np.random.Generator) -> tuple[str, bytes]:
    """Change one to three values in a JSON text: by type, extreme, left out, repeated, renamed."""
    content = json.loads(text)
    names = []
    for _ in range(int(rng.integers(1, 4))):
        holders = [*_holders(content)]
        if not holders:
            break
        holder, key = holders[rng.integers(len(holders))]
        kind = ("set", "set", "left out", "repeated", "changed")[rng.integers(5)]
        names.append(f"{key} {kind}")
        if kind == "set":
            holder[key] = _VALUES[rng.integers(len(_VALUES))]
        elif kind == "left out":
            del holder[key]
        elif kind == "repeated":
            if isinstance(holder, list):
                holder.insert(key, holder[key])
            else:
                holder[f"{key}x"] = holder[key]
        else:
            holder[key] = _changed(holder[key], rng)
    if rng.integers(40) == 0:
        names.append("replaced")
        content = _VALUES[rng.integers(len(_VALUES))]
    changed = json.dumps(content).encode("utf-8", "surrogatepass")
    return ", ".join(names), changed


def _holders(content: Any) -> list[tuple[Any, Any]]:
    """Return every entry of a JSON value: what holds it, and its key or place there."""
    found: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        part = waiting.pop()
        keys: Sequence[Any] = [*part] if isinstance(part, dict) else range(len(part))
        found += [(part, key) for key in keys]
        waiting += [part[key] for key in keys if isinstance(part[key], (dict, list))]
    return found


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """Return a value of the same type, or of one that looks like it."""
    if isinstance(value, str):
        return (value[:-1], value + "x", value.upper(), f"{value}\n{value}")[rng.integers(4)]
    if isinstance(value, (int, float)):
        half = value / 2 if abs(value) < 1e300 else value // 2
        return (-value, value + 1, half, str(value), [value])[rng.integers(5)]
    return value[1:] if isinstance(value, list) else [value]
