from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from trees import labels_by_name, pack, write_images

from pydream.data import Source, has_split, open_source
from pydream.errors import PydreamError

LABELS = {f"{number}.png": ("cat", "dog", "emu")[number % 3] for number in range(12)}


def write_table(
    path: Path, header: str, labels: dict[str, str] = LABELS, *, row: str = "{file},{label}",
    encoding: str = "utf-8", end: str = "\n",
) -> None:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row.format(file=f, stem=f.removesuffix(".png"), label=n) for f, n in labels.items()]
    path.write_bytes(end.join([header, *rows] if header else rows).encode(encoding))


def check(source: Source, labels: dict[str, str] = LABELS) -> None:
    assert source.class_names == tuple(sorted(set(labels.values())))
    assert labels_by_name(source) == labels
    assert (source.labels[1:] >= source.labels[:-1]).all()
    assert source.image(len(source) - 1).shape == (4, 4, 3)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("images", ["", "images", "a/b"])
def test_a_table_beside_the_images(
    kind: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    write_images(root / images, LABELS)
    write_table(root / "labels.csv", "file,label")
    source = open_source(pack(root, kind))
    check(source)
    assert source.ignored == 0
    assert "labels are read from labels.csv (label)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,class", "{file},{label}"), ("image_id,species", "{stem},{label}"),
        ("Image Name;Category", "{file};{label}"), ("id\tbreed", "{stem}\t{label}"),
        ('"file_name","label"', '"images/{file}","{label}"'), ("", "{file},{label}"),
        ("path,target", "./images/{file},{label}"), ("label,image", "{label},{file}"),
        ("path,label", "C:\\data\\images\\{file},{label}"), ("img,whatever", "{file},{label}"),
        (",image_id,dx,age,sex", "0,{stem},{label},30,f"), ("image,class", "{stem}.jpg,{label}"),
        ("File , Label", " {file} , {label} "), ("a|b", "{file}|{label}"),
        ("filepaths,labels,data set", "images/{file},{label},train"),
    ],
)  # fmt: skip
def test_columns_by_any_usual_name(header: str, row: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images", LABELS)
    write_table(tmp_path / "list.csv", header, row=row)
    check(open_source(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_encoding_and_end_of_line(encoding: str, end: str, tmp_path: Path) -> None:
    labels = {"0.png": "Käfer", "1.png": "Biene", "2.png": "Käfer"}
    write_images(tmp_path, labels)
    write_table(tmp_path / "labels.csv", "file,label", labels, encoding=encoding, end=end)
    check(open_source(tmp_path), labels)


@pytest.mark.parametrize("name", ["labels.tsv", "train.txt", "train_list.txt"])
def test_other_kinds_of_tables(name: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images", LABELS)
    row = "{file}\t{label}" if name.endswith("tsv") else "images/{file} {label}"
    write_table(tmp_path / name, "", row=row)
    check(open_source(tmp_path))


def test_numbers_are_classes_in_the_order_of_their_value(tmp_path: Path) -> None:
    """Their names are files, too; which column names the files is seen from the others."""
    labels = {f"{number}.png": str(number % 11) for number in range(22)}
    write_images(tmp_path, labels)
    write_table(tmp_path / "train.csv", "label,id", labels, row="{label},{stem}")
    source = open_source(tmp_path)
    assert source.class_names == tuple(map(str, range(11)))
    assert labels_by_name(source) == labels


def test_kaggles_dog_breeds(tmp_path: Path) -> None:
    write_images(tmp_path / "train", LABELS)
    write_images(tmp_path / "test", ["a.png", "b.png"])
    write_table(tmp_path / "labels.csv", "id,breed", row="{stem},{label}")
    (tmp_path / "sample_submission.csv").write_text("id,cat,dog,emu\na,0.3,0.3,0.3\nb,1,0,0\n")
    source = open_source(tmp_path)
    check(source)
    assert source.ignored_kinds == {"images without a label": 2, ".csv": 1}
    assert not has_split(tmp_path, "test")


def test_a_table_for_each_split(tmp_path: Path) -> None:
    write_images(tmp_path / "images", LABELS)
    parts = dict(list(LABELS.items())[:8]), dict(list(LABELS.items())[8:])
    write_table(tmp_path / "train.csv", "image,label", parts[0])
    write_table(tmp_path / "val.csv", "image,label", parts[1])
    check(open_source(tmp_path), parts[0])
    check(open_source(tmp_path, "test"), parts[1])


def test_the_same_file_names_in_both_splits(tmp_path: Path) -> None:
    other = {name: LABELS[f"{11 - int(name[:-4])}.png"] for name in LABELS}
    for split, labels in (("train", LABELS), ("test", other)):
        write_images(tmp_path / split, labels)
        write_table(tmp_path / f"{split}.csv", "file,label", labels)
    check(open_source(tmp_path), LABELS)
    check(open_source(tmp_path, "test"), other)
    assert all(key.startswith("test/") for key in open_source(tmp_path, "test").keys)


def test_a_column_of_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "images", LABELS)
    rows = [f"{f},{n},{'valid' if n == 'dog' and f > '4' else 'train'}" for f, n in LABELS.items()]
    (tmp_path / "birds.csv").write_text("\n".join(["filepaths,labels,data set", *rows]))
    test = open_source(tmp_path, "test")
    assert test.class_names == ("cat", "dog", "emu")
    assert labels_by_name(test) == {f: n for f, n in LABELS.items() if n == "dog" and f > "4"}
    assert len(open_source(tmp_path)) + len(test) == 12


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_image_folders_of_hugging_face(name: str, tmp_path: Path) -> None:
    """A table in the folder of each split, with paths from there."""
    for split in ("train", "test"):
        write_images(tmp_path / split, LABELS)
        if name.endswith("csv"):
            write_table(tmp_path / split / name, "file_name,label")
        else:
            rows = [json.dumps({"file_name": f, "label": n}) for f, n in LABELS.items()]
            (tmp_path / split / name).write_text("\n".join(rows))
        check(open_source(tmp_path, split))


def test_a_column_of_0_and_1_for_each_class(tmp_path: Path) -> None:
    write_images(tmp_path / "images", LABELS)
    rows = [f"{f[:-4]},{','.join(str(float(n == c)) for c in ('cat', 'dog', 'emu'))}"
            for f, n in LABELS.items()]  # fmt: skip
    (tmp_path / "truth.csv").write_text("\n".join(["image,cat,dog,emu", *rows]))
    check(open_source(tmp_path))


def test_the_table_itself_as_the_source(tmp_path: Path) -> None:
    write_images(tmp_path / "images", LABELS)
    other = {name: "old" if name < "5" else "new" for name in LABELS}
    write_table(tmp_path / "labels.csv", "file,label")
    write_table(tmp_path / "ages.csv", "file,age", other)
    check(open_source(tmp_path / "ages.csv"), other)
    assert not has_split(tmp_path / "ages.csv", "test")
    (tmp_path / "notes.csv").write_text("what,why\na,b\n")
    with pytest.raises(PydreamError, match=r"notes\.csv has no column that names images"):
        open_source(tmp_path / "notes.csv")


def test_class_folders_stay_what_they_are_beside_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{name}/{file}" for file, name in LABELS.items()]
    written = sorted(write_images(tmp_path / "set", names))
    write_table(tmp_path / "set" / "labels.csv", "file,label")
    assert list(open_source(tmp_path / "set").keys) == written
    assert "ignored 1 .csv" in capsys.readouterr().err
    sexes = {name: "mf"[int(name[:-4]) % 2] for name in LABELS}
    write_table(tmp_path / "set" / "labels.csv", "file,label", sexes)
    assert list(open_source(tmp_path / "set").keys) == written
    assert "labels.csv gives other labels than the folders do" in capsys.readouterr().err
    check(open_source(tmp_path / "set" / "labels.csv"), sexes)


def test_folders_that_only_part_the_images_are_no_classes(tmp_path: Path) -> None:
    for number, name in enumerate(LABELS):
        write_images(tmp_path / f"images_part_{1 + number // 6}", [name])
    write_table(tmp_path / "metadata.csv", "image_id,dx", row="{stem},{label}")
    check(open_source(tmp_path))


def test_counts_that_differ_are_said(tmp_path: Path) -> None:
    write_images(tmp_path / "images", [*LABELS, "more.png"])
    rows = {**LABELS, "gone.png": "cat"}
    write_table(tmp_path / "labels.csv", "file,label", {**rows, "11.png": ""})
    source = open_source(tmp_path)
    assert labels_by_name(source) == {f: n for f, n in LABELS.items() if f != "11.png"}
    assert source.ignored_kinds == {"images without a label": 2, "rows without an image": 1}


def test_many_rows_without_an_image_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, list(LABELS)[:10])
    write_table(tmp_path / "labels.csv", "file,label")
    with pytest.raises(PydreamError, match=r"2 of 12 rows name no image .* '10\.png'"):
        open_source(tmp_path)
    with pytest.raises(PydreamError) as caught:
        open_source(tmp_path / "labels.csv")
    path = f"{tmp_path}/labels.csv"
    words = f"{path}: 2 of 12 rows name no image below {tmp_path}, for example '10.png'; mend"
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("file,length,width", "{file},3,4", r"not in which column their labels are \(file, length"),
        ("file", "{file}", "it has none yet"),
    ],
)
def test_a_table_without_labels_is_named(header: str, row: str, words: str, tmp_path: Path) -> None:
    write_images(tmp_path, LABELS)
    write_table(tmp_path / "list.csv", header, row=row)
    with pytest.raises(PydreamError, match="images lie directly in it.*" + words):
        open_source(tmp_path)


def test_two_labels_of_one_image_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, LABELS)
    rows = [f"{f},{n}" for f, n in LABELS.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows, *rows]))
    check(open_source(tmp_path))
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows, "3.png,dog"]))
    with pytest.raises(PydreamError, match=r"3\.png has two labels, 'cat' and 'dog'"):
        open_source(tmp_path)


def spelled(form: Literal["NFC", "NFD"], text: str) -> str:
    return unicodedata.normalize(form, text)


def test_one_label_in_two_encodings_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, LABELS)
    labels = {**LABELS, "0.png": spelled("NFC", "café"), "1.png": spelled("NFD", "café")}
    write_table(tmp_path / "labels.csv", "file,label", labels)
    with pytest.raises(PydreamError, match=r"'cafe\\u0301' and 'caf\\xe9' have the same name, enc"):
        open_source(tmp_path)


def test_labels_of_test_may_be_encoded_in_another_way(tmp_path: Path) -> None:
    write_images(tmp_path, LABELS)
    train = {"0.png": spelled("NFC", "café"), "1.png": "dog"}
    write_table(tmp_path / "train.csv", "file,label", train)
    write_table(tmp_path / "test.csv", "file,label", {"2.png": spelled("NFD", "café")})
    assert labels_by_name(open_source(tmp_path, "test")) == {"2.png": spelled("NFC", "café")}


@pytest.mark.parametrize("row", ["{file},{label}", "{stem},{label}", "elsewhere/{file},{label}"])
def test_files_encoded_in_another_way_than_in_the_table(row: str, tmp_path: Path) -> None:
    on_disk = {f"é/{spelled('NFD', 'ü')}{file}": label for file, label in LABELS.items()}
    write_images(tmp_path, on_disk)
    listed = {f"{spelled('NFC', 'ü')}{file}": label for file, label in LABELS.items()}
    write_table(tmp_path / "é" / "labels.csv", "file,label", listed, row=row)
    for table in (tmp_path / "é", tmp_path / "é" / "labels.csv"):
        source = open_source(table)
        assert source.class_names == ("cat", "dog", "emu")
        assert len(source) == len(LABELS)
        assert not source.ignored


def test_files_whose_names_differ_in_their_encoding_alone(tmp_path: Path) -> None:
    """Each is found as it is written, and neither by a name of a third form."""
    both = {spelled("NFC", "ấ.png"): "cat", spelled("NFD", "ấ.png"): "dog"}
    write_images(tmp_path, [*both, *LABELS])
    if len(list(tmp_path.iterdir())) < len(both) + len(LABELS):
        pytest.skip("this disk does not tell encodings apart")
    write_table(
        tmp_path / "labels.csv", "file,label", {**LABELS, **both, "\u00e2\u0301.png": "emu"}
    )
    source = open_source(tmp_path)
    assert labels_by_name(source) == {**LABELS, **both}
    assert source.ignored_kinds == {"rows without an image": 1}


def test_a_label_that_train_lacks_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, LABELS)
    write_table(tmp_path / "train.csv", "file,label", dict(list(LABELS.items())[:6]))
    write_table(tmp_path / "test.csv", "file,label", {"6.png": "yak", "7.png": "dog"})
    with pytest.raises(PydreamError, match=r"'yak', of 6\.png, is not a label of the train split"):
        open_source(tmp_path, "test")


def test_a_table_too_large_to_be_one_of_labels_is_not_read(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat/0.png", "dog/1.png"])
    with open(tmp_path / "embeddings.csv", "wb") as file:
        file.truncate(2**28 + 1)  # a hole: it takes no place on the disk
    assert open_source(tmp_path).class_names == ("cat", "dog")
    with pytest.raises(PydreamError, match=r"embeddings\.csv is larger than 256\.0 MiB"):
        open_source(tmp_path / "embeddings.csv")


def test_a_name_that_fits_several_images_names_none(tmp_path: Path) -> None:
    """But one that is written exactly as a file names that one."""
    (tmp_path / "probe").mkdir()
    if (tmp_path / "PROBE").exists():
        pytest.skip("this disk does not tell cases apart")
    (tmp_path / "probe").rmdir()
    write_images(tmp_path, [*LABELS, "x.png", "x.jpg", "Y.png", "y.png"])
    rows = "\n".join(f"{file},{label}" for file, label in LABELS.items())
    table = f"file,label\n{rows}\nx,cat\ny.png,dog\n"
    (tmp_path / "labels.csv").write_text(table)
    source = open_source(tmp_path)
    assert labels_by_name(source) == {**LABELS, "y.png": "dog"}
    assert source.ignored_kinds == {"images without a label": 3, "rows without an image": 1}


def test_the_only_column_of_words_beside_numbers_holds_the_labels(tmp_path: Path) -> None:
    """As in the annotations of Tiny-ImageNet's validation images."""
    write_images(tmp_path / "images", LABELS)
    write_table(tmp_path / "val_annotations.txt", "", row="{file}\t{label}\t0\t32\t44\t62")
    check(open_source(tmp_path / "val_annotations.txt"))


def test_a_table_that_is_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, LABELS)
    (tmp_path / "labels.csv").symlink_to(tmp_path / "nowhere.csv")
    with pytest.raises(PydreamError, match=r"labels\.csv cannot be read: No such file"):
        open_source(tmp_path)
