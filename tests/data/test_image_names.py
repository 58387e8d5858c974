"""Names of images behave as a sequence of strings, and are checked and sorted as such."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pydream.data import image_names, open_source
from pydream.data.image_names import ImageNames, check_utf8, in_parts, joined_names
from pydream.data.row_order import order_rows
from pydream.errors import PydreamError

WORDS = ["b/é.png", "a/2.png", "", "a/10.png", "ü/1.png", "a/2.jpg"]


@pytest.fixture(autouse=True)
def _two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_names, "_AT_ONCE", 2)


def test_names_are_a_sequence_of_strings() -> None:
    names = joined_names([WORDS[:1], [], WORDS[1:]], "set")
    assert len(names) == len(WORDS)
    assert list(names) == WORDS
    assert [names[place] for place in (0, -1, np.int64(3))] == [WORDS[0], WORDS[-1], WORDS[3]]
    for part in (slice(1, 4), slice(None, None, -2), slice(4, 2), slice(-3, 99)):
        assert names[part] == WORDS[part]
    assert [name for part in in_parts(names) for name in part] == WORDS
    assert names == WORDS
    assert names == tuple(WORDS)
    assert names == joined_names([WORDS], "set")
    assert names != WORDS[:-1]
    assert names != WORDS[::-1]
    assert names != "b"
    assert list(joined_names([], "set")) == []
    with pytest.raises(IndexError):
        _ = names[len(WORDS)]


def test_names_that_are_not_utf8_are_refused_wherever_they_are() -> None:
    odd = ["fine", "fine", "odd\udc80.png"]
    for refused in (lambda: check_utf8(odd, "set"), lambda: joined_names([odd], "set")):
        with pytest.raises(PydreamError, match=r"set: a file or class name .* near 'odd\\udc80'"):
            refused()
    offsets = np.array([0, 1, 3], "<i8").tobytes()
    broken = pa.Array.from_buffers(
        pa.large_string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"ab\xff")]
    )
    with pytest.raises(PydreamError, match="set: a path or name in the table is not valid UTF-8"):
        check_utf8(ImageNames(broken), "set")
    check_utf8(ImageNames(pa.array(WORDS, pa.large_string())), "set")


@pytest.mark.parametrize("folders", ["none", "one a class", "shared"])
def test_rows_are_sorted_by_label_then_by_name(folders: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 200)
    labels[labels == 3] = 4  # a class without images
    names = tuple(f"class {label}" for label in range(7))
    paths = [f"{number:x}.png" for number in rng.permutation(len(labels))]
    if folders == "one a class":
        paths = [f"{'gfedcba'[label]}/{path}" for label, path in zip(labels, paths, strict=True)]
    elif folders == "shared":
        paths = [f"all/{path}" for path in paths]
    keys = paths
    if folders == "none":
        keys = [f"{names[label]}/{path}" for label, path in zip(labels, paths, strict=True)]
    wanted = sorted(zip(labels.tolist(), keys, range(len(labels)), strict=True))
    found = order_rows(labels, names, pa.chunked_array([paths[:50], paths[50:]]), [("f", 200)])
    assert [*zip(found.labels.tolist(), found.keys, found.rows.tolist(), strict=True)] == wanted
    assert not found.notes


@pytest.mark.parametrize(
    ("labels", "paths", "repeats"),
    [
        ([0, 0], ["a.png", "a.png"], True),
        ([0, 1], ["a.png", "a.png"], False),  # each below the folder of its class
        ([0, 1, 1], ["x/a.png", "x/a.png", "x/b.png"], True),
        ([0, 0, 1], ["x/a.png", "x/c.png", "x/b.png"], False),
        ([0, 1, 0, 1], ["x/a", "x/b", "x/d", "x/d"], True),
    ],
)
def test_images_of_one_path_are_named_by_their_rows(
    labels: list[int], paths: list[str], repeats: bool
) -> None:
    found = order_rows(
        np.array(labels), ("cat", "dog"), pa.chunked_array([paths]), [("file", len(paths))]
    )
    assert bool(found.notes) == repeats
    if repeats:
        assert list(found.keys) == [f"file/{row:08d}" for row in found.rows]
    else:
        assert len(set(found.keys)) == len(paths)


def test_the_fingerprint_is_that_of_all_names_joined(tmp_path: Path) -> None:
    for name, size in (("a/1.png", 3), ("a/2.png", 5), ("b/1.png", 7)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    source = open_source(tmp_path)
    text = "\0".join(("a", "b", "", "a/1.png", "a/2.png", "b/1.png")) + "\n3\n5\n7"
    assert source.fingerprint() == hashlib.sha256(text.encode()).hexdigest()
    first = [hashlib.blake2b(key.encode()).digest()[:8] for key in source.keys]
    assert source.ids.tolist() == [int.from_bytes(b, "little", signed=True) for b in first]
