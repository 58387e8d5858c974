from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from ilsvrc import (
    LABELS,
    PUTS,
    WNIDS,
    Put,
    put_devkit,
    put_flat_devkit,
    put_ids,
    put_kaggle,
    put_meta_bin,
    put_packed_devkit,
    write_train,
)
from timm.data.imagenet_info import ImageNetInfo
from torchvision.datasets import imagenet as torchvision_imagenet
from trees import labels_by_name, pack, write_images

from pydream.data import has_split, open_source
from pydream.errors import MissingSplitError, PydreamError


@pytest.fixture(params=PUTS, ids=lambda put: put.__name__)
def put(request: pytest.FixtureRequest) -> Put:
    found: Put = request.param
    return found


def check_ilsvrc(path: Path, labels: dict[str, str] = LABELS) -> None:
    train, test = open_source(path), open_source(path, "test")
    assert train.class_names == test.class_names == tuple(sorted(WNIDS))
    assert all(key.startswith(name) for key, name in zip(train.keys, labels_of(train), strict=True))
    assert len(train) == 6
    assert labels_by_name(test) == labels
    assert (test.labels[1:] >= test.labels[:-1]).all()
    assert test.image(0).shape == (4, 4, 3)


def labels_of(source: object) -> list[str]:
    return [source.class_names[label] for label in source.labels]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "folders", [("train", "val"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val"), ("train", "")]
)
def test_flat_validation_images_of_imagenet_org(
    put: Put, folders: tuple[str, str], tmp_path: Path
) -> None:
    write_train(tmp_path / folders[0])
    write_images(tmp_path / folders[1], LABELS)
    put(tmp_path)
    check_ilsvrc(tmp_path)


def test_labels_in_the_folder_of_the_validation_images(put: Put, tmp_path: Path) -> None:
    write_train(tmp_path / "train")
    write_images(tmp_path / "val", LABELS)
    put(tmp_path / "val")
    check_ilsvrc(tmp_path)
    assert open_source(tmp_path, "test").ignored == 0


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_in_an_archive(put: Put, kind: str, tmp_path: Path) -> None:
    write_train(tmp_path / "set" / "train")
    write_images(tmp_path / "set" / "val", LABELS)
    put(tmp_path / "set")
    check_ilsvrc(pack(tmp_path / "set", kind))


def write_kaggle(root: Path) -> None:
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    write_train(data / "train")
    write_images(data / "val", LABELS)
    write_images(data / "test", ["ILSVRC2012_test_00000001.JPEG"])
    for name, wnid in LABELS.items():
        file = root / "ILSVRC" / "Annotations" / "CLS-LOC" / "val" / f"{name[:-5]}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<annotation><object>\n\t<name>{wnid}</name>\n</object></annotation>")
    (root / "ILSVRC" / "ImageSets" / "CLS-LOC").mkdir(parents=True)
    (root / "ILSVRC" / "ImageSets" / "CLS-LOC" / "val.txt").write_text("ILSVRC2012_val_00000001 1")
    (root / "LOC_synset_mapping.txt").write_text("\n".join(f"{wnid} a, b" for wnid in WNIDS))


@pytest.mark.parametrize("named", [".", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("solution", [True, False])
def test_kaggle(named: str, solution: bool, tmp_path: Path) -> None:
    """With its CSV of labels, or with the annotations alone, as image-net.org packs it."""
    write_kaggle(tmp_path)
    if solution:
        put_kaggle(tmp_path)
    check_ilsvrc(tmp_path / named)
    assert open_source(tmp_path / named).ignored_kinds == {"test images without labels": 1}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_kaggle_in_an_archive(kind: str, tmp_path: Path) -> None:
    write_kaggle(tmp_path / "set")
    put_kaggle(tmp_path / "set")
    check_ilsvrc(pack(tmp_path / "set", kind))


def test_kaggle_with_validation_images_moved_into_class_folders(tmp_path: Path) -> None:
    write_kaggle(tmp_path)
    val = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    for name, wnid in LABELS.items():
        (val / wnid).mkdir(exist_ok=True)
        (val / name).rename(val / wnid / name)
    check_ilsvrc(tmp_path)


def test_same_labels_as_torchvision_reads_from_the_development_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_packed_devkit(tmp_path)
    monkeypatch.setattr(torchvision_imagenet, "_verify_archive", lambda *_: None)
    torchvision_imagenet.parse_devkit_archive(str(tmp_path))
    _, expected = torch.load(tmp_path / "meta.bin", weights_only=True)
    (tmp_path / "meta.bin").unlink()
    write_train(tmp_path / "train")
    write_images(tmp_path / "val", LABELS)
    found = labels_by_name(open_source(tmp_path, "test"))
    assert [found[name] for name in sorted(LABELS)] == expected


def test_torchvisions_own_layout(tmp_path: Path) -> None:
    """Its validation images lie in class folders, and meta.bin beside them."""
    write_train(tmp_path / "train")
    write_images(tmp_path / "val", [f"{wnid}/{name}" for name, wnid in LABELS.items()])
    put_meta_bin(tmp_path)
    check_ilsvrc(tmp_path)


def test_missing_labels_are_named_and_train_stays_usable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_train(tmp_path / "train")
    write_images(tmp_path / "val", LABELS)
    assert not has_split(tmp_path, "test")
    assert len(open_source(tmp_path)) == 6
    wanted = "6 images in val have no labels: put LOC_val_solution.csv (Kaggle) or "
    wanted += "ILSVRC2012_devkit_t12.tar.gz (image-net.org"
    assert wanted in capsys.readouterr().err
    with pytest.raises(MissingSplitError) as caught:
        open_source(tmp_path, "test")
    assert wanted in str(caught.value)


def test_ground_truth_without_the_table_of_classes_is_not_enough(tmp_path: Path) -> None:
    write_train(tmp_path / "train")
    write_images(tmp_path / "val", LABELS)
    put_flat_devkit(tmp_path)
    (tmp_path / "meta.mat").unlink()
    assert not has_split(tmp_path, "test")


@pytest.mark.parametrize("content", [b"<html>not found</html>" * 20, b"", b"MATLAB 5.0 MAT-file"])
@pytest.mark.parametrize("name", ["meta.mat", "meta.bin", "ILSVRC2012_devkit_t12.tar.gz"])
def test_damaged_files_of_labels_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    write_train(tmp_path / "train")
    write_images(tmp_path / "val", LABELS)
    if name == "meta.mat":
        put_flat_devkit(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PydreamError, match=name) as caught:
        open_source(tmp_path, "test")
    assert "\n" not in str(caught.value)


def test_a_part_of_the_classes(tmp_path: Path) -> None:
    """As in ImageNet-100: all validation images beside the folders of some classes."""
    write_train(tmp_path / "train")
    shutil.rmtree(tmp_path / "train" / WNIDS[0])
    write_images(tmp_path / "val", list(LABELS)[:-1])
    put_kaggle(tmp_path)
    test = open_source(tmp_path, "test")
    assert test.class_names == tuple(sorted(WNIDS[1:]))
    kept = {name: wnid for name, wnid in list(LABELS.items())[:-1] if wnid != WNIDS[0]}
    assert labels_by_name(test) == kept
    assert test.ignored_kinds == {
        "images of classes that train lacks": 1, "labels without an image": 1
    }  # fmt: skip


def ilsvrc_classes() -> list[str]:
    """IDs of the classes of ILSVRC 2012 in the order that Caffe's and others' numbers count in."""
    names: list[str] = ImageNetInfo("imagenet-1k").label_names()
    return names


@pytest.mark.parametrize("listed", ["by timm", "LOC_synset_mapping.txt", "synsets.txt"])
def test_numbers_beside_a_part_of_the_classes_count_in_all_1000(
    listed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ImageNet-100 beside Caffe's val.txt, whose 0, 1 and 2 are no classes of train."""
    classes = ilsvrc_classes()
    write_train(tmp_path / "train")
    other = {f"ILSVRC2012_val_{n:08d}.JPEG": classes[n % 3 + 1] for n in range(7, 10)}
    write_images(tmp_path / "val", {**LABELS, **other})
    lines = [f"{name} {classes.index(wnid)}" for name, wnid in {**LABELS, **other}.items()]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    if listed != "by timm":
        (tmp_path / listed).write_text("\n".join(f"{wnid} a, b" for wnid in classes))
        monkeypatch.setitem(sys.modules, "timm.data.imagenet_info", None)
    check_ilsvrc(tmp_path)
    assert open_source(tmp_path, "test").ignored_kinds["images of classes that train lacks"] == 3


def test_few_numbers_that_are_smaller_than_the_classes_are_many_count_in_all_1000(
    tmp_path: Path,
) -> None:
    """Two of three class folders' numbers may be two of ImageNet's 1000 by chance."""
    classes = ilsvrc_classes()
    for wnid in (classes[1], classes[2], classes[7]):
        write_images(tmp_path / "train" / wnid, ["0.JPEG"])
    write_images(tmp_path / "val", list(LABELS)[:2])
    lines = [f"{name} {number}" for name, number in zip(LABELS, (1, 2), strict=False)]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    found = labels_by_name(open_source(tmp_path, "test"))
    assert list(found.values()) == [classes[1], classes[2]]


@pytest.mark.parametrize("first", [1, 1000])
def test_numbers_of_no_known_list_are_refused(first: int, tmp_path: Path) -> None:
    """All 1000 class folders, with numbers that start at 1 or are those of another set."""
    classes = ilsvrc_classes()
    write_images(tmp_path / "train", [f"{wnid}/0.JPEG" for wnid in classes])
    write_images(tmp_path / "val", LABELS)
    lines = [f"{name} {n}" for n, name in zip((first, 1000, 2, 3, 4, 5), LABELS, strict=True)]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    with pytest.raises(PydreamError, match=r"val\.txt gives numbers up to 1,000, which count"):
        open_source(tmp_path, "test")


def test_numbers_whose_list_is_not_at_hand_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm.data.imagenet_info", None)
    write_train(tmp_path / "train")
    write_images(tmp_path / "val", LABELS)
    (tmp_path / "val.txt").write_text("\n".join(f"{name} {n}" for n, name in enumerate(LABELS)))
    with pytest.raises(PydreamError, match=r"put LOC_synset_mapping\.txt beside it, or install"):
        open_source(tmp_path, "test")


@pytest.mark.parametrize("put_labels", [put_devkit, put_meta_bin, put_ids])
def test_labels_in_order_of_other_images_are_refused(put_labels: Put, tmp_path: Path) -> None:
    """As those that another cut from ImageNet: they are too few for the numbers of the images."""
    write_train(tmp_path / "train")
    write_images(tmp_path / "val", [*LABELS, "ILSVRC2012_val_00000007.JPEG"])
    put_labels(tmp_path)
    with pytest.raises(PydreamError, match=r"has 6 labels in order, too few for .*00000007"):
        open_source(tmp_path, "test")


def test_validation_images_alone(tmp_path: Path) -> None:
    write_images(tmp_path / "val", LABELS)
    put_devkit(tmp_path)
    assert labels_by_name(open_source(tmp_path, "test")) == LABELS
    assert not has_split(tmp_path, "train")


def write_tiny(root: Path) -> dict[str, str]:
    for wnid in WNIDS:
        write_images(root / "train" / wnid / "images", [f"{wnid}_{n}.JPEG" for n in (0, 10, 2)])
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("x\t0\t0\t1\t1")
    labels = {f"val_{n}.JPEG": WNIDS[n % 3] for n in range(12)}
    write_images(root / "val" / "images", labels)
    lines = [f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in labels.items()]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    write_images(root / "test" / "images", ["test_0.JPEG", "test_1.JPEG"])
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "words.txt").write_text(f"{WNIDS[0]}\tkit fox")
    return labels


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_tiny_imagenet_as_it_is_unpacked(kind: str, tmp_path: Path) -> None:
    labels = write_tiny(tmp_path / "tiny-imagenet-200")
    path = pack(tmp_path / "tiny-imagenet-200", kind)
    train, test = open_source(path), open_source(path, "test")
    assert train.class_names == test.class_names == tuple(sorted(WNIDS))
    assert list(train.keys) == sorted(f"{w}/images/{w}_{n}.JPEG" for w in WNIDS for n in (0, 10, 2))
    assert labels_by_name(test) == labels
    assert test.image(0).shape == (4, 4, 3)
    assert train.ignored_kinds == {"test images without labels": 2}
    assert test.ignored == 0


def test_tiny_imagenet_without_its_annotations(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").unlink()
    assert len(open_source(tmp_path)) == 9
    with pytest.raises(MissingSplitError, match=r"put val_annotations\.txt .* into val"):
        open_source(tmp_path, "test")


def test_labels_count_in_the_fingerprint(tmp_path: Path) -> None:
    """The order of the images may stay as it is while the class of one changes."""
    marks = []
    for number, changed in enumerate((WNIDS[0], WNIDS[2])):
        root = tmp_path / str(number)
        write_train(root / "train")
        write_images(root / "val", ["ILSVRC2012_val_00000001.JPEG"])
        (root / "val.txt").write_text(f"ILSVRC2012_val_00000001.JPEG {changed}")
        marks.append(open_source(root, "test").fingerprint())
    assert marks[0] != marks[1]
