from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trees import labels_by_name, pack, write_images

from pydream.data import has_split, open_source
from pydream.data.files import open_tree
from pydream.errors import MissingSplitError, PydreamError

CLASSES = ("cat", "dog", "emu")
TEST = {"3", "4", "5", "10"}  # of the images 0 to 11, which are of three classes in turn
NAMES = {f"{number}.png": CLASSES[number % 3] for number in range(12)}
TRAIN_IMAGES = {name: label for name, label in NAMES.items() if name[:-4] not in TEST}
TEST_IMAGES = {name: label for name, label in NAMES.items() if name[:-4] in TEST}


def path_of(name: str) -> str:
    return f"{NAMES[name]}/{name}"


def put_lists(root: Path) -> None:
    """Lists without labels and suffixes, as Food-101 has them."""
    (root / "meta").mkdir(parents=True)
    for split, names in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        lines = [path_of(name).removesuffix(".png") for name in names]
        (root / "meta" / f"{split}.txt").write_text("\n".join(lines))
    (root / "meta" / "classes.txt").write_text("\n".join(CLASSES))
    (root / "meta" / "test.json").write_text("{}")


def put_tables(root: Path) -> None:
    """Tables of names and numbers, as EuroSAT has them."""
    for split, names in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        lines = [f"{path_of(name)},{CLASSES.index(label)}" for name, label in names.items()]
        (root / f"{split}.csv").write_text("\n".join(["Filename,Label", *lines]))


def put_test_table(root: Path) -> None:
    put_tables(root)
    (root / "train.csv").unlink()


def put_column(root: Path) -> None:
    rows = [f"{path_of(n)},{'test' if n in TEST_IMAGES else 'train'}" for n in NAMES]
    (root / "metadata.csv").write_text("\n".join(["file,split", *rows]))


def put_labels_and_column(root: Path) -> None:
    rows = [f"{n},{c},{'test' if n in TEST_IMAGES else 'train'}" for n, c in NAMES.items()]
    (root / "metadata.csv").write_text("\n".join(["file,label,split", *rows]))


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    ("put", "images", "tables"),
    [
        (put_lists, "images", "meta/train.txt and meta/test.txt"),
        *((put_tables, images, "train.csv and test.csv") for images in ("images", "")),
        *((put_test_table, images, "test.csv") for images in ("images", "")),
        *((put_column, images, "metadata.csv") for images in ("images", "")),
        *((put_labels_and_column, images, "metadata.csv") for images in ("images", "")),
    ],
)
def test_class_folders_with_a_published_split(
    put: Callable[[Path], None], images: str, tables: str, kind: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_images(tmp_path / "set" / images, map(path_of, NAMES))
    put(tmp_path / "set")
    path = pack(tmp_path / "set", kind)
    train, test = open_source(path), open_source(path, "test")
    assert train.class_names == test.class_names == CLASSES
    assert labels_by_name(train) == TRAIN_IMAGES
    assert labels_by_name(test) == TEST_IMAGES
    assert list(train.keys) == sorted(map(path_of, TRAIN_IMAGES))
    assert train.ignored_kinds["images of the test split"] == 4
    said = capsys.readouterr().err
    assert said.count(f"the splits of the class folders are read from {tables}\n") == 2
    assert train.image(0).shape == test.image(3).shape == (4, 4, 3)


def test_images_of_neither_split_and_validation_images_are_left_out(tmp_path: Path) -> None:
    """Images for testing count before those for validation."""
    write_images(tmp_path / "images", map(path_of, NAMES))
    words = {"0.png": "val", "3.png": "test", "4.png": "test", "5.png": "test", "6.png": "val"}
    rows = [f"{path_of(name)},{words.get(name, 'train')}" for name in list(NAMES)[:11]]
    (tmp_path / "splits.csv").write_text("\n".join(["path,split", *rows]))
    train, test = open_source(tmp_path), open_source(tmp_path, "test")
    assert labels_by_name(test) == {f"{n}.png": CLASSES[n % 3] for n in (3, 4, 5)}
    assert labels_by_name(train) == {f"{n}.png": CLASSES[n % 3] for n in (1, 2, 7, 8, 9, 10)}
    assert train.ignored_kinds["images of no split"] == 3


def test_the_splits_of_some_classes_alone(tmp_path: Path) -> None:
    write_images(tmp_path / "images", map(path_of, NAMES))
    put_lists(tmp_path)
    for split in ("train", "test"):
        path = tmp_path / "meta" / f"{split}.txt"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for line in lines if not line.startswith("cat")))
    for split in ("train", "test"):
        assert open_source(tmp_path, split).class_names == ("dog", "emu")


def test_every_table_of_test_images_counts_where_none_names_those_of_train(tmp_path: Path) -> None:
    write_images(tmp_path, map(path_of, NAMES))
    (tmp_path / "val.txt").write_text("\n".join(map(path_of, list(NAMES)[:5])))
    (tmp_path / "test.txt").write_text("\n".join(map(path_of, list(NAMES)[6:9])))
    assert labels_by_name(open_source(tmp_path)).keys() == {f"{n}.png" for n in (5, 9, 10, 11)}
    assert labels_by_name(open_source(tmp_path, "test")).keys() == {"6.png", "7.png", "8.png"}


def test_images_that_are_labelled_and_kept_for_testing_are_not_trained_on(tmp_path: Path) -> None:
    """Images that lie flat: one table labels all, another lists those for testing."""
    write_images(tmp_path / "images", NAMES)
    rows = "\n".join(f"{name},{label}" for name, label in NAMES.items())
    (tmp_path / "labels.csv").write_text(f"file,label\n{rows}")
    (tmp_path / "test.txt").write_text("\n".join(TEST_IMAGES))
    assert labels_by_name(open_source(tmp_path)) == TRAIN_IMAGES
    assert labels_by_name(open_source(tmp_path, "test")) == TEST_IMAGES


@pytest.mark.parametrize("train_table", [True, False])
@pytest.mark.parametrize("numbered", [True, False])
def test_class_folders_for_training_and_a_table_for_flat_test_images(
    train_table: bool, numbered: bool, tmp_path: Path
) -> None:
    """As Kaggle ships GTSRB: Train/0 to Train/42, Test/ and a table of each."""
    label = {name: str(11 * number) for number, name in enumerate(CLASSES)}
    folder = label if numbered or not train_table else {name: name for name in CLASSES}
    write_images(tmp_path / "Train", [f"{folder[c]}/{n}" for n, c in TRAIN_IMAGES.items()])
    write_images(tmp_path / "Test", TEST_IMAGES)
    write_images(tmp_path / "Meta", [f"{number}.png" for number in label.values()])
    tables = {
        "Test": [f"5,{label[c]},Test/{n}" for n, c in TEST_IMAGES.items()],
        "Train": [f"7,{label[c]},Train/{folder[c]}/{n}" for n, c in TRAIN_IMAGES.items()],
        "Meta": [f"0,{number},Meta/{number}.png" for number in label.values()],
    }
    if not train_table:
        del tables["Train"]
    for name, rows in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["Width,ClassId,Path", *rows]))
    train, test = open_source(tmp_path), open_source(tmp_path, "test")
    assert train.class_names == test.class_names == tuple(sorted(folder.values()))
    assert labels_by_name(train) == {n: folder[c] for n, c in TRAIN_IMAGES.items()}
    assert labels_by_name(test) == {n: folder[c] for n, c in TEST_IMAGES.items()}


def test_a_table_for_training_and_class_folders_for_testing(tmp_path: Path) -> None:
    write_images(tmp_path / "train", TRAIN_IMAGES)
    write_images(tmp_path / "test", map(path_of, TEST_IMAGES))
    rows = "\n".join(f"{name},{label}" for name, label in TRAIN_IMAGES.items())
    (tmp_path / "train.csv").write_text(f"file,label\n{rows}")
    assert labels_by_name(open_source(tmp_path)) == TRAIN_IMAGES
    assert labels_by_name(open_source(tmp_path, "test")) == TEST_IMAGES


def test_folders_of_both_splits_stay_what_they_are(tmp_path: Path) -> None:
    """But for images of the train split's folders that a table keeps for testing."""
    write_images(tmp_path / "train", map(path_of, TRAIN_IMAGES))
    write_images(tmp_path / "test", map(path_of, TEST_IMAGES))
    put_tables(tmp_path)
    assert labels_by_name(open_source(tmp_path)) == TRAIN_IMAGES
    assert labels_by_name(open_source(tmp_path, "test")) == TEST_IMAGES
    (tmp_path / "train.csv").unlink()
    (tmp_path / "val.txt").write_text("train/cat/0.png\ntrain/dog/1.png\n")
    rest = {n: c for n, c in TRAIN_IMAGES.items() if n not in ("0.png", "1.png")}
    assert labels_by_name(open_source(tmp_path)) == rest
    assert labels_by_name(open_source(tmp_path, "test")) == TEST_IMAGES


def test_folders_that_are_no_classes_with_a_published_split(tmp_path: Path) -> None:
    """Folders of patients: the labels are the tables', too."""
    write_images(tmp_path, [f"{'ab'[int(name[:-4]) // 6]}/{name}" for name in NAMES])
    for split, names in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        rows = "\n".join(f"{name},{label}" for name, label in names.items())
        (tmp_path / f"{split}.csv").write_text(f"image,dx\n{rows}")
    assert labels_by_name(open_source(tmp_path)) == TRAIN_IMAGES
    assert labels_by_name(open_source(tmp_path, "test")) == TEST_IMAGES


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train_test_split.txt", "1 0\n2 1\n", "train_test_split.txt may tell which images"),
        ("test.json", '{"cat": ["cat/3"]}', "test.json may tell which images are for testing"),
        ("train.txt", "cat/0\ndog/1\nemu/2\n", "train.txt names 3 of the 12 images"),
    ],
)
def test_a_split_that_cannot_be_read_is_told_of(
    name: str, content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, map(path_of, NAMES))
    (tmp_path / name).write_text(content)
    assert len(open_source(tmp_path)) == 12
    assert words in capsys.readouterr().err
    with pytest.raises(MissingSplitError, match=words.partition(" ")[0]):
        open_source(tmp_path, "test")


def test_a_table_of_test_images_with_other_classes_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "train", map(path_of, TRAIN_IMAGES))
    write_images(tmp_path / "test", TEST_IMAGES)
    (tmp_path / "test.csv").write_text("file,size\n3.png,9\n4.png,9\n5.png,8\n10.png,8\n")
    assert labels_by_name(open_source(tmp_path)) == TRAIN_IMAGES
    assert "test.csv is not used: its labels, as '9', are not class folders" in (
        capsys.readouterr().err
    )
    assert not has_split(tmp_path, "test")


def test_a_class_without_images_to_train_on_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", map(path_of, NAMES))
    write_images(tmp_path / "test", ["cat/a.png"])
    cats = [path_of(name) for name, label in NAMES.items() if label == "cat"]
    (tmp_path / "val.txt").write_text("\n".join(cats))
    with pytest.raises(PydreamError, match=r"val\.txt, and no image is left to train on in 'cat'"):
        open_source(tmp_path)


def test_a_list_of_files_with_spaces_in_their_names(tmp_path: Path) -> None:
    names = [f"{label}/{number}.png" for label in ("hot dog", "ice tea") for number in range(4)]
    write_images(tmp_path / "images", names)
    (tmp_path / "train.txt").write_text("\n".join(n for n in names if n[-5] != "3"))
    (tmp_path / "test.txt").write_text("\n".join(n[:-4] for n in names if n[-5] == "3"))
    assert open_source(tmp_path).class_names == ("hot dog", "ice tea")
    assert list(open_source(tmp_path).keys) == [n for n in names if n[-5] != "3"]
    assert len(open_source(tmp_path, "test")) == 2


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_the_size_of_a_file_is_known_before_it_is_read(kind: str, tmp_path: Path) -> None:
    """So that a table too large to be one of labels is passed over in archives, too."""
    written = write_images(tmp_path / "set", ["cat/0.png", "dog/1.png"])
    path = pack(tmp_path / "set", kind)
    tree, start = open_tree(path), "" if kind == "folder" else "set/"
    assert {name: tree.size(start + name) for name in written} == {
        name: len(content) for name, content in written.items()
    }
