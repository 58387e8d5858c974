from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trees import labels_by_name, pack, write_images

from pydream import dream, rded
from pydream.data import check_classes, open_source
from pydream.data.layout import ignored_words
from pydream.dream import DreamConfig
from pydream.errors import PydreamError
from pydream.models import ObserverConfig, train_observer
from pydream.rded import RdedConfig

CLUTTER_FOLDERS = (
    "$RECYCLE.BIN", "System Volume Information", ".ipynb_checkpoints", "@eaDir", "__MACOSX",
    ".Trashes", "lost+found", "#recycle", ".git", "__pycache__", "#snapshot", ".fseventsd",
)  # fmt: skip
CLUTTER_FILES = ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", "Icon\r")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("place", ["", "train", "train/cat"])
def test_what_systems_and_tools_leave_behind_is_passed_over(
    kind: str, place: str, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    names = ["cat/0.png", "dog/1.png"]
    write_images(root / "train", names)
    for folder in CLUTTER_FOLDERS:
        write_images(root / place, [f"{folder}/thumbnail.png"])
    for file in CLUTTER_FILES:
        (root / place / file).write_bytes(b"x")
    source = open_source(pack(root, kind))
    assert list(source.keys) == names
    assert source.ignored == len(CLUTTER_FOLDERS) + len(CLUTTER_FILES)
    assert source.ignored_kinds["@eaDir/"] == 1


def test_empty_folders_of_systems_are_no_empty_classes(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat/0.png", "dog/1.png"])
    for folder in CLUTTER_FOLDERS:
        (tmp_path / folder).mkdir()
    assert open_source(tmp_path).class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["recycled", "snapshot", "lost", "tmp", "icon", "@home"])
def test_classes_that_sound_like_clutter_are_classes(name: str, tmp_path: Path) -> None:
    write_images(tmp_path, [f"{name}/0.png", "dog/1.png"])
    assert name in open_source(tmp_path).class_names


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "set", ["cat/0.png", "dog/1.png"])
    for name in ("a.txt", "b.txt", "c.heic", "noextension"):
        (tmp_path / "set" / "cat" / name).write_bytes(b"x")
    (tmp_path / "set" / "@eaDir").mkdir()
    source = open_source(tmp_path / "set")
    captured = capsys.readouterr()
    assert captured.err == (
        f"{source.description} (train): ignored 2 .txt, 1 .heic, 1 @eaDir/, 1 without extension\n"
    )
    assert not captured.out
    open_source(tmp_path / "set")
    assert not capsys.readouterr().err  # it is said once


def test_words_on_many_kinds_of_any_name() -> None:
    kinds = {f".k{number}": number for number in range(1, 10)}
    words = ignored_words({**kinds, "folder \udce9\n/": 10_000})
    assert words == (
        "10,000 folder \\udce9\\n/, 9 .k9, 8 .k8, 7 .k7, 6 .k6, 5 .k5, 10 of 4 more kinds"
    )


def test_classes_of_test_written_in_another_case_or_encoding(tmp_path: Path) -> None:
    written = "Käfer", "Ölkäfer", "zebra"
    for number, name in enumerate(written):
        write_images(tmp_path / "train", [f"{unicodedata.normalize('NFC', name)}/{number}.png"])
    for number, name in enumerate(("kÄFER", "Ölkäfer", "Zebra")):
        write_images(tmp_path / "test", [f"{unicodedata.normalize('NFD', name)}/{number}.png"])
    test = open_source(tmp_path, "test")
    assert test.class_names == open_source(tmp_path).class_names
    assert labels_by_name(test) == labels_by_name(open_source(tmp_path))
    assert (test.labels[1:] >= test.labels[:-1]).all()


def test_classes_that_differ_in_case_alone_stay_two(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    if (tmp_path / "PROBE").exists():
        pytest.skip("this disk does not tell cases apart")
    (tmp_path / "probe").rmdir()
    write_images(tmp_path / "train", ["b/0.png", "B/1.png"])
    write_images(tmp_path / "test", ["b/0.png", "B/1.png"])
    assert labels_by_name(open_source(tmp_path, "test")) == {"0.png": "b", "1.png": "B"}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_class_in_two_encodings_is_refused(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for form in ("NFC", "NFD"):
        write_images(root, [f"{unicodedata.normalize(form, 'café')}/{form}.png"])
    if len(os.listdir(root)) == 1:
        pytest.skip("this disk does not tell encodings apart")
    with pytest.raises(PydreamError, match="have the same name, encoded in two ways"):
        open_source(pack(root, kind))


def test_classes_that_test_lacks(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["a/0.png", "b/1.png", "c/2.png"])
    write_images(tmp_path / "test", ["c/3.png"])
    (tmp_path / "test" / "b").mkdir()
    test = open_source(tmp_path, "test")
    assert test.class_names == ("a", "b", "c")
    assert labels_by_name(test) == {"3.png": "c"}
    assert test.ignored_kinds == {"empty class folders": 1}


def test_an_empty_class_of_train_is_refused_with_what_lies_in_it(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/0.png"])
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.heic").write_bytes(b"x")
    with pytest.raises(PydreamError, match=r"'b' holds no image, nor do 1 others: only 1 \.heic"):
        open_source(tmp_path)


def test_only_hidden_folders(tmp_path: Path) -> None:
    write_images(tmp_path, [".photos/cat/0.png", ".photos/dog/1.png"])
    with pytest.raises(PydreamError, match="holds no images, only 1 hidden/"):
        open_source(tmp_path)
    assert len(open_source(tmp_path / ".photos")) == 2


def test_links_that_lead_round_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/0.png", "b/1.png"])
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    assert len(open_source(tmp_path)) == 3
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    with pytest.raises(PydreamError, match="links to a folder above it"):
        open_source(tmp_path)


def test_a_class_folder_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/0.png", "b/1.png"])
    (tmp_path / "c").symlink_to(tmp_path / "unmounted" / "c")
    with pytest.raises(PydreamError, match="c: cannot be listed: No such file"):
        open_source(tmp_path)


def test_names_that_are_no_text_beside_the_images_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, ["a/0.png", "b/1.png"])
    try:
        (tmp_path / "a" / os.fsdecode(b"note.\xe9")).write_bytes(b"x")
    except OSError:
        pytest.skip("this disk takes only names that are text")
    assert len(open_source(tmp_path)) == 2
    assert "ignored 1 .\\udce9" in capsys.readouterr().err


def test_one_class_is_refused_with_the_way_on(tmp_path: Path) -> None:
    write_images(tmp_path, ["images/0.png", "images/1.png"])
    with pytest.raises(PydreamError, match=r"only one class, 'images'.*labels\.csv"):
        check_classes(open_source(tmp_path))


def test_every_command_that_learns_refuses_one_class(tmp_path: Path) -> None:
    write_images(tmp_path / "set", ["images/0.png", "images/1.png"])
    named = str(tmp_path / "set")
    runs: list[tuple[Callable[[Any], object], object]] = [
        (train_observer, ObserverConfig(source=named, out=tmp_path / "o.safetensors")),
        (rded.distill, RdedConfig(source=named, observer="none", ipc=1, out=tmp_path / "rded")),
        (dream.distill, DreamConfig(source=named, ipc=1, out=tmp_path / "dream")),
    ]
    for run, config in runs:
        with pytest.raises(PydreamError, match="only one class, 'images'"):
            run(config)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("names", [("images", "masks"), ("JPEGImages", "SegmentationClass")])
def test_parts_of_a_set_for_segmentation_are_no_classes(
    names: tuple[str, str], tmp_path: Path
) -> None:
    write_images(tmp_path, [f"{name}/{number}.png" for name in names for number in range(2)])
    with pytest.raises(PydreamError, match="for detection or segmentation, not classes"):
        open_source(tmp_path)


def test_thousands_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for label in range(3000):
            archive.writestr(f"{label}/0.png", b"x")
    source = open_source(path)
    assert list(source.class_names) == sorted(map(str, range(3000)))
    assert source.labels.tolist() == list(range(3000))


def test_ignored_kinds_can_be_written_as_json(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/0.png", "b/1.png", ".git/x"])
    kinds = open_source(tmp_path).ignored_kinds
    assert json.loads(json.dumps(kinds)) == {".git/": 1}


def test_folders_without_images_beside_the_one_that_holds_the_classes(tmp_path: Path) -> None:
    """As in Food-101, Caltech-101, Stanford Dogs and CUB-200."""
    write_images(tmp_path / "Images", ["a/0.png", "b/1.png"])
    for name in ("Annotation/a/0", "Annotation/b/1", "lists/train.mat", "README.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = open_source(tmp_path)
    assert list(source.keys) == ["a/0.png", "b/1.png"]
    assert source.ignored_kinds == {"folder Annotation/": 1, "folder lists/": 1, ".txt": 1}
