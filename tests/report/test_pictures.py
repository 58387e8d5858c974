from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from pydream.report import contact_sheet
from pydream.report.pictures import BACKGROUND, data_uri, even_selection
from pydream.report.sheet_layout import GAP, MARGIN, shorten

# JPEG at quality 88 with halved chroma, on a smooth ramp: mean error in levels of 255.
JPEG_ERROR = 3.0


def noise(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count + side)
    shape = (count, side, side, 3)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def packed(pixels: np.ndarray) -> np.ndarray:
    """One number for each pixel."""
    alpha = np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)
    return np.concatenate([pixels, alpha], axis=2).view(np.uint32)[..., 0]


def find(sheet: Image.Image, picture: np.ndarray) -> list[tuple[int, int]]:
    """Where a picture occurs, pixel for pixel, on a sheet: (top, left)."""
    pixels = packed(np.asarray(sheet))
    picture = packed(picture)
    height, width = picture.shape
    corners = np.argwhere(pixels == picture[0, 0])
    return [
        (top, left)
        for top, left in corners.tolist()
        if np.array_equal(pixels[top : top + height, left : left + width], picture)
    ]


def enlarged(image: torch.Tensor, factor: int) -> np.ndarray:
    return np.kron(image.numpy(), np.ones((factor, factor, 1), dtype=np.uint8))


@pytest.mark.parametrize(
    ("side", "factor"), [(1, 96), (8, 12), (28, 3), (32, 3), (37, 3), (64, 2), (96, 1), (127, 1)]
)
def test_one_image_is_enlarged_by_a_whole_factor(side: int, factor: int) -> None:
    image = noise(1, side)
    sheet = contact_sheet(image, torch.tensor([0]), ["cat"])
    assert find(sheet, enlarged(image[0], factor)) == [
        (MARGIN, sheet.width - MARGIN - side * factor)
    ]
    assert sheet.height == side * factor + 2 * MARGIN
    left_of_image = np.asarray(sheet)[:, : sheet.width - MARGIN - side * factor]
    assert (left_of_image != BACKGROUND).any(), "the class has no name"


def test_rows_are_classes_and_columns_images() -> None:
    images, labels = noise(100, 32), torch.arange(10).repeat_interleave(10)
    sheet = contact_sheet(images, labels, [f"class {i}" for i in range(10)])
    places = [find(sheet, enlarged(image, 3)) for image in images]
    assert all(len(place) == 1 for place in places)
    step = 3 * 32 + GAP
    first = places[0][0]
    expected = [(first[0] + step * (i // 10), first[1] + step * (i % 10)) for i in range(100)]
    assert [place[0] for place in places] == expected


def test_labels_need_no_order_and_classes_no_equal_counts() -> None:
    images = noise(4, 96)
    sheet = contact_sheet(images, torch.tensor([2, 0, 2, 2]), ["a", "b", "c"])
    (top0, left0), (top1, left1) = (find(sheet, images[i].numpy())[0] for i in (1, 0))
    assert (top1 - top0, left1 - left0) == (96 + GAP, 0)  # class b has no image and no row
    assert find(sheet, images[3].numpy())[0] == (top1, left1 + 2 * (96 + GAP))
    assert sheet.height == 2 * 96 + GAP + 2 * MARGIN


def plain(count: int, side: int) -> torch.Tensor:
    """Images of one colour each: red and green count, blue is 3."""
    numbers = torch.arange(count)
    colours = torch.stack([numbers // 256, numbers % 256, numbers * 0 + 3], dim=1).to(torch.uint8)
    return colours[:, None, None].expand(count, side, side, 3).contiguous()


def test_a_thousand_classes_are_chosen_evenly_and_it_is_said() -> None:
    names = [f"a rather long name of class {i}" for i in range(1000)]
    sheet = contact_sheet(plain(1000, 64), torch.arange(1000), names)
    assert max(sheet.size) <= 4000
    pixels = np.asarray(sheet).astype(int)
    marked = pixels[pixels[..., 2] == 3]
    shown, area = np.unique(marked[:, 0] * 256 + marked[:, 1], return_counts=True)
    assert (shown[0], shown[-1]) == (0, 999)
    assert 500 < len(shown) < 1000
    assert np.ptp(np.diff(shown)) <= 1
    assert (area == 64 * 64).all()
    last_line = pixels[-MARGIN - 20 : -MARGIN]
    assert (last_line != BACKGROUND).any()
    assert not (last_line[..., 2] == 3).any()


def test_many_classes_of_one_image_stand_in_blocks() -> None:
    sheet = contact_sheet(plain(100, 32), torch.arange(100), ["name"] * 100)
    pixels = packed(np.asarray(sheet))
    colours = packed(plain(100, 32)[:, 0].numpy())[:, 0]
    places = np.array([np.argwhere(pixels == colour)[0] for colour in colours])
    lefts, sizes = np.unique(places[:, 1], return_counts=True)
    assert len(lefts) > 3
    assert sizes.max() - sizes.min() < len(lefts)
    assert 0.5 < sheet.height / sheet.width <= 1
    for block in lefts:  # the classes go on down a block, then in the next
        tops = places[places[:, 1] == block, 0]
        assert (np.diff(tops) == 96 + GAP).all()
    assert (np.diff(places[:, 1]) >= 0).all()


@pytest.mark.parametrize("largest_side", [300, 700, 4000])
@pytest.mark.parametrize(("side", "count"), [(9, 64), (61, 64), (224, 64), (1000, 3)])
def test_the_whole_stays_within_its_limit(side: int, count: int, largest_side: int) -> None:
    images, labels = noise(count, side), torch.arange(count) % 2
    sheet = contact_sheet(images, labels, ["x" * 500, "y"], largest_side=largest_side)
    assert max(sheet.size) <= largest_side


def test_large_images_are_reduced_by_the_mean() -> None:
    images = noise(40, 400)
    labels = torch.zeros(40, dtype=torch.int64)
    # 200 pixels are more than a sheet shows; 40 columns of 100 are more than 4000, those of 80 not.
    for count, factor in ((20, 4), (40, 5)):
        sheet = contact_sheet(images[:count], labels[:count], ["big"])
        reduced = np.asarray(Image.fromarray(images[0].numpy()).reduce(factor))
        assert len(find(sheet, reduced)) == 1


def test_per_class_takes_the_first_and_the_last() -> None:
    images = noise(9, 96)
    labels = torch.zeros(9, dtype=torch.int64)
    sheet = contact_sheet(images, labels, ["only"], per_class=3)
    assert [bool(find(sheet, image.numpy())) for image in images] == [
        place in (0, 4, 8) for place in range(9)
    ]


def test_grey_images_stay_grey() -> None:
    grey = torch.full((1, 33, 33, 3), 77, dtype=torch.uint8)
    sheet = np.asarray(contact_sheet(grey, torch.tensor([0]), ["7"]))
    assert (sheet == 77).all(axis=2).sum() >= 99 * 99


@pytest.mark.parametrize("name", ["", "\n\t", "a\udcff", "鳥", "x" * 5000, "<b>&amp;"])
def test_any_name_can_be_drawn(name: str) -> None:
    sheet = contact_sheet(noise(1, 32), torch.tensor([0]), [name])
    assert sheet.width < 400


@pytest.mark.parametrize("wanted", [1, 2, 3, 7, 10, 99])
def test_even_selection(wanted: int) -> None:
    chosen = even_selection(10, wanted)
    assert len(set(chosen)) == len(chosen) == min(wanted, 10)
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert wanted == 1 or chosen[-1] == 9


def test_shorten() -> None:
    assert shorten("short", 200) == "short"
    assert shorten("two  words\n", 200) == "two words"
    cut = shorten("a name that goes on and on and on", 100)
    assert cut.endswith("…")
    assert "a name that goes on and on and on".startswith(cut[:-1])


def test_data_uri_of_a_small_image_is_exact() -> None:
    image = noise(1, 64)[0]
    head, _, data = data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(decoded, image.numpy())


def test_data_uri_of_a_large_image_is_close() -> None:
    ramp = torch.arange(200, dtype=torch.uint8)
    image = torch.stack(
        [ramp[:, None].expand(200, 200), ramp.expand(200, 200), ramp.expand(200, 200)], dim=2
    )
    head, _, data = data_uri(image.contiguous()).partition(",")
    assert head == "data:image/jpeg;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(float)
    assert np.abs(decoded - image.numpy()).mean() < JPEG_ERROR


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "error", "words"),
    [
        ((2, 8, 8), torch.uint8, [0, 0], ValueError, "images must have shape"),
        ((2, 8, 8, 1), torch.uint8, [0, 0], ValueError, "images must have shape"),
        ((2, 8, 9, 3), torch.uint8, [0, 0], ValueError, "images must be square"),
        ((0, 8, 8, 3), torch.uint8, [], ValueError, "at least one"),
        ((2, 8, 8, 3), torch.float32, [0, 0], TypeError, "images must be uint8, got float32"),
        ((2, 8, 8, 3), torch.uint8, [0], ValueError, "labels must have shape"),
        ((2, 8, 8, 3), torch.uint8, [0, 2], ValueError, r"labels must be in \[0, 2\), got 2"),
        ((2, 8, 8, 3), torch.uint8, [0, -1], ValueError, "got -1"),
    ],
)
def test_bad_arguments_are_named(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    labels: list[int],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        contact_sheet(
            torch.zeros(shape, dtype=dtype), torch.tensor(labels, dtype=torch.int64), ["a", "b"]
        )


def test_a_sheet_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="largest_side is 100"):
        contact_sheet(noise(1, 224), torch.tensor([0]), ["a"], largest_side=100)
