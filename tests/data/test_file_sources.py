from __future__ import annotations

import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import decode_with_pillow, encode, make_pixels, write_class_folders
from PIL import Image
from torchvision.datasets import ImageFolder

from pydream.data import ImageError, Source, has_split, open_source
from pydream.data.sources import check_outside
from pydream.errors import PydreamError

CLASSES = {"zebra": 2, "ant eater": 3, "Käfer": 1, "01": 2}


def pack_folder(folder: Path, target: Path) -> Path:
    return folder


def pack_zip(folder: Path, target: Path, method: int = zipfile.ZIP_STORED) -> Path:
    path = target.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def pack_deflated(folder: Path, target: Path) -> Path:
    return pack_zip(folder, target, zipfile.ZIP_DEFLATED)


def pack_tar(folder: Path, target: Path) -> Path:
    path = target.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, ".")
    return path


Pack = Callable[[Path, Path], Path]


@pytest.fixture(params=[pack_folder, pack_zip, pack_deflated, pack_tar], ids=lambda p: p.__name__)
def pack(request: pytest.FixtureRequest) -> Pack:
    pack: Pack = request.param
    return pack


def refusal(spec: Any, split: str = "train") -> str:
    with pytest.raises(PydreamError) as caught:
        open_source(spec, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def check_contents(source: Source, written: dict[str, bytes]) -> None:
    """Keys, labels, bytes and pixels against what was written."""
    names = sorted({key.split("/")[0] for key in written})
    assert source.class_names == tuple(names)
    assert list(source.keys) == sorted(written, key=lambda key: (key.split("/")[0], key))
    assert source.labels.dtype == np.int64
    assert [names[label] for label in source.labels] == [key.split("/")[0] for key in source.keys]
    for index, key in enumerate(source.keys):
        assert source.read(index) == written[key]
        assert np.array_equal(source.image(index).numpy(), decode_with_pillow(written[key]))


def test_class_folders(pack: Pack, tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "root", CLASSES)
    path = pack(tmp_path / "root", tmp_path / "packed")
    source = open_source(path)
    check_contents(source, written)
    assert len(source) == 8
    assert source.description == str(path)
    assert source.split == "train"
    assert source.ignored == 0
    assert open_source(str(path)).keys == source.keys
    assert open_source(source) is source


@pytest.mark.parametrize("test_name", ["test", "val", "validation", "valid"])
@pytest.mark.parametrize("wrapper", ["", "set", "set/inner"])
def test_splits(pack: Pack, wrapper: str, test_name: str, tmp_path: Path) -> None:
    root = tmp_path / "root" / wrapper
    train = write_class_folders(root / "train", CLASSES)
    test = write_class_folders(root / test_name, dict.fromkeys(CLASSES, 1))
    path = pack(tmp_path / "root", tmp_path / "packed")
    assert has_split(path, "train")
    assert has_split(path, "test")
    check_contents(open_source(path, "train"), train)
    check_contents(open_source(path, "test"), test)
    assert open_source(path, "test").split == "test"


@pytest.mark.parametrize("wrapper", ["set", "set/inner"])
def test_wrappers_without_splits(pack: Pack, wrapper: str, tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "root" / wrapper, CLASSES)
    check_contents(open_source(pack(tmp_path / "root", tmp_path / "packed")), written)


def test_keys_are_the_same_wherever_the_split_lies(tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b" / "train", tmp_path / "c" / "wrapper" / "train"]
    sources = []
    for root in roots:
        write_class_folders(root, CLASSES)
        sources.append(open_source(tmp_path / root.relative_to(tmp_path).parts[0]))
    assert len({tuple(source.keys) for source in sources}) == 1
    assert len({source.ids.tobytes() for source in sources}) == 1
    assert len({source.fingerprint() for source in sources}) == 1


def test_no_test_split(pack: Pack, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "root", CLASSES)
    path = pack(tmp_path / "root", tmp_path / "packed")
    assert has_split(path, "train")
    assert not has_split(path, "test")
    assert "no test split" in refusal(path, "test")


def test_only_a_test_split(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "test", CLASSES)
    assert not has_split(tmp_path, "train")
    assert refusal(tmp_path) == f"{tmp_path}: no train split, only test"
    assert len(open_source(tmp_path, "test")) == 8


def test_folders_beside_the_splits_are_no_classes(pack: Pack, tmp_path: Path) -> None:
    train = write_class_folders(tmp_path / "root" / "train", CLASSES)
    val = write_class_folders(tmp_path / "root" / "val", CLASSES)
    write_class_folders(tmp_path / "root", {"annotations": 1})
    path = pack(tmp_path / "root", tmp_path / "packed")
    check_contents(open_source(path), train)
    check_contents(open_source(path, "test"), val)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path, {"train": 2, "tram": 2, "bus": 1})
    check_contents(open_source(tmp_path), written)
    assert not has_split(tmp_path, "test")


def test_unlabelled_test_images_are_passed_over(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", CLASSES)
    val = write_class_folders(tmp_path / "val", CLASSES)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.png").write_bytes(encode(make_pixels(3, 3), "PNG"))
    check_contents(open_source(tmp_path, "test"), val)


def test_labels_of_test_are_those_of_train(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    write_class_folders(tmp_path / "test", {"c": 2, "b": 1})
    source = open_source(tmp_path, "test")
    assert source.class_names == ("a", "b", "c")
    assert source.labels.tolist() == [1, 2, 2]
    assert source.class_indices(0).tolist() == []
    assert source.class_indices(2).tolist() == [1, 2]


def test_test_class_unknown_to_train(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", {"a": 1, "b": 1})
    write_class_folders(tmp_path / "val", {"a": 1, "images": 1})
    assert "'images' is not a class of the train split" in refusal(tmp_path, "test")


def test_what_is_left_out_is_counted_by_its_kind(pack: Pack, tmp_path: Path) -> None:
    root = tmp_path / "root"
    written = write_class_folders(root, CLASSES)
    extra = ("zebra/.hidden.png", ".git/a/x.png", "__MACOSX/zebra/._000.png", "zebra/.d/x.png")
    others = ("zebra/notes.txt", "zebra/deep/Thumbs.db", "README.md", "list.csv")
    for name in (*extra, *others):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"nothing")
    source = open_source(pack(root, tmp_path / "packed"))
    check_contents(source, written)
    assert source.ignored == len(extra) + len(others)
    assert source.ignored_kinds == {
        ".txt": 1, "Thumbs.db": 1, ".md": 1, ".csv": 1, ".git/": 1, "__MACOSX/": 1,
        "hidden": 1, "hidden/": 1,
    }  # fmt: skip


def test_images_at_any_depth_and_with_any_extension(pack: Pack, tmp_path: Path) -> None:
    root = tmp_path / "root"
    image = encode(make_pixels(4, 5), "PNG")
    keys = ["a/1.JPG", "a/2.jpeg", "a/b/c/3.Png", "a/b/4.webp", "a/b.gif", "c/5.bmp", "c/6.TIFF"]
    keys += ["a/c.png", "c/7.tif"]
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(image)
    check_contents(open_source(pack(root, tmp_path / "p")), dict.fromkeys(keys, image))


def test_same_order_as_torchvision(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path, {"b": 12, "B": 1, "a b": 2, "10": 3, "9": 1})
    (tmp_path / "b" / "note.txt").write_bytes(b"")
    reference = ImageFolder(str(tmp_path))
    source = open_source(tmp_path)
    assert list(source.class_names) == reference.classes
    assert source.labels.tolist() == reference.targets
    assert [str(tmp_path / key) for key in source.keys] == [path for path, _ in reference.samples]
    assert len(source) == len(written)


def test_class_indices_and_ids(tmp_path: Path) -> None:
    write_class_folders(tmp_path, CLASSES)
    source = open_source(tmp_path)
    for label in range(4):
        assert np.array_equal(source.class_indices(label), np.flatnonzero(source.labels == label))
        assert source.class_indices(label).dtype == np.int64
    ids = source.ids
    assert ids.dtype == np.int64
    assert len(set(ids.tolist())) == len(source)


def test_ids_have_known_values(tmp_path: Path) -> None:
    """By `printf 'cat/1.png' | b2sum`, its first 16 digits: they must never change."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    expected = int.from_bytes(bytes.fromhex("275fe2f6dc298988"), "little", signed=True)
    assert open_source(tmp_path).ids.tolist() == [expected]


def test_fingerprint_sees_names_and_contents(pack: Pack, tmp_path: Path) -> None:
    def fingerprint(name: str, change: Callable[[Path], object]) -> str:
        root = tmp_path / name / "root"
        write_class_folders(root, CLASSES)
        change(root)
        return open_source(pack(root, tmp_path / name / "packed")).fingerprint()

    marks = [
        fingerprint("same", lambda root: None),
        fingerprint("renamed", lambda root: (root / "01/000.png").rename(root / "01/x.png")),
        fingerprint("class", lambda root: (root / "zebra").rename(root / "zebu")),
        fingerprint("longer", lambda root: (root / "01/000.png").write_bytes(bytes(9999))),
        fingerprint("fewer", lambda root: (root / "zebra/001.png").unlink()),
    ]
    assert len(set(marks)) == len(marks)
    assert fingerprint("again", lambda root: None) == marks[0]
    assert all(len(bytes.fromhex(mark)) == 32 for mark in marks)


def test_fingerprint_of_some_images(pack: Pack, tmp_path: Path) -> None:
    def fingerprint(name: str, file: str | None, indices: list[int]) -> str:
        root = tmp_path / name / "root"
        write_class_folders(root, CLASSES)
        if file is not None:
            (root / file).write_bytes(bytes(9999))
        return open_source(pack(root, tmp_path / name / "packed")).fingerprint(indices)

    assert fingerprint("a", "01/000.png", [1]) == fingerprint("b", None, [1])
    assert fingerprint("c", "01/000.png", [0]) != fingerprint("d", None, [0])
    assert fingerprint("e", None, [0]) != fingerprint("f", None, [])


def test_damaged_images_are_errors_of_their_own(pack: Pack, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_class_folders(root, {"a": 2, "b": 1})
    (root / "a" / "000.png").write_bytes(b"")
    (root / "b" / "text.jpg").write_bytes(b"no image")
    source = open_source(pack(root, tmp_path / "packed"))
    assert len(source) == 4
    with pytest.raises(ImageError, match="empty file"):
        source.image(0)
    with pytest.raises(ImageError, match="not an image of a known format"):
        source.image(3)
    assert source.image(1).shape == (10, 7, 3)


def test_reading_from_many_threads(pack: Pack, tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "root", {"a": 20, "b": 20})
    source = open_source(pack(tmp_path / "root", tmp_path / "packed"))
    wrong = []

    def read(seed: int) -> None:
        for index in np.random.default_rng(seed).permutation(len(source)):
            if source.read(index) != written[source.keys[index]]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such source; give")
    with pytest.raises(PydreamError, match="no such source"):
        has_split(tmp_path / "none.zip", "test")


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split must be"):
        open_source(tmp_path, "dev")
    with pytest.raises(ValueError, match="split must be"):
        has_split(tmp_path, "dev")


def test_open_source_of_another_split(tmp_path: Path) -> None:
    write_class_folders(tmp_path, CLASSES)
    source = open_source(tmp_path)
    assert not has_split(source, "test")
    assert "no test split" in refusal(source, "test")


def test_empty_folder(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    path = pack(tmp_path / "root", tmp_path / "packed")
    assert "holds no images; put the images of each class into one folder" in refusal(path)


def test_images_lying_flat(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cat.png").write_bytes(encode(make_pixels(3, 3), "PNG"))
    path = pack(tmp_path / "root", tmp_path / "packed")
    message = refusal(path)
    assert "images lie directly in it" in message
    assert "ROOT/<class>/<image>" in message


def test_flat_train_split(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cat.png").write_bytes(encode(make_pixels(3, 3), "PNG"))
    write_class_folders(tmp_path / "val", CLASSES)
    assert refusal(tmp_path).startswith(f"{tmp_path}: train: images lie directly in it")


@pytest.mark.parametrize("content", [[], ["labels.txt"], ["deep/labels.txt"]])
def test_class_without_images(pack: Pack, content: list[str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_class_folders(root, CLASSES)
    (root / "empty").mkdir()
    for name in content:
        (root / "empty" / name).parent.mkdir(exist_ok=True)
        (root / "empty" / name).write_bytes(b"x")
    assert "class folder 'empty' holds no image" in refusal(pack(root, tmp_path / "packed"))


@pytest.mark.parametrize("name", ["set.rar", "set", "set.arrow", "picture.png"])
def test_unsupported_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"content")
    assert "not a source; give a folder of class folders" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
@pytest.mark.parametrize("content", [b"", b"hello" * 1000, b"PK\x03\x04" + bytes(100)])
def test_bad_archive(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    kind = "zip" if content.startswith(b"PK") else name[-3:]
    assert f"not a readable {kind} archive" in refusal(tmp_path / name)


def test_truncated_tar(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "root", CLASSES)
    path = pack_tar(tmp_path / "root", tmp_path / "packed")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"zebra/001.png") + 600])
    assert "not a readable tar archive" in refusal(path)


def test_encrypted_zip(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "root", {"a": 1})
    path = pack_zip(tmp_path / "root", tmp_path / "packed")
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(signature) + flags] |= 1  # members are packed files last
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    assert "is encrypted; repack it without a password" in refusal(path)


def test_zip_with_another_compression(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "root", CLASSES)
    path = pack_zip(tmp_path / "root", tmp_path / "packed", zipfile.ZIP_LZMA)
    assert "compressed by method 14, which cannot be read in place" in refusal(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zip_member(method: int, tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "root", {"a": 3})
    path = pack_zip(tmp_path / "root", tmp_path / "packed", method)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("a/001.png")
    content = bytearray(path.read_bytes())
    middle = info.header_offset + 30 + len("a/001.png") + info.compress_size // 2
    content[middle] ^= 0xFF
    path.write_bytes(content)
    source = open_source(path)
    with pytest.raises(ImageError, match=r"checksum|inflated"):
        source.read(1)
    assert source.read(0) == written["a/000.png"]
    assert source.read(2) == written["a/002.png"]


@pytest.mark.parametrize("pack_archive", [pack_zip, pack_tar])
def test_archive_cut_off_after_opening(pack_archive: Pack, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "root", CLASSES)
    path = pack_archive(tmp_path / "root", tmp_path / "packed")
    source = open_source(path)
    os.truncate(path, 20)
    for index in range(len(source)):
        with pytest.raises(ImageError, match="archive"):
            source.read(index)


def test_folder_file_that_went_away(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"a": 2})
    source = open_source(tmp_path)
    (tmp_path / "a" / "000.png").unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        source.read(0)
    assert source.fingerprint() != open_source(tmp_path).fingerprint()


def test_broken_link_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"a": 1})
    (tmp_path / "a" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    source = open_source(tmp_path)
    assert list(source.keys) == ["a/000.png", "a/broken.png"]
    with pytest.raises(ImageError, match="cannot be read"):
        source.image(1)


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "real", CLASSES)
    (tmp_path / "linked").mkdir()
    for name in CLASSES:
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    check_contents(open_source(tmp_path / "linked"), written)


def test_link_to_a_folder_above_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path, CLASSES)
    (tmp_path / "zebra" / "loop").symlink_to(tmp_path)
    assert "links to a folder above it" in refusal(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 on Windows")
def test_name_that_is_no_text(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"a": 1})
    (tmp_path / "a" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    message = refusal(tmp_path)
    assert "not valid UTF-8" in message
    message.encode()


def test_names_that_point_out_of_the_archive_are_left_out(tmp_path: Path) -> None:
    image = encode(make_pixels(3, 3), "PNG")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("a/1.png", "../a/2.png", "b/../../3.png", "/b/4.png"):
            archive.writestr(name, image)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in ("a/1.png", "../a/2.png", "b/../../3.png", "/b/4.png"):
            member = tarfile.TarInfo(name)
            member.size = len(image)
            archive.addfile(member, io.BytesIO(image))
    for name in ("set.zip", "set.tar"):
        source = open_source(tmp_path / name)
        assert list(source.keys) == ["a/1.png", "b/4.png"]
        assert source.ignored_kinds == {"names that lead out of the archive": 2}
        assert source.read(1) == image


def test_zip_behind_other_bytes_with_comments_and_extra_fields(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "root", CLASSES)
    path = tmp_path / "set.zip"
    path.write_bytes(b"#!/bin/sh\nexit\n")
    with zipfile.ZipFile(path, "a") as archive:
        for key, content in written.items():
            info = zipfile.ZipInfo(key)
            info.extra = b"\xfe\xca\x04\x00abcd"
            info.comment = b"a comment"
            archive.writestr(info, content)
        archive.comment = b"another"
    check_contents(open_source(path), written)


def test_zip_with_backslashes(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "root", CLASSES)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for key, content in written.items():
            archive.writestr("set\\train\\" + key.replace("/", "\\"), content)
    check_contents(open_source(tmp_path / "set.zip"), written)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_member_twice_in_an_archive_counts_once_the_last(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"set.{kind}"
    for content in (b"first", b"second"):
        if kind == "zip":
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr("a/1.png", content)
        else:
            member = tarfile.TarInfo("a/1.png")
            member.size = len(content)
            with tarfile.open(path, "a") as archive:
                archive.addfile(member, io.BytesIO(content))
    source = open_source(path)
    assert len(source) == 1
    assert source.read(0) == b"second"


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_tar_with_long_names_and_links(tar_format: int, tmp_path: Path) -> None:
    content = encode(make_pixels(3, 3), "PNG")
    key = "a" * 90 + "/" + "é" * 20 + ".png"
    with tarfile.open(tmp_path / "set.tar", "w", format=tar_format) as archive:
        member = tarfile.TarInfo(key)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("a" * 90 + "/link.png")
            link.type, link.linkname = kind, key[:90]
            archive.addfile(link)
    check_contents(open_source(tmp_path / "set.tar"), {key: content})


def test_rewritten_archive_is_indexed_again(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "root", {"a": 1})
    path = pack_zip(tmp_path / "root", tmp_path / "packed")
    assert len(open_source(path)) == 1
    write_class_folders(tmp_path / "root", {"a": 3})
    pack_zip(tmp_path / "root", tmp_path / "packed")
    assert len(open_source(path)) == 3


def test_what_may_lie_beside_class_folders(tmp_path: Path) -> None:
    """Outputs beside folders of splits, above the classes or of other images."""
    for folder in ("set/train/a", "set/train/b", "set/val/a", "set/val/b", "other/a", "other/b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "0.png")
    source = open_source(tmp_path / "set")
    for out in ("set/new", "new", "other/new"):
        check_outside(source, tmp_path / out)
    for out in ("set/train/new", "set/train/a/new", "set/new/../val/new"):
        with pytest.raises(PydreamError, match="is among the class folders of"):
            check_outside(source, tmp_path / out)
    arrays = (np.zeros((2, 4, 4, 3), np.uint8), np.array(["a", "b"]))
    check_outside(open_source(arrays), tmp_path / "other" / "new")
