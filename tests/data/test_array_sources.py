from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from sklearn.datasets import load_digits
from torchvision.datasets.utils import calculate_md5

from pydream.data import Source, has_split, open_source
from pydream.errors import PydreamError


def some_arrays(
    count: int = 20, shape: tuple[int, ...] = (5, 7, 3), classes: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    labels = rng.permutation(np.arange(count) % classes)
    return images, labels


def refusal(spec: Any, split: str = "train") -> str:
    with pytest.raises(PydreamError) as caught:
        open_source(spec, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def check(source: Source, images: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    """Keys name class and place in the array; pixels and labels are those at that place."""
    assert source.class_names == tuple(names)
    assert source.labels.dtype == np.int64
    assert (np.diff(source.labels) >= 0).all()
    assert list(source.keys) == sorted(source.keys, key=lambda k: (names.index(k[:-9]), k))
    places = [int(key[-8:]) for key in source.keys]
    assert sorted(places) == list(range(len(images)))
    for index, place in enumerate(places):
        assert source.labels[index] == labels[place]
        assert source.keys[index] == f"{names[labels[place]]}/{place:08d}"
        expected = np.broadcast_to(
            images[place].reshape(*images.shape[1:3], -1), (*images.shape[1:3], 3)
        )
        image = source.image(index)
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        assert np.array_equal(image.numpy(), expected)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1, 3)])
@pytest.mark.parametrize(
    "wrap", [np.asarray, torch.from_numpy, np.ndarray.tolist], ids=["array", "tensor", "list"]
)
def test_arrays_in_memory(shape: tuple[int, ...], wrap: Callable[[np.ndarray], object]) -> None:
    images, labels = some_arrays(shape=shape)
    kept = images if wrap is np.ndarray.tolist else wrap(images)
    check(open_source((kept, wrap(labels))), images, labels, ["0", "1", "2", "3"])


def test_strided_arrays() -> None:
    images, labels = some_arrays(shape=(10, 14, 3))
    view = np.flip(images, axis=2)[:, ::2]
    check(open_source((view, labels)), view, labels, ["0", "1", "2", "3"])
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    spec = (channels_first.permute(0, 2, 3, 1), torch.from_numpy(labels))
    check(open_source(spec), images, labels, ["0", "1", "2", "3"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_labels_of_any_integer_type(dtype: type) -> None:
    images, labels = some_arrays()
    check(open_source((images, labels.astype(dtype))), images, labels, ["0", "1", "2", "3"])


def test_arrays_have_no_test_split() -> None:
    assert has_split(some_arrays(), "train")
    assert not has_split(some_arrays(), "test")
    assert "no test split" in refusal(some_arrays(), "test")


def test_fingerprint_sees_pixels_and_labels() -> None:
    images, labels = some_arrays()
    marks = {open_source((images, labels)).fingerprint()}
    assert open_source((torch.from_numpy(images), labels)).fingerprint() in marks
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    marks.add(open_source((changed, labels)).fingerprint())
    marks.add(open_source((images, (labels + 1) % 4)).fingerprint())
    marks.add(open_source((images.reshape(20, 7, 5, 3), labels)).fingerprint())
    assert len(marks) == 4


IMAGES, LABELS = some_arrays()


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (IMAGES - 128.0, LABELS, "images are float64 from -.* undo their normalisation"),
        (IMAGES * np.nan, LABELS, "images are float64 from nan to nan"),
        (IMAGES.astype(np.uint16) * 257, LABELS, "images are uint16 from .* from 0 to 255"),
        (IMAGES.astype(str), LABELS, "images must be numbers of shape"),
        (IMAGES.astype(complex), LABELS, "images must be numbers of shape"),
        (IMAGES[0, 0], LABELS, "images must be numbers of shape"),
        (IMAGES[..., :2], LABELS, r"images must be .* \(20, 5, 7, 2\)$"),
        (IMAGES[:, :0], LABELS, "images are empty"),
        (IMAGES[:0], LABELS[:0], "images are empty"),
        (IMAGES, LABELS[:-1], "20 images but 19 labels"),
        (IMAGES, LABELS + 0.5, "labels must be integers or strings .* float64"),
        (IMAGES, LABELS[:, None, None], r"labels must be integers .* \(20, 1, 1\)"),
        (IMAGES, np.full((20, 4), 0.25), r"labels of shape \(20, 4\) must be one-hot, but row 0"),
        (IMAGES, np.ones((20, 4), dtype=int), "give one class for each image"),
        (IMAGES, LABELS - 1, "labels hold the negative value -1"),
        (IMAGES, LABELS + 1, "go up to 4, but no image has label 0; number the classes"),
        (IMAGES, LABELS * 2, "go up to 6, but no image has label 1"),
        (IMAGES, LABELS * 10**15, "go up to 3000000000000000, but no image has label 1"),
    ],
)
def test_wrong_arrays(images: np.ndarray, labels: np.ndarray, reason: str) -> None:
    with pytest.raises(PydreamError, match=reason):
        open_source((images, labels))


def test_pair_of_wrong_length() -> None:
    assert "a pair (images, labels), got 3 items" in refusal((1, 2, 3))


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_npz(tmp_path: Path) -> None:
    images, labels = some_arrays()
    test_images, test_labels = some_arrays(count=6, seed=1)
    names = ["zero", "b", "ä", "a"]
    path = save(
        tmp_path / "set.npz",
        images=images,
        labels=labels,
        class_names=np.array(names),
        test_images=test_images,
        test_labels=test_labels,
    )
    assert has_split(path, "train")
    assert has_split(str(path), "test")
    check(open_source(path), images, labels, names)
    check(open_source(str(path), "test"), test_images, test_labels, names)
    assert open_source(path).description == str(path)


def test_compressed_npz_without_names_or_test(tmp_path: Path) -> None:
    images, labels = some_arrays(shape=(8, 8), classes=11)
    np.savez_compressed(tmp_path / "set.npz", images=images, labels=labels)
    check(open_source(tmp_path / "set.npz"), images, labels, [str(i) for i in range(11)])
    assert not has_split(tmp_path / "set.npz", "test")
    assert "no test split" in refusal(tmp_path / "set.npz", "test")


def test_npz_test_split_may_lack_classes(tmp_path: Path) -> None:
    images, labels = some_arrays()
    path = save(
        tmp_path / "set.npz",
        images=images,
        labels=labels,
        test_images=images[labels == 2],
        test_labels=labels[labels == 2],
    )
    source = open_source(path, "test")
    assert source.class_names == ("0", "1", "2", "3")
    assert set(source.labels.tolist()) == {2}


@pytest.mark.parametrize(
    ("change", "split", "reason"),
    [
        ({"images": None}, "train", "no array 'images', only labels"),
        ({"labels": None}, "train", "no array 'labels', only images"),
        ({"images": IMAGES - 128.0}, "train", "undo their normalisation"),
        ({"images": IMAGES / 98}, "train", "undo their normalisation"),
        ({"images": IMAGES / 254.2}, "train", "undo their normalisation"),
        ({"images": np.full_like(IMAGES, np.nan, dtype=float)}, "train", "from nan to nan"),
        ({"labels": LABELS[:-1]}, "train", "20 images but 19 labels"),
        ({"labels": LABELS * 2}, "train", "no image has label 1"),
        ({"labels": LABELS[:0]}, "train", "labels are empty"),
        (
            {"labels": LABELS.astype(object)},
            "train",
            "'labels' cannot be read: Object arrays",
        ),
        ({"class_names": np.array(["a", "b"])}, "train", "2 class_names for 4 classes in labels"),
        ({"class_names": np.arange(4)}, "train", "class_names must be strings"),
        ({"class_names": np.array(["a", "b", "c", "a"])}, "train", "'a' more than once"),
        ({"test_images": IMAGES}, "test", "no array 'test_labels'"),
        ({"test_labels": LABELS}, "test", "no array 'test_images'"),
        ({"test_images": IMAGES[:5], "test_labels": LABELS}, "test", "5 images but 20 test_labels"),
        ({"test_images": IMAGES, "test_labels": LABELS + 1}, "test", "test_labels go up to 4, but"),
        ({"test_images": IMAGES, "test_labels": LABELS - 1}, "test", "negative value -1"),
        ({"test_images": IMAGES / -255, "test_labels": LABELS}, "test", "test_images are float64"),
        (
            {
                "labels": np.array(list("dcba"))[LABELS],
                "test_images": IMAGES,
                "test_labels": np.array(["e"] * 20),
            },
            "test",
            "test_labels hold 'e', which is not a class",
        ),
    ],
)
def test_wrong_npz(
    change: dict[str, np.ndarray | None], split: str, reason: str, tmp_path: Path
) -> None:
    arrays = {"images": IMAGES, "labels": LABELS, **change}
    path = save(tmp_path / "set.npz", **{name: a for name, a in arrays.items() if a is not None})
    message = refusal(path, split)
    assert message.startswith(f"{path}: ")
    assert reason in message


@pytest.mark.parametrize(
    "form",
    [
        lambda images: images / 255,
        lambda images: (images / 255).astype(np.float32),
        lambda images: images.astype(np.float32),
        lambda images: (images / 255 * 1.001 - 0.0004).astype(np.float32),  # a resize overshoots
        lambda images: np.where(images == 255, 255.3, images) - 0.2,
        lambda images: torch.from_numpy(
            images / 255
        ).bfloat16(),  # 8 bits hold 256 levels in [0, 1]
        lambda images: images.astype(np.int64),
        lambda images: images.transpose(0, 3, 1, 2),
        lambda images: (images / 255).transpose(0, 3, 1, 2),
        lambda images: np.concatenate([images, images[..., :1]], axis=3),
    ],
)
def test_images_in_other_forms_are_the_same_images(form: Callable[..., np.ndarray]) -> None:
    images, labels = some_arrays()
    check(open_source((form(images), labels)), images, labels, ["0", "1", "2", "3"])


def test_grey_images_with_channels_first_and_single_bits() -> None:
    images, labels = some_arrays(shape=(5, 7))
    check(open_source((images[:, None], labels)), images[..., None], labels, ["0", "1", "2", "3"])
    bits = images > 99
    check(open_source((bits, labels)), bits.astype(np.uint8) * 255, labels, ["0", "1", "2", "3"])


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda labels: labels[:, None], "0123"),
        (lambda labels: labels.astype(np.float32), "0123"),
        (lambda labels: np.eye(4)[labels], "0123"),
        (lambda labels: np.eye(4, dtype=bool)[labels], "0123"),
        (lambda labels: np.array(list("abcd"))[labels], "abcd"),
        (lambda labels: np.array(list("abcd"), dtype=object)[labels], "abcd"),
        (lambda labels: np.array(list("abcd"))[labels][:, None], "abcd"),
        (lambda labels: np.char.encode(np.array(list("äöüÿ")), "utf-8")[labels], "äöüÿ"),
    ],
)
def test_labels_in_other_forms_are_the_same_labels(
    form: Callable[..., np.ndarray], names: str
) -> None:
    images, labels = some_arrays()
    check(open_source((images, form(labels))), images, labels, list(names))


def test_one_label_in_two_encodings_is_refused() -> None:
    images, labels = some_arrays()
    names = np.array(["caf\u00e9", "cafe\u0301", "c", "d"])
    with pytest.raises(PydreamError, match="have the same name, encoded in two ways"):
        open_source((images, names[labels]))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("train_images", "train_labels"), ("test_images", "test_labels")),
        (("train_images", "train_labels"), ("val_images", "val_labels")),
        (("x_train", "y_train"), ("x_test", "y_test")),
        (("X_train", "Y_train"), ("X_test", "Y_test")),
        (("X", "y"), ("X_test", "y_test")),
        (("data", "target"), ("x_val", "y_val")),
        (("data", "labels"), ("test_images", "test_labels")),
    ],
)
def test_npz_by_names_of_other_libraries(
    train: tuple[str, str], test: tuple[str, str], tmp_path: Path
) -> None:
    images, labels = some_arrays()
    other_images, other_labels = some_arrays(count=6, seed=1)
    names = ["0", "1", "2", "3"]
    path = tmp_path / "set.npz"
    save(path, **{train[0]: images, train[1]: labels[:, None]})
    assert not has_split(path, "test")
    check(open_source(path), images, labels, names)
    arrays = {train[0]: images, train[1]: labels, test[0]: other_images, test[1]: other_labels}
    save(path, **arrays)
    assert has_split(path, "test")
    check(open_source(path), images, labels, names)
    check(open_source(path, "test"), other_images, other_labels, names)


def test_npz_of_other_arrays_is_told_the_names(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", weights=IMAGES, bias=LABELS)
    assert "no images and labels (images/labels, train_images/train_labels," in refusal(path)
    assert "only weights, bias" in refusal(path)


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".pkl", ".mat", ".h5"])
def test_files_of_arrays_that_are_no_sources_are_told_how_to_save_them(
    suffix: str, tmp_path: Path
) -> None:
    (tmp_path / f"set{suffix}").write_bytes(b"content")
    assert "numpy.savez(FILE, images=…, labels=…)" in refusal(tmp_path / f"set{suffix}")


@pytest.mark.parametrize(
    ("files", "named", "spec"),
    [
        ("cifar-10-batches-py/data_batch_1", "", "cifar10:{}"),
        ("cifar-10-batches-py/data_batch_1", "cifar-10-batches-py", "cifar10:{}"),
        ("cifar-100-python/train", "cifar-100-python", "cifar100:{}"),
        ("MNIST/raw/train-images-idx3-ubyte", "", "mnist:{}"),
        ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw", "mnist:{}"),
        ("FashionMNIST/raw/train-images-idx3-ubyte", "FashionMNIST/raw", "fashion-mnist:{}"),
        ("train_32x32.mat", "", "svhn:{}"),
        ("train_32x32.mat", "train_32x32.mat", "svhn:{}"),
    ],
)
def test_the_bare_files_of_a_torchvision_set_are_told_its_name(
    files: str, named: str, spec: str, tmp_path: Path
) -> None:
    (tmp_path / files).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / files).write_bytes(b"content")
    assert refusal(tmp_path / named).endswith(f"name it as {spec.format(tmp_path)}")


@pytest.mark.parametrize("folder", ["MNIST/raw", "cifar-10-batches-py", "cifar-100-python"])
def test_class_folders_called_as_those_of_torchvision_are_class_folders(
    folder: str, tmp_path: Path
) -> None:
    for name in ("one/1.png", "two/1.png"):
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_bytes(b"content")
    for named in (tmp_path / folder, tmp_path):
        assert open_source(named).class_names == ("one", "two")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "an empty name was given"),
        ("~nobody-of-that-name/x", "no home folder is known for ~nobody-of-that-name"),
        ("mnist:~nobody-of-that-name", "no home folder is known for ~nobody-of-that-name"),
        (None, "NoneType is not a source"),
        (np.zeros((2, 3, 3)), "ndarray is not a source"),
        ((torch.zeros(2, 3, 3).to_sparse(), [0, 1]), "must be arrays or dense tensors"),
        (([[[1]], [[1, 2]]], [0, 1]), "must be arrays or dense tensors"),
        ((np.zeros((2, 3, 3)), np.array(["a", None])), "must be integers or strings"),
    ],
)
def test_what_names_no_source_is_refused_in_a_line(spec: Any, reason: str) -> None:
    assert reason in refusal(spec)
    if not isinstance(spec, tuple):
        with pytest.raises(PydreamError, match=reason):
            has_split(spec, "test")


def test_words_that_an_option_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match='exif must be "ignore" or "apply", got \'aply\''):
        open_source("digits", exif="aply")  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    for method in ("iterdir", "exists"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, method, refused)
            assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Permission denied"


def test_damaged_npz(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "not a readable npz file" in refusal(path)
    path.write_bytes(b"")
    assert "not a readable npz file" in refusal(path)
    flipped = bytearray(content)
    flipped[len(flipped) // 4] ^= 0xFF
    path.write_bytes(flipped)
    assert "array 'images' cannot be read: Bad CRC-32" in refusal(path)


def test_single_array_named_npz(tmp_path: Path) -> None:
    with open(tmp_path / "set.npz", "wb") as file:
        np.save(file, IMAGES)
    assert "a single array" in refusal(tmp_path / "set.npz")


def test_digits_are_those_of_sklearn() -> None:
    bunch = load_digits()
    train, test = open_source("digits"), open_source("digits", "test")
    assert has_split("digits", "test")
    places = [int(key[-8:]) for source in (train, test) for key in source.keys]
    assert sorted(places) == list(range(1797))
    for source in (train, test):
        assert source.class_names == tuple("0123456789")
        for index in range(0, len(source), 37):
            place = int(source.keys[index][-8:])
            assert source.labels[index] == bunch.target[place]
            assert source.keys[index] == f"{bunch.target[place]}/{place:08d}"
            image = source.image(index)
            assert image.shape == (8, 8, 3)
            assert torch.equal(image[..., 0], image[..., 2])
            back = np.rint(image[..., 1].numpy() * (16 / 255))
            assert np.array_equal(back, bunch.images[place])
    assert max(train.image(i).max() for i in range(20)) == 255


def test_digits_are_split_evenly() -> None:
    train, test = open_source("digits"), open_source("digits", "test")
    share = np.bincount(test.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    assert share.min() > 0.19
    assert share.max() <= 0.2
    assert not set(train.ids) & set(test.ids)
    assert train.fingerprint() != test.fingerprint()
    assert train.fingerprint() == open_source("digits").fingerprint()


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist(name: str, tmp_path: Path) -> None:
    raw = tmp_path / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name] / "raw"
    names = {
        "mnist": [str(i) for i in range(10)],
        "fashion-mnist": torchvision.datasets.FashionMNIST.classes,
    }[name]
    written = {}
    for seed, (split, prefix) in enumerate((("train", "train"), ("test", "t10k"))):
        images, labels = some_arrays(count=30, shape=(28, 28), classes=10, seed=seed)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
        written[split] = images, labels
    for split, (images, labels) in written.items():
        source = open_source(f"{name}:{tmp_path}", split)
        check(source, images, labels, names)
        assert source.description == f"{name}:{tmp_path}"
    assert has_split(f"{name}:{tmp_path}", "test")


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {}
    for seed, split in enumerate(("train", "test")):
        images, labels = some_arrays(count=30, shape=(32, 32, 3), classes=10, seed=seed)
        stored = {
            "X": images.transpose(1, 2, 3, 0),
            "y": np.where(labels == 0, 10, labels)[:, None],
        }
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, stored)
        listed[split] = ["http://localhost", path.name, calculate_md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    for seed, split in enumerate(("train", "test")):
        images, labels = some_arrays(count=30, shape=(32, 32, 3), classes=10, seed=seed)
        check(open_source(f"svhn:{tmp_path}", split), images, labels, list("0123456789"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in the published layout; torchvision checks their MD5, so it is told of these."""
    dataset = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
    cifar = dataset[name]
    folder = tmp_path / cifar.base_folder
    folder.mkdir()
    classes = int(name[5:])
    names = [f"class {i}" for i in range(classes)]
    key = "fine_labels" if name == "cifar100" else "labels"

    def write(file: str, content: object) -> list[str]:
        (folder / file).write_bytes(pickle.dumps(content))
        return [file, calculate_md5(folder / file)]

    written = {}
    for seed, split in enumerate(("train", "test")):
        images, labels = some_arrays(2 * classes, (32, 32, 3), classes, seed)
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        listed = [
            write(f"{split}_{part}", {"data": rows[part::2], key: labels[part::2].tolist()})
            for part in range(2)
        ]
        monkeypatch.setattr(cifar, f"{split}_list", listed)
        written[split] = [np.concatenate([a[0::2], a[1::2]]) for a in (images, labels)]
    meta = {**cifar.meta, "filename": "meta"}
    meta["md5"] = write("meta", {meta["key"]: names})[1]
    monkeypatch.setattr(cifar, "meta", meta)

    for split in ("train", "test"):
        check(open_source(f"{name}:{tmp_path}", split), written[split][0], written[split][1], names)
    (folder / "train_1").write_bytes(b"damaged")
    assert "missing or damaged" in refusal(f"{name}:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("svhn", "."),
    ],
)
def test_missing_torchvision_files(name: str, folder: str, tmp_path: Path) -> None:
    message = refusal(f"{name}:{tmp_path}")
    assert f"missing or damaged in {tmp_path / folder};" in message
    assert "download=True" in message
    assert not list(tmp_path.iterdir())


def test_torchvision_set_without_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        refusal("cifar10") == "cifar10: which files? Name the folder that holds them: cifar10:ROOT"
    )
    assert "Name the folder" in refusal("mnist:")
    for number in range(2):
        folder = tmp_path / "cifar10" / str(number)
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(b"")
    assert open_source("cifar10").class_names == ("0", "1")
