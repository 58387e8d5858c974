from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pydream.data import Source, open_source
from pydream.data.resized import side_of, whole_images
from pydream.data.unreadable import Unreadable
from pydream.errors import PydreamError
from pydream.models import ObserverConfig, load_observer, read_weights, train_observer
from pydream.models.training_data import TrainingImages, hold_out

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
# float32 pixels, normalised and undone: a few roundings of values up to 255.
PIXEL = 1e-3


def write_images(
    root: Path, classes: Sequence[str], count: int, side: int, suffix: str = ".png"
) -> None:
    """Images of one colour each, by which they can be told: (class, number, 0)."""
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = np.zeros((side, side + 7, 3), np.uint8)
            pixels[:] = (100 * label, number, 0)
            Image.fromarray(pixels).save(folder / f"{number:03}{suffix}")


def pixels_of(batch: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation: (n, 3, h, w) to 0..255 values (n, h, w, 3)."""
    return (batch.permute(0, 2, 3, 1) * STD + MEAN) * 255


def training_images(source: Source, side: int, **changes: Any) -> TrainingImages:
    options: dict[str, Any] = {
        "batch_size": 8,
        "horizontal_flip": True,
        "seed": 0,
        "workers": 2,
    }
    options |= {"allow_skipped": 0.01, **changes}
    return TrainingImages(source, np.arange(len(source)), side, **options)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_digits_are_learned_and_the_file_says_all(tmp_path: Path) -> None:
    out = tmp_path / "new" / "digits.safetensors"
    config = ObserverConfig(
        source="digits", arch="convnet2-w32", epochs=10, horizontal_flip=False, out=out
    )
    result = train_observer(config)
    assert result.top1 > 0.95
    assert (result.path, result.side, result.skipped) == (out, 8, 0)
    test = open_source("digits", "test")
    assert (result.images, result.held_out) == (len(test), "images of the test split")
    observer = load_observer(out)
    assert (observer.arch, observer.side) == ("convnet2-w32", 8)
    assert observer.class_names == test.class_names
    images = torch.stack([test.image(index) for index in range(len(test))]) / 255
    logits = observer.logits(((images - MEAN) / STD).permute(0, 3, 1, 2))
    right = (logits.argmax(1).numpy() == test.labels).mean()
    assert right == pytest.approx(result.top1, abs=1.5 / len(test))  # one image may be a tie
    assert read_weights(out)[1]["top1_test"] == f"{100 * result.top1:.2f}"


def test_the_seed_decides_the_bytes_and_nothing_else_does(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    weights = []
    for number, (workers, seed) in enumerate(((1, 0), (3, 0), (1, 1))):
        out = tmp_path / f"{number}.safetensors"
        train_observer(
            ObserverConfig(
                source="digits", arch="convnet1-w4", epochs=1, workers=workers, seed=seed, out=out
            )
        )
        weights.append(read_weights(out)[0])
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert sha256(tmp_path / "0.safetensors") == sha256(tmp_path / "1.safetensors")
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_large_images_are_streamed(tmp_path: Path) -> None:
    write_images(tmp_path / "set", ("a", "b"), 12, 90, ".jpg")
    config = ObserverConfig(
        source=str(tmp_path / "set"),
        arch="convnet2-w8",
        side=72,
        epochs=6,
        batch_size=5,
        learning_rate=0.02,
        out=tmp_path / "w.safetensors",
    )
    result = train_observer(config)
    assert result.top1 == 1.0  # the class is the amount of red
    assert (result.images, result.held_out) == (2, "training images kept aside")


@pytest.mark.parametrize("side", [16, 33])
def test_crops_of_small_images_are_windows_of_the_padded_image(side: int) -> None:
    source = open_source((torch.randint(256, (20, side, side, 3)).byte(), torch.arange(20) % 2))
    originals = torch.stack([source.image(index) for index in range(20)]).float()
    padding = {16: 2, 33: 4}[side]
    padded = torch.nn.functional.pad(originals, (0, 0, *4 * [padding]))
    windows = torch.stack(
        [
            padded[:, top : top + side, left : left + side]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
    )
    for flips in (False, True):
        images = training_images(source, side, horizontal_flip=flips)
        mirrored, seen, offsets = 0, [], set()
        for batch, labels in images.epoch():
            for view, label in zip(pixels_of(batch), labels, strict=True):
                matches = [
                    (turned, *place)
                    for turned, shown in ((False, view), (True, view.flip(1)))
                    for place in ((windows - shown).abs().amax((2, 3, 4)) < PIXEL)
                    .nonzero()
                    .tolist()
                ]
                assert len(matches) == 1
                turned, offset, index = matches[0]
                assert label == source.labels[index]
                mirrored += turned
                seen.append(index)
                offsets.add(offset)
        assert len(seen) == len(set(seen)) == images.steps * 8 == 16
        assert len(offsets) > 4
        assert 0 < mirrored < 16 if flips else mirrored == 0


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    source = open_source((torch.randint(256, (16, 8, 8, 3)).byte(), torch.arange(16) % 2))

    def epochs(seed: int) -> list[torch.Tensor]:
        images = training_images(source, 8, seed=seed, batch_size=16)
        return [next(iter(images.epoch()))[0] for _ in range(2)]

    assert all(torch.equal(a, b) for a, b in zip(epochs(3), epochs(3), strict=True))
    first, second = epochs(3)
    assert not torch.equal(first, second)
    assert not torch.equal(first, epochs(4)[0])


def test_crops_of_large_images_keep_image_and_label_together(tmp_path: Path) -> None:
    write_images(tmp_path / "set", ("a", "b"), 9, 80)
    source = open_source(tmp_path / "set")
    seen = []
    for batch, labels in training_images(source, 70, batch_size=4).epoch():
        assert batch.shape == (len(labels), 3, 70, 70)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        for view, label in zip(pixels_of(batch), labels, strict=True):
            assert (view - view[0, 0]).abs().max() < PIXEL  # one colour
            red, number, _ = view[0, 0].round().int().tolist()
            assert red == 100 * label
            seen.append((red, number))
    assert len(seen) == len(set(seen)) == 16


def test_large_crops_have_the_scale_of_random_resized_crop(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, 256))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(200):
            Image.fromarray(ramp).save(tmp_path / name / f"{number}.png", compress_level=0)
    heights = [
        (view[-1, :, 0].mean() - view[0, :, 0].mean()).item() / 256
        for batch, _ in training_images(open_source(tmp_path), 80, batch_size=40).epoch()
        for view in pixels_of(batch)
    ]
    # height² is area times the ratio: area has mean 0.54; the ratio is symmetric in its logarithm,
    # at most 4/3. 400 draws with a deviation below 0.3 give the mean to 0.02.
    assert np.mean(np.square(heights)) == pytest.approx(0.54, abs=0.06)
    assert min(heights) > (0.08 * 3 / 4) ** 0.5 - 0.02


def test_without_a_test_split_a_tenth_is_kept_aside() -> None:
    labels = torch.tensor([0] * 30 + [1] * 2 + [2] * 19)
    images = torch.zeros(len(labels), 8, 8, 3, dtype=torch.uint8)
    source = open_source((images, labels))
    train, aside, words = hold_out(source, None, 0)
    assert words == "training images kept aside"
    assert sorted([*train, *aside]) == list(range(51))
    assert np.bincount(source.labels[aside]).tolist() == [3, 1, 1]
    assert not np.array_equal(aside, hold_out(source, None, 1)[1])
    fewer, fewer_aside, _ = hold_out(open_source((images[:32], labels[:32])), None, 0)
    assert np.array_equal(fewer_aside, aside[aside < 32])
    assert len(fewer) == 28


def test_a_class_of_one_image_cannot_be_split() -> None:
    source = open_source((torch.zeros(3, 8, 8, 3, dtype=torch.uint8), torch.tensor([0, 0, 1])))
    with pytest.raises(PydreamError, match="class 1 has 1 image; at least 2 are needed"):
        hold_out(source, None, 0)


def test_splits_with_other_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "train", ("a", "b"), 2, 9)
    write_images(tmp_path / "set" / "test", ("a", "c"), 2, 9)
    with pytest.raises(PydreamError, match="classes"):
        train_observer(
            ObserverConfig(
                source=str(tmp_path / "set"), arch="convnet1-w4", out=tmp_path / "w.safetensors"
            )
        )


def test_few_broken_images_are_skipped_and_many_are_not(tmp_path: Path) -> None:
    write_images(tmp_path / "set", ("a", "b"), 60, 12)
    (tmp_path / "set" / "a" / "007.png").write_bytes(b"broken")
    for side in (12, 70):
        images = training_images(open_source(tmp_path / "set"), side, batch_size=1)
        seen = [
            (int(labels), round(float(pixels_of(batch)[0, side // 2, side // 2, 1])))
            for batch, labels in images.epoch()
        ]
        everything = {(label, number) for label in (0, 1) for number in range(60)}
        assert sorted(seen) == sorted(everything - {(0, 7)})
        assert {*images.unreadable.reasons} == {7}
    (tmp_path / "set" / "b" / "008.png").write_bytes(b"broken")
    for side in (12, 70):
        with pytest.raises(
            PydreamError, match=r"2 of 120 train images cannot be read, more than .* a/007\.png"
        ):
            list(training_images(open_source(tmp_path / "set"), side, batch_size=120).epoch())


def test_whole_images_in_order_without_the_broken(tmp_path: Path) -> None:
    write_images(tmp_path / "set", ("a", "b"), 5, 12)
    (tmp_path / "set" / "a" / "003.png").write_bytes(b"broken")
    source = open_source(tmp_path / "set")
    unreadable = Unreadable(source, 9, None)
    (tmp_path / "set" / "b" / "004.png").write_bytes(b"broken")
    done: list[Any] = []
    groups = []
    for group in whole_images(
        source, range(1, 10), 9, workers=2, unreadable=unreadable, rows=4, advance=done.append
    ):
        groups.append(group)
        assert len(done) < len(groups)  # what is being worked on is not done
    assert done == [4, 4, 1]  # unreadable ones, too
    assert [places for _, places in groups] == [[0, 1, 3], [4, 5, 6, 7]]
    assert unreadable.records() == [
        {"key": key, "reason": unreadable.reasons[place]}
        for key, place in (("a/003.png", 3), ("b/004.png", 9))
    ]
    for views, places in groups:
        assert views.shape == (len(places), 9, 9, 3)
        assert views[:, 4, 4, 1].tolist() == [(place + 1) % 5 for place in places]


@pytest.mark.parametrize(("size", "wanted"), [((8, 8), 8), ((64, 40), 40), ((65, 70), 224)])
def test_the_side_follows_from_the_images(size: tuple[int, int], wanted: int) -> None:
    images = torch.zeros(2, *size, 3, dtype=torch.uint8)
    assert side_of(open_source((images, torch.tensor([0, 1])))) == wanted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"side": 0}, "side must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"arch": "convnut2"}, "did you mean convnet2"),
        ({"arch": "convnet4"}, "at least 16, got 8"),
        ({"source": "nowhere"}, "nowhere"),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used"),
        ({"precision": "half"}, "auto or one of float32, bfloat16"),
        ({"arch": "convnet2-w4-none", "learning_rate": 1e30}, "diverged in epoch 1 of 1"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    options = {"source": "digits", "arch": "convnet1-w4", "epochs": 1, **changes}
    with pytest.raises(PydreamError, match=words) as error:
        train_observer(ObserverConfig(out=tmp_path / "w.safetensors", **options))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    out.write_text("mine")
    with pytest.raises(PydreamError, match="is not overwritten"):
        train_observer(ObserverConfig(source="digits", out=out))
    assert out.read_text() == "mine"


def test_unreadable_images_count_in_the_progress_of_the_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "set" / split, ("a", "b"), 3, 8)
    (tmp_path / "set" / "test" / "b" / "002.png").write_bytes(b"broken")
    out = tmp_path / "w.safetensors"
    config = ObserverConfig(source=str(tmp_path / "set"), arch="convnet1-w4", epochs=1, out=out)
    assert train_observer(config).images == 5
    assert re.search(r"measuring observer: 6 of 6 images, .* taken\n", capsys.readouterr().err)


def test_images_in_memory_and_the_default_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = torch.zeros(40, 8, 8, 3, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    images[labels == 1] = 200
    config = ObserverConfig(source="mine", arch="convnet1-w4", epochs=4, precision="bfloat16")
    result = train_observer(config, source=open_source((images, labels)))
    assert result.top1 == 1.0
    assert result.path.resolve() == tmp_path / "mine-convnet1-w4.safetensors"
    metadata = read_weights(result.path)[1]
    assert json.loads(metadata["classes"]) == ["0", "1"]
    assert metadata["norm"] == "batch"
