from __future__ import annotations

from pathlib import Path

import pytest
from trees import labels_by_name, pack, write_images

from pydream.data import has_split, open_source
from pydream.data.split_names import split_folders, split_name
from pydream.errors import PydreamError


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"), ("Train", "Test"), ("TRAIN", "VAL"), ("seg_train", "seg_test"),
        ("training_set", "validation_set"), ("train", "eval"), ("train", "dev"),
        ("trainset", "testset"), ("TrainingSet", "TestSet"), ("train2017", "val2017"),
        ("dogs-train", "dogs-test"), ("train_images", "test"), ("Training Data", "validation data"),
        ("fruits-360_Training", "fruits-360_Test"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_splits_by_any_usual_name(train: str, test: str, kind: str, tmp_path: Path) -> None:
    names = ["cat/0.png", "cat/1.png", "dog/2.png"]
    write_images(tmp_path / "set" / train, names)
    write_images(tmp_path / "set" / test, ["dog/3.png", "cat/4.png"])
    path = pack(tmp_path / "set", kind)
    assert open_source(path).class_names == ("cat", "dog")
    assert list(open_source(path).keys) == names
    assert has_split(path, "test")
    assert labels_by_name(open_source(path, "test")) == {"3.png": "dog", "4.png": "cat"}


@pytest.mark.parametrize(
    "names",
    [
        ["train", "tram", "bus"], ["test tube", "flask"], ["valid", "invalid"], ["training shoe"],
        ["train_station", "bus_stop"], ["trainer", "tester"], ["device", "eve"], ["imagenet-val"],
    ],
)  # fmt: skip
def test_classes_that_sound_like_splits_are_classes(names: list[str]) -> None:
    assert split_folders(names) is None


def test_what_a_name_says() -> None:
    assert split_name("seg_train") == ("train", "train", ("seg",))
    assert split_name("Testing Images") == ("test", "testing", ())
    assert split_name("valset") == ("test", "val", ())
    assert split_name("unlabeled") == ("unlabelled", "unlabeled", ())
    assert split_name("train_test") is None
    assert split_name("retrain") is None


def test_test_comes_before_validation_wherever_both_have_labels(tmp_path: Path) -> None:
    for name in ("train", "Valid", "Test"):
        write_images(tmp_path / name, [f"a/{name}.png", f"b/{name}2.png"])
    assert list(open_source(tmp_path, "test").keys) == ["a/Test.png", "b/Test2.png"]
    assert open_source(tmp_path).ignored_kinds == {"folder Valid/": 1}


def test_split_folders_that_wrap_another(tmp_path: Path) -> None:
    """Intel's image classification set: and images to be predicted beside it."""
    write_images(tmp_path / "seg_train" / "seg_train", ["sea/0.png", "street/1.png"])
    write_images(tmp_path / "seg_test" / "seg_test", ["sea/2.png", "street/3.png"])
    write_images(tmp_path / "seg_pred" / "seg_pred", ["4.png"])
    assert list(open_source(tmp_path).keys) == ["sea/0.png", "street/1.png"]
    assert list(open_source(tmp_path, "test").keys) == ["sea/2.png", "street/3.png"]


def test_test_images_in_a_folder_that_is_no_class_have_no_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["a/0.png", "b/1.png"])
    write_images(tmp_path / "test", ["images/2.png"])
    assert not has_split(tmp_path, "test")
    write_images(tmp_path / "val", ["b/3.png"])
    assert labels_by_name(open_source(tmp_path, "test")) == {"3.png": "b"}


@pytest.mark.parametrize(
    "names", [["dogs_train", "cats_test"], ["a_train", "a_test", "b_train", "b_test"]]
)
def test_folders_called_after_splits_that_do_not_pair_are_refused(
    names: list[str], tmp_path: Path
) -> None:
    for name in names:
        write_images(tmp_path / name, ["x/0.png"])
    with pytest.raises(PydreamError, match="named after splits, not classes"):
        open_source(tmp_path)


def test_splits_below_the_classes_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat/train/0.png", "cat/test/1.png", "dog/train/2.png"])
    with pytest.raises(PydreamError, match="put the splits above the classes"):
        open_source(tmp_path)
