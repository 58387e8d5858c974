"""Parquet files of images, written by pyarrow and by `datasets`, beside the same class folders."""

from __future__ import annotations

import io
import json
import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pydream.data import has_split, open_source, parquet_images
from pydream.data.parquet_access import read_columns
from pydream.errors import ImageError, MissingSplitError, PydreamError

CLASSES = ("ant", "bee", "cat")


def png(number: int) -> bytes:
    """Return an image whose pixels are its number."""
    stream = io.BytesIO()
    Image.fromarray(np.full((3, 4, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int, seed: int = 0) -> list[tuple[int, str, bytes]]:
    """Return label, name and content of shuffled images; every class has one at least."""
    order = np.random.default_rng(seed).permutation(count)
    return [(int(n) % len(CLASSES), f"{n:03d}.png", png(int(n))) for n in order]


def features(label: dict[str, Any] | None = None) -> dict[bytes, bytes]:
    label = {"names": list(CLASSES), "_type": "ClassLabel"} if label is None else label
    described = {"image": {"_type": "Image"}, "label": label}
    return {b"huggingface": json.dumps({"info": {"features": described}}).encode()}


def write(
    file: Path,
    given: Sequence[tuple[int | None, str | None, bytes | None]],
    *,
    metadata: dict[bytes, bytes] | None = None,
    group: int = 4,
) -> Path:
    """Write a file as the Hub has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": content, "path": name} for _, name, content in given]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array(images, kind),
            "label": pa.array([label for label, _, _ in given], pa.int64()),
        }
    ).replace_schema_metadata(features() if metadata is None else metadata)
    pq.write_table(table, file, row_group_size=group)
    return file


def folders(root: Path, given: Sequence[tuple[int, str, bytes]]) -> Path:
    for label, name, content in given:
        place = root / CLASSES[label] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return root


def pixels(source: Any) -> list[int]:
    return [int(source.image(index)[0, 0, 0]) for index in range(len(source))]


def test_it_is_the_same_source_as_the_class_folders(tmp_path: Path) -> None:
    given = rows(25)
    write(tmp_path / "set/data/train-00000-of-00002.parquet", given[:11])
    write(tmp_path / "set/data/train-00001-of-00002.parquet", given[11:])
    found = open_source(tmp_path / "set")
    folder = open_source(folders(tmp_path / "photos", given))
    assert found.class_names == folder.class_names
    assert list(found.keys) == list(folder.keys)
    assert found.keys[3:5] == list(folder.keys[3:5])
    assert found.labels.tolist() == folder.labels.tolist()
    assert found.ids.tolist() == folder.ids.tolist()
    assert pixels(found) == pixels(folder)
    assert torch.equal(found.image(7), folder.image(7))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("default/train/0000.parquet", "default/val/0000.parquet"),
        ("TRAIN.parquet", "Test.parquet"),
    ],
)
def test_splits_are_named_by_files_or_folders(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path / train, rows(9))
    write(tmp_path / test, rows(6, seed=1))
    assert has_split(tmp_path, "train")
    assert has_split(tmp_path, "test")
    assert len(open_source(tmp_path)) == 9
    assert len(open_source(tmp_path, "test")) == 6


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(9))
    write(tmp_path / "test.parquet", [(-1, name, content) for _, name, content in rows(6)])
    with pytest.raises(MissingSplitError, match="no test split: the images of test have no labels"):
        open_source(tmp_path, "test")
    assert not has_split(tmp_path, "test")
    write(tmp_path / "validation.parquet", rows(3))
    source = open_source(tmp_path, "test")
    assert len(source) == 3
    assert source.notes == ("validation is the test split",)


def test_files_without_the_name_of_a_split_are_all_train(tmp_path: Path) -> None:
    write(tmp_path / "part-0.parquet", rows(9)[:4])
    write(tmp_path / "part-1.parquet", rows(9)[4:])
    assert len(open_source(tmp_path)) == 9
    assert len(open_source(tmp_path / "part-0.parquet")) == 4
    with pytest.raises(MissingSplitError):
        open_source(tmp_path, "test")


def test_a_folder_may_be_named_like_a_file(tmp_path: Path) -> None:
    """As Spark writes a table: a folder of parts."""
    table, photos = tmp_path / "set.parquet", tmp_path / "photos.parquet"
    write(table / "part-0.parquet", rows(9)[:4])
    write(table / "part-1.parquet", rows(9)[4:])
    (table / "_SUCCESS").touch()
    assert len(open_source(table)) == 9
    assert not has_split(table, "test")
    assert pixels(open_source(folders(photos, rows(9)))) == pixels(open_source(table))


def test_files_of_no_split_beside_splits_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(9))
    write(tmp_path / "extra.parquet", rows(9))
    assert open_source(tmp_path).ignored_kinds == {".parquet of no split": 1}


def test_words_and_numbers_without_names(tmp_path: Path) -> None:
    given = rows(9)
    for labels, names in (
        (["wolf" if label else "ape" for label, _, _ in given], ("ape", "wolf")),
        ([[30, 4, 100][label] for label, _, _ in given], ("4", "30", "100")),
    ):
        table = pa.table({"img": [content for _, _, content in given], "species": labels})
        pq.write_table(table, tmp_path / "a.parquet")
        source = open_source(tmp_path / "a.parquet")
        assert source.class_names == names
        assert source.keys[0].startswith("a/0000000")
        wanted = [names.index(str(label)) for label in labels]
        shown = {
            int(key[-8:]): int(label) for key, label in zip(source.keys, source.labels, strict=True)
        }
        assert [shown[row] for row in range(9)] == wanted


def test_the_test_split_has_the_classes_of_train(tmp_path: Path) -> None:
    given = rows(9)
    for name, labels in (("train", ["b", "a", "c"] * 3), ("test", ["c"] * 9)):
        table = pa.table({"image": [content for _, _, content in given], "label": labels})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    test = open_source(tmp_path, "test")
    assert test.class_names == ("a", "b", "c")
    assert test.labels.tolist() == [2] * 9


def test_columns_can_be_named(tmp_path: Path) -> None:
    given = rows(9)
    described = {
        "img": {"_type": "Image"},
        "fine_label": {"_type": "ClassLabel", "names": ["x", "y", "z"]},
        "coarse_label": {"_type": "ClassLabel", "names": ["v", "w"]},
    }
    table = pa.table(
        {
            "img": [content for _, _, content in given],
            "thumbnail": [content for _, _, content in given],
            "fine_label": [label for label, _, _ in given],
            "coarse_label": [label % 2 for label, _, _ in given],
        }
    ).replace_schema_metadata(
        {b"huggingface": json.dumps({"info": {"features": described}}).encode()}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(
        PydreamError, match=r"which column are the labels\? Name it as .*:label=COL"
    ):
        open_source(tmp_path / "a.parquet")
    spec = f"{tmp_path / 'a.parquet'}:label=fine_label"
    assert open_source(spec).class_names == ("x", "y", "z")
    assert open_source(spec).description == spec
    both = open_source(f"{tmp_path}:label=coarse_label,image=thumbnail")
    assert both.class_names == ("v", "w")
    assert sorted(pixels(both)) == list(range(9))
    with pytest.raises(PydreamError, match="no column 'breed' for label; it has img, thumbnail"):
        open_source(f"{tmp_path}:label=breed")
    with pytest.raises(PydreamError, match="holds int64 and no encoded images"):
        open_source(f"{tmp_path}:image=fine_label,label=coarse_label")


def test_columns_of_another_source_are_refused(tmp_path: Path) -> None:
    folders(tmp_path / "photos", rows(9))
    with pytest.raises(PydreamError, match="only sources of parquet files have columns"):
        open_source(f"{tmp_path}/photos:label=breed")


def test_tables_without_images_do_not_hide_class_folders(tmp_path: Path) -> None:
    folders(tmp_path, rows(9))
    pq.write_table(pa.table({"file_name": ["0.png"], "label": [0]}), tmp_path / "metadata.parquet")
    source = open_source(tmp_path)
    assert source.class_names == CLASSES
    assert source.ignored_kinds == {".parquet": 1}


def test_equal_paths_are_told_apart_by_their_rows(tmp_path: Path) -> None:
    given = [(label, "same.png", content) for label, _, content in rows(9)]
    source = open_source(write(tmp_path / "train.parquet", given))
    assert len(set(source.keys)) == 9
    assert source.notes == ("two images have one path: images are named by file and row instead",)


def test_files_of_one_name_in_two_folders_of_a_split_are_told_apart(tmp_path: Path) -> None:
    given = [(label, None, content) for label, _, content in rows(12)]
    for folder, some in (("train", given[:7]), ("training", given[7:])):
        write(tmp_path / folder / "0000.parquet", some)
    source = open_source(tmp_path)
    assert len(set(source.keys)) == len(set(source.ids.tolist())) == 12
    assert {key.rpartition("/")[0] for key in source.keys} == {"train/0000", "training/0000"}
    assert sorted(pixels(source)) == [*range(12)]


@pytest.mark.parametrize(
    ("label", "error"),
    [
        (None, "row 5 has no label in column 'label'"),
        (3, "row 5 has the label 3 in column 'label', and there are 3 classes, 'ant' to 'cat'"),
        (-1, "row 5 has the label -1"),
    ],
)
def test_a_wrong_label_is_named_with_its_row(tmp_path: Path, label: int | None, error: str) -> None:
    given: list[Any] = rows(9)
    given[5] = (label, *given[5][1:])
    with pytest.raises(PydreamError, match=error):
        open_source(write(tmp_path / "train.parquet", given))


def test_a_row_without_an_image_cannot_be_read(tmp_path: Path) -> None:
    given: list[Any] = rows(9)
    missing = given[5][1]
    given[5] = (*given[5][:2], None)
    source = open_source(write(tmp_path / "train.parquet", given))
    place = next(row for row, key in enumerate(source.keys) if key.endswith(missing))
    with pytest.raises(ImageError, match="the row has no image"):
        source.read(place)
    assert len({source.read(row) for row in range(9) if row != place}) == 8


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "train.parquet", rows(9))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(PydreamError, match=r"train.parquet: not a readable parquet file.*again"):
        open_source(file)


def test_a_file_without_the_column_of_the_others_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", rows(9))
    table = pa.table({"image": [b"x"], "class": [0]})
    pq.write_table(table, tmp_path / "train-1.parquet")
    with pytest.raises(PydreamError, match=r"train-1\.parquet: there is no column 'label', which"):
        open_source(tmp_path)


def test_several_sets_in_a_folder_are_named(tmp_path: Path) -> None:
    write(tmp_path / "large/train/0.parquet", rows(9))
    write(tmp_path / "small/train/0.parquet", rows(9))
    with pytest.raises(PydreamError, match=r"several sets of parquet files.*large or .*small"):
        open_source(tmp_path)


def test_the_fingerprint_depends_on_names_labels_and_contents(tmp_path: Path) -> None:
    given = rows(9)
    first = open_source(write(tmp_path / "a/train.parquet", given)).fingerprint()
    again = open_source(write(tmp_path / "b/train.parquet", given)).fingerprint()
    assert first == again
    other = [*given[:8], (given[8][0], given[8][1], png(200) + b"more")]
    assert open_source(write(tmp_path / "c/train.parquet", other)).fingerprint() != first
    other = [*given[:8], ((given[8][0] + 1) % 3, *given[8][1:])]
    source = open_source(write(tmp_path / "d/train.parquet", other))
    assert source.fingerprint() != first
    assert source.fingerprint([0, 1]) != source.fingerprint([0, 2])


@pytest.mark.parametrize("held", [1, 10_000])
def test_few_groups_in_memory_give_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """Groups that are dropped and read again, by several threads at once."""
    monkeypatch.setattr(parquet_images, "_HELD_BYTES", held)
    monkeypatch.setattr(parquet_images, "_MOST_READINGS", 1e9)
    source = open_source(write(tmp_path / "train.parquet", rows(40), group=3))
    wanted = [int(key[-7:-4]) for key in source.keys]
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(pixels(source))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4


def test_shuffled_rows_that_fill_no_memory_are_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet_images, "_HELD_BYTES", 1)
    given: list[Any] = rows(40)
    missing = given[5][1]
    given[5] = (*given[5][:2], None)
    file = write(tmp_path / "train.parquet", given, group=3)
    source = open_source(file)
    place = next(row for row, key in enumerate(source.keys) if key.endswith(missing))
    others = [row for row in range(40) if row != place]
    contents = {f"{name}": content for _, name, content in given}
    assert [source.read(row) for row in others] == [
        contents[source.keys[row].split("/")[1]] for row in others
    ]
    with pytest.raises(ImageError, match="the row has no image"):
        source.read(place)
    assert "unpacking it once, to" in capsys.readouterr().err
    assert len(list((tmp_path / "cache/pydream").glob("train.parquet-*.images"))) == 1
    assert open_source(file).read(others[0]) == source.read(others[0])
    assert "unpacking" not in capsys.readouterr().err


def test_each_column_of_a_file_is_unpacked_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for two sources that end in the same name, and columns that no file can be named by."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet_images, "_HELD_BYTES", 1)
    columns = {"left/eye": 0, "right/eye": 100}
    table = pa.table(
        {name: [png(first + n) for n in range(12)] for name, first in columns.items()}
        | {"label": [n % 2 for n in range(12)]}
    )
    pq.write_table(table, tmp_path / "pairs.parquet", row_group_size=2)
    (tmp_path / "list.txt").write_text("0\n1\n")
    for name, first in columns.items():
        spec = f"{tmp_path}/pairs.parquet:image={name},label=label,classes={tmp_path}/list.txt"
        assert pixels(open_source(spec)) == [
            first + n for n in [*range(0, 12, 2), *range(1, 12, 2)]
        ]
    assert len(list((tmp_path / "cache/pydream").glob("list.txt-*.images"))) == 2


def test_rows_in_the_order_of_the_classes_are_read_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet_images, "_HELD_BYTES", 1)
    source = open_source(write(tmp_path / "train.parquet", sorted(rows(40)), group=3))
    assert pixels(source) == [int(key[-7:-4]) for key in source.keys]
    assert not (tmp_path / "cache").exists()


def test_a_set_of_the_library_is_the_same_source(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    given = rows(25)
    folder = open_source(folders(tmp_path / "photos", given))
    kinds = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    whole = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": content, "path": name} for _, name, content in given],
            "label": [label for label, _, _ in given],
        },
        features=kinds,
    )
    for spec in (whole, whole.shuffle(seed=1), whole.to_iterable_dataset()):
        if isinstance(spec, datasets.IterableDataset):
            with pytest.raises(PydreamError, match="has no random access: load the data set with"):
                open_source(spec)
            continue
        source = open_source(spec)
        assert source.class_names == folder.class_names
        assert list(source.keys) == list(folder.keys)
        assert pixels(source) == pixels(folder)
        assert not has_split(spec, "test")
    assert open_source(whole).fingerprint() == open_source(whole.shuffle(seed=1)).fingerprint()
    parts = datasets.DatasetDict({"train": whole, "validation": whole.select(range(5))})
    assert len(open_source(parts, "test")) == 5
    with pytest.raises(MissingSplitError, match="no test split, only train"):
        open_source(datasets.DatasetDict({"train": whole}), "test")
    whole.to_parquet(tmp_path / "hub/train.parquet")
    written = open_source(tmp_path / "hub")
    assert list(written.keys) == list(folder.keys)
    assert pixels(written) == pixels(folder)


def struct_of(images: pa.Array, paths: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([images, paths], ["bytes", "path"])


def test_texts_and_names_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    paths = pa.array([b"\xff.png", b"1.png"]).view(pa.string())
    table = pa.table({"image": struct_of(pa.array([png(0), png(1)]), paths), "label": [0, 1]})
    pq.write_table(table, file)
    with pytest.raises(PydreamError, match=r"train\.parquet: cannot be read: .*Invalid UTF8"):
        open_source(file)
    pq.write_table(table, file, store_schema=False)
    file.write_bytes(file.read_bytes().replace(b"label", b"\xffabel"))
    with pytest.raises(PydreamError, match=r"train\.parquet: not a readable parquet file: 'utf-8'"):
        open_source(file)


def test_a_footer_with_more_rows_than_there_are_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "train.parquet", rows(9), group=9)
    data = file.read_bytes()
    place = data.rindex(b"\x16\x12")  # 9 in Thrift: rows of the group, behind those of the columns
    file.write_bytes(data[:place] + b"\x16\x14" + data[place + 2 :])
    assert pq.read_metadata(file).row_group(0).num_rows == 10
    with pytest.raises(PydreamError, match="has 9 rows where its footer says 10"):
        open_source(file)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([b"x"], [0], r"1\.parquet: column 'image' holds binary, unlike in other files of "),
        ([{"bytes": b"x"}], [0], r"1\.parquet: column 'image' holds struct<bytes: binary>, unlike"),
        (["x"], [0], r"1\.parquet: column 'image' holds string, unlike"),
        ([{"bytes": b"x", "path": "x"}], ["ant"], "files hold int64 and string in the same column"),
        ([{"bytes": b"x", "path": 5}], [0], "files hold string and int64 in the same column"),
    ],
    ids=str,
)
def test_a_file_unlike_the_others_is_refused(
    tmp_path: Path, images: list[Any], labels: list[Any], message: str
) -> None:
    write(tmp_path / "train-0.parquet", rows(9), metadata={})
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "train-1.parquet")
    with pytest.raises(PydreamError, match=message):
        open_source(tmp_path)


def test_odd_schemas_and_labels_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    names = {"names": ["ant", "\ud800"], "_type": "ClassLabel"}
    write(file, rows(9), metadata=features(names))
    with pytest.raises(PydreamError, match="names of classes that are no Unicode"):
        open_source(file)
    write(file, rows(9), metadata={b"huggingface": b"[" * 100_000})
    assert open_source(file).class_names == ("0", "1", "2")
    table = pa.table({"image": [png(0)], "label": [[0]]}).replace_schema_metadata(features())
    pq.write_table(table, file)
    with pytest.raises(PydreamError, match=r"column 'label' holds list<.*>, and a label is"):
        open_source(file)
    labels = pa.array([2**64 - 1, 0], pa.uint64())
    pq.write_table(pa.table({"image": [png(0), png(1)], "label": labels}), file)
    assert open_source(file).class_names == ("0", str(2**64 - 1))


def test_an_error_of_any_kind_reaches_every_reader_of_a_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    source = open_source(write(tmp_path / "train.parquet", rows(9)))
    monkeypatch.setattr(parquet_images, "read_columns", fail)
    found: list[str] = []

    def read() -> None:
        with pytest.raises(MemoryError):
            source.read(0)
        found.append("read")

    readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
        reader.join(timeout=30)
    assert found == ["read"] * 2


def test_a_reading_that_was_stopped_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise MemoryError  # or Ctrl-C

    source = open_source(write(tmp_path / "train.parquet", rows(9)))
    with monkeypatch.context() as stopped:
        stopped.setattr(parquet_images, "read_columns", stop)
        with pytest.raises(MemoryError):
            source.read(0)
    assert sorted(pixels(source)) == [*range(9)]


@pytest.mark.parametrize("in_struct", [True, False])
def test_a_row_group_may_hold_more_than_one_piece_of_a_column_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_struct: bool
) -> None:
    """In every second row lies 1 GiB of memory that is never touched."""
    given = [(label, None, content) for label, _, content in rows(6)]
    contents = [content for *_, content in given]
    file = write(tmp_path / "train.parquet", given, group=6)
    if not in_struct:
        pq.write_table(pa.table({"image": contents, "label": [row[0] for row in given]}), file)
    pieces = []
    for content in contents[::2]:
        memory = mmap.mmap(-1, 1 << 30)
        memory[: len(content)] = content
        ends = pa.py_buffer(np.array([0, len(content), 1 << 30], np.int32).tobytes())
        piece = pa.Array.from_buffers(pa.binary(), 2, [None, ends, pa.py_buffer(memory)])
        pieces.append(pa.StructArray.from_arrays([piece], ["bytes"]) if in_struct else piece)
    table = pa.table({"image": pa.chunked_array(pieces)})
    source = open_source(file)
    monkeypatch.setattr(parquet_images, "read_columns", lambda *_: table)
    of_row = {int(key[-8:]): index for index, key in enumerate(source.keys)}
    assert [source.read(of_row[row]) for row in (0, 2, 4)] == contents[::2]


@pytest.mark.parametrize("place", [0, 500, -1, -20, -60], ids=str)
def test_unpacked_images_that_are_damaged_are_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """In the images, the first and another, and in all parts of what lies behind them."""
    monkeypatch.setattr(parquet_images, "_HELD_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = write(tmp_path / "train.parquet", rows(40), group=3)
    wanted = pixels(open_source(file))
    (cached,) = tmp_path.glob("cache/pydream/*.images")
    content = bytearray(cached.read_bytes())
    content[place] ^= 4
    cached.write_bytes(content)
    assert pixels(open_source(file)) == wanted
    cached.write_bytes(content[:30])
    assert pixels(open_source(file)) == wanted


def test_a_row_group_that_cannot_be_unpacked_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_most(path: Path, columns: Sequence[str], group: int, *more: Any) -> pa.Table:
        if group == 2:
            raise OSError(5, "Input/output error")
        return read_columns(path, columns, group, *more)

    monkeypatch.setattr(parquet_images, "_HELD_BYTES", 0)
    monkeypatch.setattr(parquet_images, "read_columns", read_most)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = open_source(write(tmp_path / "train.parquet", rows(40), group=3))
    failed = 0
    for index, key in enumerate(source.keys):
        try:
            assert int(source.image(index)[0, 0, 0]) == int(key[-7:-4])
        except ImageError as error:
            failed += "row group 2 of " in str(error)
    assert failed == 3
