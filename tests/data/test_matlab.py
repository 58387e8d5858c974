"""Arrays of structs in files of MATLAB, as SciPy writes and reads them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.io

from pydream.data.matlab import read_structs

KINDS = [("id", "f8"), ("word", "O"), ("more", "O")]
WORDS = ["n02119789", "", "größe", "a", "abcd", "日本"]
MOST = 1 << 20


def written(rows: list[tuple[Any, ...]], *, compressed: bool = False, kind: str = "f8") -> bytes:
    stream = io.BytesIO()
    kinds = [("id", kind), *KINDS[1:]]
    structs = np.array(rows, dtype=kinds)[:, None]
    before = {"version": np.arange(12.0).reshape(3, 4), "name": "x"}
    scipy.io.savemat(stream, {**before, "s": structs}, do_compression=compressed)
    return stream.getvalue()


def rows(count: int) -> list[tuple[Any, ...]]:
    more = (np.zeros(0), "several words", np.arange(3), np.array([["a", "b"]], "O"))
    return [(n, WORDS[n % len(WORDS)], more[n % len(more)]) for n in range(count)]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "u1", "i2", "u2", "i4", "u8"])
@pytest.mark.parametrize("count", [1, 2, 61])
def test_structs_are_those_that_scipy_reads(compressed: bool, kind: str, count: int) -> None:
    content = written(rows(count), compressed=compressed, kind=kind)
    theirs = scipy.io.loadmat(io.BytesIO(content))["s"].ravel()
    ours = read_structs(content, "s", ("id", "word"), MOST)
    assert len(ours) == count
    for own, other in zip(ours, theirs, strict=True):
        assert own["id"] == other["id"].item()
        assert (own["word"] or "") == "".join(other["word"].tolist())


def test_big_endian_files() -> None:
    """Of the smallest array, written by hand from the description of the format."""

    def element(kind: int, data: bytes) -> bytes:
        return np.array([kind, len(data)], ">u4").tobytes() + data + bytes(-len(data) % 8)

    def matrix(kind: int, shape: tuple[int, int], name: bytes, *content: bytes) -> bytes:
        flags = element(6, np.array([kind, 0], ">u4").tobytes())
        sizes = element(5, np.array(shape, ">i4").tobytes())
        return element(14, flags + sizes + element(1, name) + b"".join(content))

    small = np.array([4 << 16 | 5, 3], ">u4").tobytes()  # one number within the tag
    fields = small[:4] + np.array([3], ">i4").tobytes() + element(1, b"id\0w\0\0")
    number = matrix(6, (1, 1), b"", element(9, np.array([7.0], ">f8").tobytes()))
    text = matrix(4, (1, 2), b"", element(17, "hé".encode("utf-16-be")))
    content = bytes(124) + b"\1\0MI" + matrix(2, (1, 1), b"s", fields, number, text)
    assert read_structs(content, "s", ("w", "id"), MOST) == [{"id": 7.0, "w": "hé"}]


def test_what_is_not_there_is_refused() -> None:
    content = written(rows(3))
    for name, fields in (("t", ("id",)), ("s", ("id", "other")), ("version", ("id",))):
        with pytest.raises(ValueError, match=r"it has no structs|it lacks"):
            read_structs(content, name, fields, MOST)
    with pytest.raises(ValueError, match="no file of MATLAB"):
        read_structs(b"\x89HDF" + bytes(200), "s", ("id",), MOST)
    with pytest.raises(ValueError, match="too large when decompressed"):
        read_structs(written(rows(61), compressed=True), "s", ("id",), 100)


def test_every_damaged_byte_is_answered_or_refused() -> None:
    """SciPy crashes on some of these files."""
    content = written(rows(5), kind="u2")
    refused = 0
    for place in range(128, len(content)):
        for value in (0, 1, 0x7F, 0xFF):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            try:
                found = read_structs(damaged, "s", ("id", "word"), MOST)
            except ValueError:
                refused += 1
            else:
                assert len(found) <= 5
    assert refused
