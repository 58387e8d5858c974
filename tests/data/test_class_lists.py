"""Some classes of a source, in an order of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pydream.data import has_split, open_source
from pydream.data.class_lists import _SUBSETS, chosen_labels
from pydream.errors import PydreamError


def photos(root: Path, *classes: str) -> Path:
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            for number in range(label + 1):
                place = root / split / name / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((2, 2, 3), 10 * label + number, np.uint8)).save(place)
    return root


def test_a_file_chooses_classes_and_their_order(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", "ant", "bee", "cat", "long name")
    names = tmp_path / "names.txt"
    names.write_text("cat\nlong name\nant, an insect\n\n".replace("ant,", "ant"))
    spec = f"{root}:classes={names}"
    source, whole = open_source(spec), open_source(root)
    assert source.class_names == ("cat", "long name", "ant")
    assert source.description == spec
    assert source.labels.tolist() == [0] * 3 + [1] * 4 + [2]
    rows = [list(whole.keys).index(key) for key in source.keys]
    assert source.keys[0] == "cat/0.png"
    assert [source.read(index) for index in range(8)] == [whole.read(row) for row in rows]
    assert source.ids.tolist() == whole.ids[rows].tolist()
    assert has_split(spec, "test")
    assert open_source(spec, "test").class_names == source.class_names
    names.write_text("ant\ncat\nlong name\n")
    assert open_source(spec).fingerprint() != source.fingerprint()


def test_other_classes_or_another_order_are_other_images(tmp_path: Path) -> None:
    """Also where no contents are hashed, which may be equal for images of two classes."""
    root, names = photos(tmp_path / "photos", "ant", "bee", "cat"), tmp_path / "names.txt"
    found = [open_source(root).fingerprint([])]
    for text in ("ant\nbee\n", "bee\ncat\n", "cat\nbee\n", "cat\nbee\nant\n"):
        names.write_text(text)
        source, again = (open_source(f"{root}:classes={names}") for _ in range(2))
        assert again.fingerprint([]) == source.fingerprint([]) != source.fingerprint([0])
        found.append(source.fingerprint([]))
    assert len({*found}) == 5


@pytest.mark.parametrize(
    ("text", "wanted"), [("1:3", [1, 2]), (":2", [0, 1]), ("2:", [2, 3]), (":", [0, 1, 2, 3])]
)
def test_a_range_chooses_classes(text: str, wanted: list[int]) -> None:
    assert chosen_labels(text, "abcd", "photos") == wanted


def test_the_digits_and_known_sets_have_classes_to_choose() -> None:
    assert open_source("digits:classes=3:7").class_names == ("3", "4", "5", "6")


def test_subsets_of_imagenet_are_of_its_classes() -> None:
    imagenet = pytest.importorskip("timm.data").ImageNetInfo().label_names()
    for name, text in _SUBSETS.items():
        labels = chosen_labels(name, imagenet, "imagenet")
        assert len(labels) == (100 if name == "imagenet-100" else 10)
        assert [imagenet[label] for label in labels] == text.split()
    # The class numbers of MTT's code.
    meow = [281, 282, 283, 284, 285, 291, 292, 290, 289, 287]
    assert chosen_labels("imagemeow", imagenet, "imagenet") == meow


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("bee\nwolf\nape\n", r"names\.txt: of 3 classes, photos lacks wolf, ape"),
        ("bee\nant\nbee\n", r"names\.txt: classes are named twice: bee"),
        ("\n \n", r"names\.txt: names no class"),
        (None, r"names\.txt: cannot be read: No such file.*or imagenette, imagewoof"),
    ],
)
def test_a_bad_list_is_named(tmp_path: Path, text: str | None, error: str) -> None:
    file = tmp_path / "names.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PydreamError, match=error):
        chosen_labels(str(file), ("ant", "bee", "cat"), "photos")


@pytest.mark.parametrize("text", ["2:2", "3:1", "0:5"])
def test_a_bad_range_is_named(text: str) -> None:
    with pytest.raises(PydreamError, match="photos has classes 0 to 3, so give 0:4 or a part"):
        chosen_labels(text, "abcd", "photos")


def test_a_path_that_exists_has_no_options(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos:classes=1:2", "ant", "bee", "cat")
    assert open_source(str(root)).class_names == ("ant", "bee", "cat")
    assert open_source(f"{root}:classes=1:2").class_names == ("bee",)
