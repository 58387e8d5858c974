from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pydream.errors import PydreamError
from pydream.sets import ExportConfig, export_set
from pydream.sets.config import Layout
from pydream.sets.imported import find_tensors, open_distilled
from pydream.sets.manifest import Manifest
from pydream.sets.opening import class_order

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of CIFAR-10, as MTT has them
SIDE = 5


def levels(count: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Random pixels, (count, channels, SIDE, SIDE) uint8, black and white among them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, SIDE, SIDE)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 255
    return pixels


def as_numpy(pixels: torch.Tensor) -> np.ndarray:
    """Channels last, in three channels."""
    moved = pixels.numpy().transpose(0, 2, 3, 1)
    return np.repeat(moved, 3, axis=3) if moved.shape[3] == 1 else moved


def write_folders(root: Path, names: list[str], pixels: torch.Tensor, kind: str = "png") -> Path:
    per_class = len(pixels) // len(names)
    for number, image in enumerate(as_numpy(pixels)):
        folder = root / names[number // per_class]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03d}.{kind}")
    return root


@pytest.mark.parametrize("container", [list, tuple, dict, "data"])
def test_a_file_of_images_and_labels(tmp_path: Path, container: Any) -> None:
    pixels, labels = levels(6), torch.tensor([2, 0, 1, 0, 1, 2])
    if container in (dict, "data"):
        name = "images" if container is dict else container
        content = {name: pixels / 255, "labels": labels}
    else:
        content = container([pixels / 255, labels])
    torch.save(content, tmp_path / "data.pt")
    distilled = open_distilled(tmp_path / "data.pt", class_names=["ant", "bee", "cat"])
    order = [1, 3, 2, 4, 0, 5]  # by class, and in the order of the file within one
    assert distilled.images.dtype == torch.uint8
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels)[order])
    assert distilled.labels.dtype == torch.int64
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert distilled.class_names == ("ant", "bee", "cat")
    assert distilled.provenance is None
    assert distilled.manifest.as_json() == {
        "format": 1,
        "method": "imported",
        "class_names": ["ant", "bee", "cat"],
        "class_to_idx": {"ant": 0, "bee": 1, "cat": 2},
        "images_per_class": 2,
        "factor": 1,
        "side": SIDE,
    }


@pytest.mark.parametrize("experiments", [1, 3])
def test_the_results_of_dc(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, experiments: int
) -> None:
    sets = [[levels(4, seed=seed) / 255, torch.tensor([0, 0, 1, 1])] for seed in range(experiments)]
    accuracies = {"ConvNet": [0.25, np.mean([0.5, 0.25]), np.float64(0.125)]}
    torch.save({"data": sets, "accs_all_exps": accuracies}, tmp_path / "res.pt")
    distilled = open_distilled(tmp_path / "res.pt")
    assert np.array_equal(distilled.images.numpy(), as_numpy(levels(4)))
    told = [str(warning.message) for warning in recwarn]
    expected = f"holds the sets of {experiments} experiments; the first is taken"
    assert len(told) == (experiments > 1)
    assert all(expected in message for message in told)


@pytest.mark.parametrize(
    ("info", "names", "factor"),
    [
        ({"package": {"name": "pydream-distill"}, "class_names": ["b", "a"], "factor": 2}, "ba", 2),
        ({"package": {"name": "another"}, "class_names": ["b", "a"], "factor": 2}, "cd", 1),
        (["of somebody else"], "cd", 1),
        ({"package": {"name": "pydream-distill"}, "class_names": [1, 2], "factor": 2}, "cd", 1),
    ],
)
def test_names_beside_exported_tensors(
    tmp_path: Path, info: dict[str, Any] | list[str], names: str, factor: int
) -> None:
    torch.save([levels(4) / 255, torch.tensor([0, 0, 1, 1])], tmp_path / "images.pt")
    (tmp_path / "info.json").write_text(json.dumps(info))
    for place in (tmp_path, tmp_path / "images.pt"):
        distilled = open_distilled(place, class_names=["c", "d"])
        assert distilled.class_names == tuple(names)
        assert distilled.manifest.factor == factor


def test_what_is_made_of_anothers_set_lies_beside_it(tmp_path: Path) -> None:
    torch.save([levels(4) / 255, torch.tensor([0, 0, 1, 1])], tmp_path / "data.pt")
    distilled = open_distilled(tmp_path / "data.pt")
    assert not distilled.is_ours
    assert distilled.beside("labels") == tmp_path / "data-labels"
    assert distilled.images_bytes == 4 * SIDE * SIDE * 3
    assert distilled.labels_bytes == 0
    assert distilled.images_sha256 == hashlib.sha256(distilled.images.numpy().tobytes()).hexdigest()


def test_each_folder_has_its_own_place_for_what_is_made_of_it(tmp_path: Path) -> None:
    """Also if names differ only after a dot, or the folder is given by no name."""
    for name in ("lr0.1", "lr0.01"):
        folder = write_folders(tmp_path / name, ["a", "b"], levels(4))
        assert open_distilled(folder).beside("labels") == tmp_path / f"{name}-labels"


@pytest.mark.parametrize(("below", "typed"), [("", "."), ("a", ".."), ("a", "../../linked/b/..")])
def test_a_set_without_a_name_in_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, typed: str
) -> None:
    write_folders(tmp_path / "rded", ["a", "b"], levels(4))
    (tmp_path / "linked").symlink_to(tmp_path / "rded")
    monkeypatch.chdir(tmp_path / "rded" / below)
    distilled = open_distilled(typed)
    assert distilled.beside("results") == tmp_path / "rded-results"
    assert distilled.labels_bytes == 0
    assert str(distilled.path) == typed  # as messages have it


def test_images_in_memory_are_a_sequence(tmp_path: Path) -> None:
    torch.save([levels(4) / 255, torch.tensor([0, 0, 1, 1])], tmp_path / "data.pth")
    distilled = open_distilled(tmp_path / "data.pth")
    assert distilled.class_names == ("0", "1")
    assert (len(distilled.stored), distilled.stored.side) == (4, SIDE)
    assert distilled.stored.nbytes == 4 * 3 * SIDE**2
    assert torch.equal(distilled.stored[1:][2], distilled.images[3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_values_are_undone(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, dtype: torch.dtype, channels: int
) -> None:
    pixels = levels(4, channels)
    mean, std = (np.reshape(values[:channels], (-1, 1, 1)) for values in (MEAN, STD))
    values = torch.from_numpy((pixels.numpy() / 255 - mean) / std).to(dtype)
    torch.save([values, torch.tensor([0, 1, 0, 1])], tmp_path / "data.pt")
    with pytest.raises(PydreamError, match=r"values are -[\d.]+ to [\d.]+, beyond .* mean and std"):
        open_distilled(tmp_path / "data.pt")
    distilled = open_distilled(tmp_path / "data.pt", mean=MEAN[:channels], std=STD[:channels])
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels)[[0, 2, 1, 3]])
    assert not recwarn.list  # rounding alone is no reason to warn


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [None, ((0, 0, 0), (1, 1, 1))])
def test_levels_of_eight_bits_are_taken_as_they_are(
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    dtype: torch.dtype,
    scale: tuple[tuple[int, int, int], tuple[int, int, int]] | None,
) -> None:
    """Whatever is said of a normalisation: levels were not normalised."""
    pixels = levels(4)
    torch.save([pixels.to(dtype), torch.tensor([0, 0, 1, 1])], tmp_path / "data.pt")
    mean, std = scale or (None, None)
    distilled = open_distilled(tmp_path / "data.pt", mean=mean, std=std)
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels))
    assert not recwarn.list


def test_a_mean_and_std_that_undo_nothing_are_refused(tmp_path: Path) -> None:
    values = (levels(4) / 255 - 0.5) / 0.05  # -10 to 10
    torch.save([values, torch.tensor([0, 0, 1, 1])], tmp_path / "data.pt")
    with pytest.raises(PydreamError, match=r"\d\d% of them are still beyond .* with others"):
        open_distilled(tmp_path / "data.pt", mean=(0, 0, 0), std=(1, 1, 1))


def test_values_beyond_the_range_are_clipped_with_a_warning(tmp_path: Path) -> None:
    values = torch.full((1, 3, 2, 2), 0.5)
    values[0, 0, 0] = torch.tensor([-0.5, 1.5])
    values[0, 1, 0, 0] = 2.0
    torch.save([values, torch.tensor([0])], tmp_path / "data.pt")
    with pytest.warns(RuntimeWarning, match=r"25\.00% of the values"):
        distilled = open_distilled(tmp_path / "data.pt", mean=(0, 0, 0), std=(1, 1, 1))
    assert distilled.images[0, 0].tolist() == [[0, 255, 128], [255, 128, 128]]


def test_images_and_labels_in_two_files(tmp_path: Path) -> None:
    pixels = levels(4)
    torch.save(pixels / 255, tmp_path / "images_best.pt")
    torch.save(torch.tensor([1, 0, 1, 0]), tmp_path / "labels_best.pt")
    distilled = open_distilled(tmp_path / "images_best.pt")
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels)[[1, 3, 0, 2]])


@pytest.mark.parametrize("logits", [True, False])
def test_dd_ranking_tensors_come_class_by_class(tmp_path: Path, logits: bool) -> None:
    pixels = levels(6)
    torch.save(pixels / 255, tmp_path / "images.pt")
    if logits:
        torch.save(torch.zeros(6, 3), tmp_path / "labels.pt")
    distilled = open_distilled(tmp_path, class_names=None if logits else "abc")
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels))
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]


LOGITS = torch.tensor([[0, 1, 9.0], [0, 2, 8], [3, 7, 0], [1, 6, 2], [5, 0, 1], [4, 3, 2]])


@pytest.mark.parametrize("place", ["beside", "pair", "dict", "probabilities", "half"])
def test_soft_labels_are_kept_and_name_the_classes(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, place: str
) -> None:
    """In the order of the file: each row of soft labels belongs to its image."""
    pixels, soft = levels(6), LOGITS
    if place == "probabilities":
        soft = torch.softmax(LOGITS.double(), dim=1)
    elif place == "half":
        soft = LOGITS.half()
    if place == "dict":
        torch.save({"images": pixels / 255, "labels": soft}, tmp_path / "images.pt")
    elif place == "pair":
        torch.save([pixels / 255, soft], tmp_path / "images.pt")
    else:
        torch.save(pixels / 255, tmp_path / "images.pt")
        torch.save(soft, tmp_path / "labels.pt")
    distilled = open_distilled(tmp_path / "images.pt")
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels))
    assert distilled.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert distilled.soft_labels is not None
    assert distilled.soft_labels.dtype == torch.float32
    # Logits count up to a constant of their row; 1e-5 is float32's rounding of logits near 10.
    ours, given = (torch.log_softmax(logits, 1) for logits in (distilled.soft_labels, LOGITS))
    assert torch.allclose(ours, given, atol=1e-5)
    assert distilled.labels_bytes == 6 * 3 * 4
    assert not recwarn.list


def test_soft_labels_beside_hard_ones_are_sorted_with_them(tmp_path: Path) -> None:
    pixels = levels(6)
    torch.save([pixels / 255, torch.tensor([2, 0, 1, 0, 1, 2])], tmp_path / "images.pt")
    torch.save(LOGITS, tmp_path / "soft_labels.pt")
    distilled = open_distilled(tmp_path)
    order = [1, 3, 2, 4, 0, 5]
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels)[order])
    assert distilled.soft_labels is not None
    assert torch.equal(distilled.soft_labels, LOGITS[order])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_one_hot_rows_are_hard_labels(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = torch.eye(3)[[2, 0, 1, 0, 1, 2]].to(dtype)
    torch.save([levels(6) / 255, rows], tmp_path / "data.pt")
    distilled = open_distilled(tmp_path / "data.pt")
    assert distilled.soft_labels is None
    assert np.array_equal(distilled.images.numpy(), as_numpy(levels(6))[[1, 3, 2, 4, 0, 5]])


@pytest.mark.parametrize("form", ["numbers", "column", "one-hot"])
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_soft_labels_are_kept_whatever_form_the_hard_ones_have(
    tmp_path: Path, form: str, place: str
) -> None:
    pixels, labels = levels(6), torch.tensor([2, 0, 1, 0, 1, 2])
    hard = {"numbers": labels, "column": labels[:, None], "one-hot": torch.eye(3)[labels]}[form]
    content = {"images": pixels / 255, "labels": hard}
    if place == "inside":
        content["soft_labels"] = LOGITS
    else:
        torch.save(LOGITS, tmp_path / "soft_labels.pt")
    torch.save(content, tmp_path / "images.pt")
    distilled = open_distilled(tmp_path)
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert distilled.soft_labels is not None
    assert torch.equal(distilled.soft_labels, LOGITS[[1, 3, 2, 4, 0, 5]])


def test_two_sets_of_soft_labels_are_refused(tmp_path: Path) -> None:
    torch.save({"images": levels(6), "labels": LOGITS}, tmp_path / "images.pt")
    torch.save(LOGITS, tmp_path / "soft_labels.pt")
    with pytest.raises(PydreamError, match="soft labels already, and there are soft_labels, too"):
        open_distilled(tmp_path)


@pytest.mark.parametrize(("scale", "shift"), [(1.001 / 255, -0.0004), (1.0, -0.2)])
def test_values_that_round_to_levels_need_no_mean_and_std(
    tmp_path: Path, scale: float, shift: float
) -> None:
    pixels = levels(4)
    torch.save([pixels * scale + shift, torch.tensor([0, 0, 1, 1])], tmp_path / "data.pt")
    assert np.array_equal(open_distilled(tmp_path / "data.pt").images.numpy(), as_numpy(pixels))


def test_soft_labels_that_leave_classes_uneven_go_class_by_class_and_it_is_said(
    tmp_path: Path,
) -> None:
    torch.save([levels(6) / 255, LOGITS.flip(1)[[0, 0, 2, 3, 4, 5]]], tmp_path / "data.pt")
    torch.save([levels(6) / 255, LOGITS[[0, 0, 0, 3, 4, 5]]], tmp_path / "uneven.pt")
    assert open_distilled(tmp_path / "data.pt").labels.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.warns(RuntimeWarning, match="class by class, though the soft labels of 5 of 6"):
        distilled = open_distilled(tmp_path / "uneven.pt")
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert distilled.soft_labels is not None
    assert torch.equal(distilled.soft_labels, LOGITS[[0, 0, 0, 3, 4, 5]])
    with pytest.raises(PydreamError, match="soft labels are of 3 classes, but 2 classes are named"):
        open_distilled(tmp_path / "uneven.pt", class_names="ab")


def test_soft_labels_beside_dd_rankings_folders(tmp_path: Path) -> None:
    write_folders(tmp_path / "images", ["00000", "00001", "00002"], levels(6))
    torch.save(LOGITS, tmp_path / "labels.pt")
    soft_labels = open_distilled(tmp_path).soft_labels
    assert soft_labels is not None
    assert torch.equal(soft_labels, LOGITS)
    torch.save(LOGITS[:, :2], tmp_path / "labels.pt")
    with pytest.raises(PydreamError, match="of 2 classes, but there are 3 class folders"):
        open_distilled(tmp_path)
    torch.save(LOGITS[:5], tmp_path / "labels.pt")
    with pytest.raises(PydreamError, match="for each of 6 images"):
        open_distilled(tmp_path)


def test_dd_ranking_folders_come_before_its_tensors(tmp_path: Path) -> None:
    pixels = levels(4)
    write_folders(tmp_path / "images", ["00000", "00001"], pixels)
    torch.save(pixels * 3.0, tmp_path / "images.pt")  # normalised by who knows what
    distilled = open_distilled(tmp_path)
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels))


def test_folders_name_the_classes(tmp_path: Path) -> None:
    pixels = levels(4)
    write_folders(tmp_path, ["newt", "ape"], pixels)
    distilled = open_distilled(tmp_path, class_names=["x", "y"])  # theirs count
    assert distilled.class_names == ("ape", "newt")
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels)[[2, 3, 0, 1]])
    assert distilled.manifest.images_per_class == 2


def test_numbered_folders_take_names(tmp_path: Path) -> None:
    write_folders(tmp_path, ["00000", "00001"], levels(2))
    assert open_distilled(tmp_path).class_names == ("00000", "00001")
    assert open_distilled(tmp_path, class_names=["b", "a"]).class_names == ("b", "a")
    with pytest.raises(PydreamError, match="do not fit 3 class names"):
        open_distilled(tmp_path, class_names=["a", "b", "c"])


@pytest.mark.parametrize("scheme", ["new{:03d}", "{}", "{:04d}", "class_{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbers_in_folder_names_are_matched_in_natural_order(
    tmp_path: Path, scheme: str, first: int
) -> None:
    names = [scheme.format(number + first) for number in range(11)]  # 10 sorts before 2 as text
    write_folders(tmp_path, names, levels(11))
    real = [f"class {letter}" for letter in "kjihgfedcba"]
    with pytest.warns(RuntimeWarning, match=rf"{names[0]} is class k, {names[-1]} is class a"):
        distilled = open_distilled(tmp_path, class_names=real)
    assert distilled.class_names == tuple(real)
    assert np.array_equal(distilled.images.numpy(), as_numpy(levels(11)))
    assert distilled.labels.tolist() == [*range(11)]
    assert open_distilled(tmp_path).class_names == tuple(names)
    with pytest.raises(PydreamError, match=rf"{names[0]} to {names[-1]}, 11 of them, .*--classes"):
        open_distilled(tmp_path, class_names=real[:9])


def test_folders_with_the_names_of_the_source_come_in_its_order(tmp_path: Path) -> None:
    write_folders(tmp_path, ["newt", "ape"], levels(4))
    distilled = open_distilled(tmp_path, class_names=["newt", "ape"])
    assert distilled.class_names == ("newt", "ape")
    assert distilled.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(distilled.images.numpy(), as_numpy(levels(4)))


def test_a_file_of_class_names_goes_before_all_others(tmp_path: Path) -> None:
    write_folders(tmp_path / "set", ["b2", "b10"], levels(2))
    torch.save([levels(2) / 255, torch.tensor([1, 0])], tmp_path / "data.pt")
    names = tmp_path / "names.txt"
    names.write_text("\ufefftwo\r\nten\n\n", encoding="utf-8")
    for path, order in ((tmp_path / "set", [0, 1]), (tmp_path / "data.pt", [1, 0])):
        distilled = open_distilled(path, class_names=["x", "y"], classes=names)
        assert distilled.class_names == ("two", "ten")
        assert np.array_equal(distilled.images.numpy(), as_numpy(levels(2))[order])
    names.write_text("two\nten\neleven")
    with pytest.raises(PydreamError, match=r"names 3 classes, .* 2 class folders, b2 to b10"):
        open_distilled(tmp_path / "set", classes=names)
    for text, message in (
        ("", "one class name a line"),
        ("a\n\nb", "none empty"),
        ("a\na", "once"),
    ):
        names.write_text(text)
        with pytest.raises(PydreamError, match=message):
            open_distilled(tmp_path / "set", classes=names)
    with pytest.raises(PydreamError, match=r"missing\.txt: class names cannot be read: No such"):
        open_distilled(tmp_path / "set", classes=tmp_path / "missing.txt")


def test_a_set_of_pydream(tmp_path: Path) -> None:
    pixels = levels(2)
    write_folders(tmp_path / "images", ["00000", "00001"], pixels)
    manifest = {"format": 1, "class_names": ["a", "b"], "images_per_class": 1, "side": SIDE}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    distilled = open_distilled(tmp_path)
    assert distilled.manifest == Manifest.from_json(manifest)
    assert (distilled.class_names, distilled.manifest.images_per_class) == (("a", "b"), 1)
    assert np.array_equal(distilled.images.numpy(), as_numpy(pixels))


def test_folders_of_images_that_differ_in_size(tmp_path: Path) -> None:
    write_folders(tmp_path, ["a", "b"], levels(2))
    Image.new("RGB", (SIDE, SIDE + 1)).save(tmp_path / "b" / "001.png")
    with pytest.raises(PydreamError, match=r"001\.png: the image is 6x5"):
        _ = open_distilled(tmp_path).images
    Image.new("RGB", (SIDE, SIDE + 1)).save(tmp_path / "a" / "000.png")
    with pytest.raises(PydreamError, match=r"000\.png: the image is 6x5; .* square"):
        open_distilled(tmp_path)


def test_folders_with_unequal_numbers(tmp_path: Path) -> None:
    write_folders(tmp_path, ["a", "b"], levels(4))
    (tmp_path / "b" / "003.png").unlink()
    opened = open_distilled(tmp_path)
    assert opened.labels.tolist() == [0, 0, 1]
    assert opened.manifest.images_per_class == (2, 1)


def test_a_file_with_unequal_numbers(tmp_path: Path) -> None:
    images = levels(4)
    torch.save([images, torch.tensor([1, 0, 0, 0])], tmp_path / "data.pt")
    opened = open_distilled(tmp_path / "data.pt")
    assert opened.labels.tolist() == [0, 0, 0, 1]
    assert opened.manifest.images_per_class == (3, 1)


class Carrier:
    """What no reader of weights alone would build."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


GREY = torch.full((4, 3, 2, 2), 0.5)
PAIRS = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([GREY, torch.tensor([0, 0, 2, 2])], "of 3 classes, numbered from 0, .* no image: 1"),
        ([GREY, torch.tensor([-1, -1, 0, 0])], "labels are -1 to 0"),
        ([GREY, torch.tensor([0, 0, 1, 2**62])], f"has labels of {2**62 + 1} classes, .* for 4"),
        ([GREY, PAIRS[:3]], r"for each of 4 images, got torch.int64 of shape \(3,\)"),
        ([GREY, PAIRS.float()], "one class number .* torch.float32"),
        ([GREY, torch.zeros(3, 2)], r"a row of floating point for each of 4 images.* \(3, 2\)"),
        ([GREY, torch.zeros(4, 2).long()], r"a row of floating point .* torch.int64"),
        ([GREY, torch.full((4, 2), torch.nan)], "soft labels hold values that are not finite"),
        ([GREY.short(), PAIRS], "must be floating point or uint8"),
        ([GREY[:, :2], PAIRS], r"got torch.float32 of shape \(4, 2, 2, 2\)"),
        ([GREY[..., :1], PAIRS], "must be square, they are 2x1"),
        ([torch.tensor(0.5), PAIRS], "floating point or uint8, of shape"),
        ([GREY / 0, PAIRS], "not finite"),
        ([GREY, PAIRS, PAIRS], "must be .images, labels."),
        ({"images": GREY}, "a dict with images and labels"),
        ({"dataset": "x", "data": GREY, "label": PAIRS[:3]}, r"torch.int64 of shape \(3,\)"),
        ({"dataset": "x", "data": GREY * 3, "label": PAIRS}, "100% of .* and CIM's are colours"),
        ({"dataset": "x", "data": "images", "label": PAIRS}, "a dict with images and labels"),
        (GREY, "images without labels"),
        ([GREY, Carrier()], "could run code"),
    ],
)
def test_files_that_hold_no_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, message: str
) -> None:
    torch.save(content, tmp_path / "data.pt")
    with pytest.raises(PydreamError, match=message) as refused:
        open_distilled(tmp_path / "data.pt")
    assert "\n" not in str(refused.value)
    assert "data.pt" in str(refused.value)
    assert capsys.readouterr().out == ""  # nothing in the file was run


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (MEAN[:1], STD),
        (MEAN, STD[:1]),
        (MEAN, (0.2, 0.2, 0.0)),
        (MEAN, None),
        ((float("nan"),) * 3, STD),
        (MEAN, (0.2, 0.2, float("inf"))),
    ],
)
def test_a_normalisation_that_cannot_be(
    tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...] | None
) -> None:
    torch.save([GREY - 1, PAIRS], tmp_path / "data.pt")
    with pytest.raises(PydreamError, match=r"-0\.5 to -0\.5, beyond .*3 numbers"):
        open_distilled(tmp_path / "data.pt", mean=mean, std=std)


def test_names_that_do_not_fit_the_labels(tmp_path: Path) -> None:
    torch.save([GREY, PAIRS], tmp_path / "data.pt")
    with pytest.raises(PydreamError, match="labels are 0 to 1, but must lie in 0 to 0"):
        open_distilled(tmp_path / "data.pt", class_names=["a"])
    with pytest.raises(PydreamError, match=r"of 3 classes, numbered from 0, .* no image: 2"):
        open_distilled(tmp_path / "data.pt", class_names=["a", "b", "c"])


def test_images_alone_must_divide_into_the_classes(tmp_path: Path) -> None:
    torch.save(GREY, tmp_path / "images.pt")
    with pytest.raises(PydreamError, match="4 images do not divide evenly into 3"):
        open_distilled(tmp_path, class_names=["a", "b", "c"])
    torch.save(["labels"], tmp_path / "labels.pt")
    with pytest.raises(PydreamError, match=r"labels\.pt must hold a tensor"):
        open_distilled(tmp_path)


def test_paths_that_lead_to_no_set(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "bytes.pt").write_bytes(b"hello")
    for name, message in {
        "missing": "does not exist; give a set of pydream",
        "empty": "holds no images",
        "note.txt": "is not a distilled set; give",
        "bytes.pt": r"bytes\.pt",
    }.items():
        with pytest.raises(PydreamError, match=message) as refused:
            open_distilled(tmp_path / name)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("to", ["dc", "mtt"])
def test_folders_of_tensors_that_exports_write(
    tmp_path: Path, make_set: Callable[..., Any], to: Layout
) -> None:
    ours = make_set(side=SIDE)
    folder = export_set(ExportConfig(ours.path, to, tmp_path / "out")).path
    mean, std = ours.manifest.mean, ours.manifest.std
    for path in (folder, find_tensors(folder)):
        assert path is not None
        assert torch.equal(open_distilled(path, mean=mean, std=std).images, ours.images)
    assert find_tensors(tmp_path) is None


def test_other_files_of_tensors_in_a_folder_are_to_be_named(tmp_path: Path) -> None:
    torch.save([levels(4), torch.tensor([0, 0, 1, 1])], tmp_path / "res_DC_ConvNet.pt")
    with pytest.raises(PydreamError, match=r"name the file of images: .*res_DC_ConvNet\.pt$"):
        open_distilled(tmp_path)
    assert len(open_distilled(tmp_path / "res_DC_ConvNet.pt").images) == 4


def test_a_set_of_pydream_takes_no_other_names(
    tmp_path: Path, make_set: Callable[..., Any]
) -> None:
    with pytest.raises(PydreamError, match="names its classes: leave out --classes"):
        open_distilled(make_set().path, classes=tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("names", "advised"), [(("00000", "00001"), True), (("ant", "bee"), False)]
)
def test_an_observer_of_named_classes_for_numbered_folders(
    tmp_path: Path, names: tuple[str, str], advised: bool
) -> None:
    write_folders(tmp_path / "set", [*names], levels(4))
    distilled = open_distilled(tmp_path / "set")
    observer: Any = SimpleNamespace(num_classes=2, class_names=("cat", "dog"), weights_sha256="")
    with pytest.raises(PydreamError, match=r"does not know the classes .*; give one tr") as error:
        class_order(observer, distilled)
    advice = ", or name the classes of the set with --source or --classes"
    assert str(error.value).endswith(advice) == advised
