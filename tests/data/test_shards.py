"""Shards as WebDataset has them, beside the same images in class folders."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from pydream.data import has_split, open_source
from pydream.errors import ImageError, MissingSplitError, PydreamError

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pydream"


def png(number: int) -> bytes:
    """Return an image whose pixels are its number."""
    stream = io.BytesIO()
    Image.fromarray(np.full((3, 4, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int) -> list[tuple[int, str, bytes]]:
    """Return label, key and content of shuffled images; every class has one at least."""
    order = np.random.default_rng(0).permutation(count)
    return [(int(n) % len(CLASSES), f"{n:03d}", png(int(n))) for n in order]


def write(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def shard(file: Path, given: Sequence[tuple[int, str, bytes]]) -> Path:
    members = []
    for label, key, content in given:
        members += [(f"{key}.cls", str(label).encode()), (f"{key}.png", content)]
    return write(file, members)


def name_classes(root: Path) -> None:
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def pixels(source: Any) -> list[int]:
    return [int(source.image(index)[0, 0, 0]) for index in range(len(source))]


@pytest.mark.parametrize("spec", ["set", "set/data-{000..001}.tar"])
def test_it_is_the_same_source_as_the_class_folders(tmp_path: Path, spec: str) -> None:
    given = rows(25)
    shard(tmp_path / "set/data-000.tar", given[:11])
    shard(tmp_path / "set/data-001.tar", given[11:])
    name_classes(tmp_path / "set")
    for label, key, content in given:
        place = tmp_path / "photos" / CLASSES[label] / f"{key}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    found, folder = open_source(f"{tmp_path}/{spec}"), open_source(tmp_path / "photos")
    assert found.class_names == folder.class_names
    assert list(found.keys) == list(folder.keys)
    assert found.labels.tolist() == folder.labels.tolist()
    assert pixels(found) == pixels(folder)


@pytest.mark.parametrize(
    ("train", "test"),
    [("imagenet-train-000.tar", "imagenet-val-000.tar"), ("train/000.tar", "test/000.tar")],
)
def test_splits_are_named_by_shards_or_folders(tmp_path: Path, train: str, test: str) -> None:
    shard(tmp_path / "set" / train, rows(9))
    shard(tmp_path / "set" / test, rows(6))
    assert has_split(tmp_path / "set", "test")
    assert len(open_source(tmp_path / "set")) == 9
    assert len(open_source(tmp_path / "set", "test")) == 6
    alone = tmp_path / "set" / train
    assert not has_split(alone, "test")
    with pytest.raises(MissingSplitError, match="no test split, only train"):
        open_source(alone, "test")


def test_words_in_json_and_several_files_of_a_sample(tmp_path: Path) -> None:
    members = []
    for label, key, content in rows(9):
        facts = {"label": CLASSES[label], "size": 3}
        members += [
            (f"./deep/{key}.seg.png", png(250)),
            (f"./deep/{key}.png", content),
            (f"./deep/{key}.json", json.dumps(facts).encode()),
            (f"./deep/{key}.txt", b"a caption"),
        ]
    source = open_source(write(tmp_path / "a.tar", members))
    assert source.class_names == CLASSES
    assert source.keys[0] == "deep/000.png"
    assert pixels(source) == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert len(source) == 9


def test_numbers_without_names_are_sorted_by_value(tmp_path: Path) -> None:
    given = [([30, 4, 100][label], key, content) for label, key, content in rows(9)]
    source = open_source(shard(tmp_path / "a.tar", given))
    assert source.class_names == ("4", "30", "100")
    assert pixels(source) == [n for start in (1, 0, 2) for n in range(start, 9, 3)]


def test_images_without_a_label_are_left_out(tmp_path: Path) -> None:
    members = [("a.cls", b"0"), ("a.png", png(1)), ("b.png", png(2)), ("c.cls", b"1")]
    assert open_source(write(tmp_path / "a.tar", members)).keys[0] == "0/a.png"
    assert len(open_source(tmp_path / "a.tar")) == 1


@pytest.mark.parametrize(
    ("label", "error"),
    [("3", "row 5 has the label 3"), ("wolf", "classes have names, and a label is no number")],
)
def test_a_label_that_no_class_has(tmp_path: Path, label: str, error: str) -> None:
    given: list[Any] = rows(9)
    given[5] = (label, *given[5][1:])
    shard(tmp_path / "set/a.tar", given)
    name_classes(tmp_path / "set")
    with pytest.raises(PydreamError, match=error):
        open_source(tmp_path / "set")


def test_missing_shards_of_a_pattern_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "a-0.tar", rows(9))
    with pytest.raises(PydreamError, match=r"2 of 3 shards are missing, first .*a-1\.tar"):
        open_source(f"{tmp_path}/a-{{0..2}}.tar")


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path, cache_home: Path) -> None:
    file = shard(tmp_path / "a.tar", rows(9))
    file.write_bytes(file.read_bytes()[:6000])
    with pytest.raises(PydreamError, match=r"a\.tar: not a readable tar archive"):
        open_source(file)
    assert list(cache_home.iterdir()) == []


def test_the_index_is_kept_until_a_shard_changes(
    tmp_path: Path, cache_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shard(tmp_path / "50%a.tar", rows(9))
    source = open_source(file)
    assert "indexing it once, to" in capsys.readouterr().err
    assert open_source(file).fingerprint() == source.fingerprint()
    assert "indexing" not in capsys.readouterr().err
    shard(file, rows(12))
    assert len(open_source(file)) == 12
    assert len(list(cache_home.iterdir())) == 2
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(ImageError, match="ends before the file does"):
        source.read(8)


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as target:
        for label, key, content in rows(9):
            target.write({"__key__": key, "png": content, "cls": label})
    source = open_source(tmp_path / "a.tar")
    assert source.class_names == ("0", "1", "2")
    assert sorted(pixels(source)) == list(range(9))


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_damaged_index_is_made_again(
    tmp_path: Path, cache_home: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    shards = shard(tmp_path / "a.tar", rows(9))
    wanted = open_source(shards)
    (index,) = cache_home.iterdir()
    whole = index.read_bytes()
    index.write_bytes(whole[:100] + b"?" + whole[101:] if content is None else content)
    assert open_source(shards).fingerprint() == wanted.fingerprint()
    assert f"{index}: is damaged, and made again" in capsys.readouterr().err
    assert index.read_bytes() == whole


def test_an_index_that_cannot_be_read_is_named(
    tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path) -> NoReturn:
        raise OSError(5, "Input/output error")

    shards = shard(tmp_path / "a.tar", rows(9))
    open_source(shards)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(PydreamError, match=r"\.index cannot be read: Input/output error; rem"):
        open_source(shards)
