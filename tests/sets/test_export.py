from __future__ import annotations

import dataclasses
import io
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from plain_sets import observer_entry, write_set
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import Normalize

from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.models import build_model, load_into, load_observer, read_weights, save_weights
from pydream.sets import ExportConfig, export_set, parquet_sets, shard_sets
from pydream.sets.distilled import load_set
from pydream.sets.image_formats import hash_image_files
from pydream.sets.imported import open_distilled
from pydream.sets.parquet_sets import manifest_of_card

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
# The observer's batch norm is folded into its convolutions, and its layout is channels last.
FOLDED = 1e-4
# Mean over the pixels of an image, in levels; two digits differ by forty and more.
ROUNDED_BY_JPEG = 16
# Bytes with a bit for each of up to 24 rows that has a value, which reading adds to a column.
BITMAP = 3
NAMES = [str(label) for label in range(10)]


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that DD-Ranking has, with classes in the reverse order of the set's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "observer.safetensors"
    metadata = {
        "arch": "convnet2",
        "side": "8",
        "classes": json.dumps(NAMES[::-1]),
        "mean": ",".join(map(str, MEAN)),
        "std": ",".join(map(str, STD)),
    }
    save_weights(build_model("convnet2", num_classes=10, side=8), path, metadata)
    return path


def pixels(folder: Path) -> np.ndarray:
    """Pixels of a set's files, (N, S, S, 3), as Pillow reads them."""
    files = sorted(folder.glob("images/*/*.png"))
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def logits_of(observer: Path, images: Tensor) -> Tensor:
    """What the network says to images in [0, 1], by class of the set."""
    model = build_model("convnet2", num_classes=10, side=8)
    load_into(model, observer, read_weights(observer)[0], "convnet2")
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        logits: Tensor = model.eval()((images - mean) / std).flip(1)
    return logits


def export(path: Path, to: Any, out: Path, **settings: Any) -> Path:
    result = export_set(ExportConfig(path, to, out, **settings))
    assert (result.path, result.to, result.images) == (out, to, 50)
    assert result.bytes == sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    return out


@pytest.mark.parametrize("to", ["tensors", "rded", "cim", "ddranking", "parquet", "rethinkdc"])
def test_what_is_written_reads_as_the_same_set(
    tmp_path: Path, digits_set: Path, observer: Path, to: str
) -> None:
    given = {"observer": str(observer)} if to == "ddranking" else {}
    before = {file: file.read_bytes() for file in digits_set.rglob("*") if file.is_file()}
    out = export(digits_set, to, tmp_path / "deep" / "out", **given)
    distilled = open_distilled(out, class_names=NAMES)
    assert np.array_equal(distilled.images.numpy(), pixels(digits_set))
    assert torch.equal(distilled.labels, load_set(digits_set).labels)
    assert distilled.class_names == tuple(NAMES)
    assert before == {file: file.read_bytes() for file in digits_set.rglob("*") if file.is_file()}


def test_tensors(tmp_path: Path, digits_set: Path, observer: Path) -> None:
    out = export(digits_set, "tensors", tmp_path / "out", observer=str(observer))
    images, labels = torch.load(out / "images.pt", weights_only=True)
    assert (images.dtype, images.shape) == (torch.float32, (50, 3, 8, 8))
    expected = pixels(digits_set).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images.numpy(), expected.astype(np.float32) / np.float32(255))
    assert (labels.dtype, labels.tolist()) == (torch.int64, [n // 5 for n in range(50)])
    soft = torch.load(out / "soft_labels.pt", weights_only=True)
    assert soft.dtype == torch.float16
    torch.testing.assert_close(soft, logits_of(observer, images).half())
    info = json.loads((out / "info.json").read_text())
    assert (info["class_names"], info["method"]) == (NAMES, "rded")
    assert info["images_sha256"] == hash_image_files(digits_set)
    assert info["observer"] == {
        "arch": "convnet2",
        "side": 8,
        "mean": list(MEAN),
        "std": list(STD),
        "weights_sha256": load_observer(observer).weights_sha256,
    }


def test_tensors_without_an_observer(tmp_path: Path, digits_set: Path) -> None:
    out = export(digits_set, "tensors", tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["images.pt", "info.json"]


# The pixels of these sets are noise, whose neighbours are as unlike as those of whitened images.
@pytest.mark.filterwarnings("ignore:.*look whitened:RuntimeWarning")
@pytest.mark.parametrize(("to", "name"), [("dc", "res.pt"), ("mtt", "images_best.pt")])
def test_normalised_tensors(tmp_path: Path, digits_set: Path, to: str, name: str) -> None:
    """As the tools of DC and MTT read them, and as `open_distilled` does."""
    out = export(digits_set, to, tmp_path / "out")
    content = torch.load(out / name, weights_only=True)
    if to == "dc":
        assert content["accs_all_exps"] == {}
        ((images, labels),) = content["data"]
    else:
        images, labels = content, torch.load(out / "labels_best.pt", weights_only=True)
    manifest = load_set(digits_set).manifest
    colours = torch.from_numpy(pixels(digits_set)).movedim(-1, 1) / 255
    expected = Normalize(manifest.mean, manifest.std)(colours)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(images, expected, rtol=0.0, atol=1e-6)  # a rounding of two
    again = open_distilled(out / name, mean=manifest.mean, std=manifest.std)
    assert np.array_equal(again.images.numpy(), pixels(digits_set))
    assert again.labels.tolist() == [n // 5 for n in range(50)]
    assert again.class_names == tuple(NAMES)


def test_a_set_without_mean_and_std_is_not_normalised(tmp_path: Path, digits_set: Path) -> None:
    file = digits_set / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "mean": None, "std": None}))
    with pytest.raises(PydreamError, match=r"records no mean and std .*: export it --to tensors"):
        export_set(ExportConfig(digits_set, "dc", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_images_in_float_are_kept(tmp_path: Path, digits_set: Path) -> None:
    """As DREAM+ leaves them beside the files: finer than 8 bits."""
    labels = load_set(digits_set).labels
    values = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save([values, labels], digits_set / "images.pt")
    out = export(digits_set, "tensors", tmp_path / "out")
    assert torch.equal(torch.load(out / "images.pt", weights_only=True)[0], values)
    torch.save([values, labels.flip(0)], digits_set / "images.pt")
    with pytest.raises(PydreamError, match=r"images\.pt does not hold the images and labels of"):
        export(digits_set, "tensors", tmp_path / "other")


def test_rded_folders(tmp_path: Path, digits_set: Path) -> None:
    out = export(digits_set, "rded", tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == [f"{label:05d}" for label in range(10)]
    copy = out / "00007" / "class00007_id00004.png"
    assert copy.read_bytes() == (digits_set / "images" / "00007" / "00004.png").read_bytes()
    assert [label for _, label in ImageFolder(out)] == [n // 5 for n in range(50)]


@pytest.mark.parametrize(("quality", "meant"), [(None, 95), (60, 60)])
def test_patches(tmp_path: Path, digits_set: Path, quality: int | None, meant: int) -> None:
    """As CV-DD and FADRM look for image k of a class, by numbers of five digits."""
    out = export(digits_set, "patches", tmp_path / "out", quality=quality)
    files = [
        out / "medium" / f"{label:05}" / f"class{label:05}_id{number:05}.jpg"
        for label in range(10)
        for number in range(5)
    ]
    assert sorted(file for file in out.rglob("*") if file.is_file()) == files
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", quality=meant)
    written: Any = [Image.open(file) for file in files]
    tables: Any = Image.open(stream)
    assert all(image.quantization == tables.quantization for image in written)
    found = np.stack([np.asarray(image) for image in written])
    off = np.abs(found.astype(int) - pixels(digits_set)).mean((1, 2, 3))
    assert off.max() < ROUNDED_BY_JPEG
    assert np.array_equal(open_distilled(out, class_names=NAMES).images.numpy(), found)


def test_patches_of_a_set_of_jpeg_files_are_copied(tmp_path: Path, digits_set: Path) -> None:
    for file in digits_set.glob("images/*/*.png"):
        Image.open(file).convert("RGB").save(file.with_suffix(".jpg"), quality=30)
        file.unlink()
    manifest = digits_set / "manifest.json"
    facts = {**json.loads(manifest.read_text()), "images_sha256": hash_image_files(digits_set)}
    manifest.write_text(json.dumps(facts))
    copies = sorted(export(digits_set, "patches", tmp_path / "out").rglob("*.jpg"))
    originals = sorted(digits_set.glob("images/*/*.jpg"))
    assert [file.read_bytes() for file in copies] == [file.read_bytes() for file in originals]
    other = export(digits_set, "patches", tmp_path / "other", quality=31)
    assert next(other.rglob("*.jpg")).read_bytes() not in [file.read_bytes() for file in originals]


def test_a_file_of_cim(tmp_path: Path, digits_set: Path) -> None:
    """A dict as its code saves it, with colours that its steps may leave beyond [0, 1]."""
    out = export(digits_set, "cim", tmp_path / "out")
    content = torch.load(out / "data.pt", weights_only=True)
    assert (content["dataset"], content["label"].tolist()) == (
        "digits",
        [n // 5 for n in range(50)],
    )
    colours = pixels(digits_set).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(content["data"].numpy(), colours)
    content["data"] += torch.where(content["data"] > 0.9, 0.3, 0.0)
    torch.save(content, out / "data.pt")
    with pytest.warns(RuntimeWarning, match=r"of the values are outside \[0, 1\], and are clipped"):
        found = open_distilled(out).images.numpy()
    bright = pixels(digits_set) > 0.9 * 255
    assert np.array_equal(found, np.where(bright, 255, pixels(digits_set)))


@pytest.mark.parametrize("shard_bytes", [1, 5_000, 1 << 30])
def test_parquet_files(
    tmp_path: Path, digits_set: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    """As the library of the Hugging Face Hub reads them, and as `open_source` does."""
    monkeypatch.setattr(parquet_sets, "_SHARD_BYTES", shard_bytes)
    monkeypatch.setattr(parquet_sets, "_GROUP_ROWS", 3)
    out = export(digits_set, "parquet", tmp_path / "out")
    shards = len(list((out / "data").glob("train-*.parquet")))
    assert (shards == 1, shards == 50) == (shard_bytes > 5_000, shard_bytes == 1)
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    read = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.features["label"].names == NAMES
    assert read["label"] == [n // 5 for n in range(50)]
    found = np.stack([np.asarray(image.convert("RGB")) for image in read["image"]])
    assert np.array_equal(found, pixels(digits_set))
    source = open_source(out)
    assert source.class_names == tuple(NAMES)
    files = sorted(digits_set.glob("images/*/*.png"))
    assert [source.read(index) for index in range(50)] == [file.read_bytes() for file in files]


def test_the_card_is_yaml_with_any_names(tmp_path: Path) -> None:
    """As PyYAML reads it, which the libraries of the Hub use; and a card of earlier versions."""
    names = ["\U0001f41c", "\\\U0001f41d", "\\ud83d\udc1d", "lone\udcff", "\x85 \u2028", "\u8681"]
    write_set(tmp_path / "set", names, side=8, factor=2)
    out = tmp_path / "out"
    export_set(ExportConfig(tmp_path / "set", "parquet", out))
    manifest = load_set(tmp_path / "set").manifest
    assert manifest_of_card(out) == manifest
    yaml = pytest.importorskip("yaml")
    front = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    info = front["dataset_info"]
    assert [*info["features"][1]["dtype"]["class_label"]["names"].values()] == names
    assert front["pydream"]["class_names"] == names
    columns = pq.read_table(out / "data" / "train-00000-of-00001.parquet")
    num_bytes = info["splits"][0].pop("num_bytes")
    assert info["splits"] == [{"name": "train", "num_examples": 18}]
    assert columns.nbytes - BITMAP <= num_bytes <= columns.nbytes
    earlier = "---\npydream: " + json.dumps(manifest.as_json()) + "\n---\n"
    (out / "README.md").write_text(earlier)
    assert manifest_of_card(out) == manifest


def test_shards(tmp_path: Path, digits_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the library WebDataset reads them, and as `open_source` does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_sets, "_SHARD_IMAGES", 20)
    out = export(digits_set, "webdataset", tmp_path / "out")
    again = export(digits_set, "webdataset", tmp_path / "again")
    names = sorted(file.name for file in out.iterdir())
    assert names == ["classnames.txt", *(f"train-{number:06d}.tar" for number in range(3))]
    assert all((out / name).read_bytes() == (again / name).read_bytes() for name in names)
    files = [file.read_bytes() for file in sorted(digits_set.glob("images/*/*.png"))]
    source = open_source(out)
    assert source.class_names == tuple(NAMES)
    assert source.labels.tolist() == [n // 5 for n in range(50)]
    assert [source.read(index) for index in range(50)] == files
    webdataset = pytest.importorskip("webdataset")
    shards = [str(out / name) for name in names[1:]]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["png"] for sample in samples] == files
    assert [int(sample["cls"]) for sample in samples] == [n // 5 for n in range(50)]


@pytest.mark.parametrize("to", ["tensors", "parquet"])
def test_what_is_exported_says_how_it_is_to_be_seen(
    tmp_path: Path, digits_set: Path, to: str
) -> None:
    file = digits_set / "manifest.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "factor": 2, "views": "dsa"}))
    distilled = open_distilled(export(digits_set, to, tmp_path / "out"))
    assert (distilled.manifest.factor, distilled.manifest.views) == (2, "dsa")


def test_parquet_of_others(tmp_path: Path, digits_set: Path) -> None:
    out = export(digits_set, "parquet", tmp_path / "out")
    (out / "README.md").write_text("---\npydream: {broken\n---\n")
    names = tmp_path / "names.txt"
    names.write_text("".join(f"digit {name}\n" for name in NAMES))
    distilled = open_distilled(out, classes=names)
    assert (distilled.manifest.factor, distilled.manifest.views) == (1, None)
    assert distilled.class_names[3] == "digit 3"
    assert distilled.images_bytes == load_set(digits_set).images_bytes
    assert torch.equal(distilled.stored[7:9].stack(), distilled.images[7:9])
    names.write_text("one\ntwo\n")
    with pytest.raises(PydreamError, match=r"--classes names 2 classes, but .* has 10"):
        open_distilled(out, classes=names)


def test_parquet_that_is_not_there(tmp_path: Path) -> None:
    for opened in (open_distilled, open_source):
        with pytest.raises(PydreamError, match=r"none\.parquet(: no such source| does not exist)"):
            opened(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("sides", "error"),
    [((8, 9), "is 9x9, but the first image of the set is 8x8"), ((None, 8), "is 4x8; images of")],
)
def test_parquet_of_other_images_is_refused(
    tmp_path: Path, sides: tuple[int | None, int], error: str
) -> None:
    contents = []
    for side in sides:
        stream = io.BytesIO()
        Image.new("RGB", (8, 4) if side is None else (side, side)).save(stream, "PNG")
        contents.append(stream.getvalue())
    pq.write_table(pa.table({"image": contents, "label": [0, 0]}), tmp_path / "a.parquet")
    with pytest.raises(PydreamError, match=error):
        assert len(open_distilled(tmp_path / "a.parquet").images)


def test_ddranking_trains_at_the_rate_that_a_set_has_learned(
    tmp_path: Path, digits_set: Path, observer: Path
) -> None:
    learned = shutil.copytree(digits_set, tmp_path / "learned")
    manifest = learned / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "student_rate": 0.025}))
    out = export(learned, "ddranking", tmp_path / "out", observer=str(observer))
    assert torch.load(out / "lr.pt", weights_only=True).item() == pytest.approx(0.025)


@pytest.mark.filterwarnings("ignore:.*(look whitened|class by class):RuntimeWarning")
def test_ddranking_files(tmp_path: Path, digits_set: Path, observer: Path) -> None:
    out = export(digits_set, "ddranking", tmp_path / "out", observer=str(observer))
    images = torch.load(out / "images.pt", weights_only=True)
    plain = torch.from_numpy(pixels(digits_set).transpose(0, 3, 1, 2) / 255).float()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    # Training takes them as they are, so they are as test images: normalised.
    torch.testing.assert_close(images, (plain - mean) / std)
    labels = torch.load(out / "labels.pt", weights_only=True)
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels, logits_of(observer, plain), atol=FOLDED, rtol=FOLDED)
    assert torch.load(out / "lr.pt", weights_only=True).item() == pytest.approx(0.001)
    assert [label for _, label in ImageFolder(out / "images")] == [n // 5 for n in range(50)]
    settings = json.loads((out / "config.json").read_text())
    assert (settings["dataset"], settings["ipc"], settings["im_size"]) == ("digits", 5, [8, 8])
    normalise = settings["custom_val_trans"][-1]
    assert normalise == {"name": "Normalize", "args": {"mean": list(MEAN), "std": list(STD)}}
    teacher = out / settings["teacher_dir"] / "digits" / settings["model_name"] / "ckpt_best.pt"
    own = read_weights(observer)[0]
    theirs = torch.load(teacher, weights_only=True)
    assert torch.equal(theirs["features.4.weight"], own["layers.conv.1.weight"])
    assert torch.equal(theirs["classifier.bias"], own["classifier.bias"].flip(0))
    # The tensors alone read as the same set, too.
    (out / "images").rename(tmp_path / "away")
    distilled = open_distilled(out, mean=MEAN, std=STD)
    assert np.array_equal(distilled.images.numpy(), pixels(digits_set))


def test_the_observer_of_the_set_keeps_its_order(
    tmp_path: Path, digits_set: Path, observer: Path
) -> None:
    network = load_observer(observer)
    manifest = json.loads((digits_set / "manifest.json").read_text())
    order = [*range(5, 10), *range(5)]
    manifest["observer"] = observer_entry(network.weights_sha256, order, network.arch)
    (digits_set / "manifest.json").write_text(json.dumps(manifest))
    out = export(digits_set, "tensors", tmp_path / "out", observer=str(observer))
    images, _ = torch.load(out / "images.pt", weights_only=True)
    soft = torch.load(out / "soft_labels.pt", weights_only=True)
    torch.testing.assert_close(soft, logits_of(observer, images).flip(1)[:, order].half())
    for number, wrong in enumerate(([*range(9)], [*range(9), 10], [*range(9), -1])):
        manifest["observer"]["class_order"] = wrong
        (digits_set / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(PydreamError, match="class_order does not fit the observer"):
            export(digits_set, "tensors", tmp_path / f"{number}", observer=str(observer))


def test_an_observer_of_other_classes(tmp_path: Path, digits_set: Path) -> None:
    paths = [tmp_path / name for name in ("named.safetensors", "nameless.safetensors")]
    model = build_model("convnet2-w8", num_classes=9, side=8)
    classes = {"classes": json.dumps([*NAMES[:8], "x"])}
    save_weights(model, paths[0], {"arch": "convnet2-w8", "side": "8", **classes})
    save_weights(model, paths[1], {"arch": "convnet2-w8", "side": "8"})
    messages = ["does not know the classes 8, 9 of", r"has 9 classes, but .* has 10"]
    for path, message in zip(paths, messages, strict=True):
        with pytest.raises(PydreamError, match=message):
            export(digits_set, "tensors", tmp_path / "out", observer=str(path))
        assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_or_left_half(
    tmp_path: Path, digits_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = tmp_path / "narrow.safetensors"
    model = build_model("convnet2-w32", num_classes=10, side=8)
    save_weights(model, narrow, {"arch": "convnet2-w32", "side": "8"})
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(PydreamError, match="out exists and is not overwritten"):
        export(digits_set, "rded", out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    there = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(PydreamError, match="no network like convnet2-w32"):
        export(digits_set, "ddranking", tmp_path / "new", observer=str(narrow))
    monkeypatch.setattr("shutil.copyfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(digits_set, "rded", tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == there


@pytest.mark.parametrize("to", ["tensors", "rded", "patches", "parquet", "webdataset"])
def test_images_that_are_not_the_manifests(tmp_path: Path, digits_set: Path, to: str) -> None:
    """One of another class, and one that is cut off: a set that `evaluate` refuses."""
    file, other = digits_set / "images/00003/00001.png", digits_set / "images/00004/00000.png"
    for content in (other.read_bytes(), file.read_bytes()[:-20]):
        file.write_bytes(content)
        with pytest.raises(PydreamError, match="set: the image files are not those its manifest"):
            export(digits_set, to, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["set"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_folder_that_cannot_be_made(tmp_path: Path, digits_set: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        PydreamError, match=r"out cannot be made, since .*file is not a folder: give another --out"
    ):
        export(digits_set, "rded", tmp_path / "file" / "out")


def test_settings_that_cannot_go_together(tmp_path: Path) -> None:
    config = ExportConfig(tmp_path, "tensors", tmp_path / "out")
    with pytest.raises(PydreamError, match="give its weights with --observer"):
        dataclasses.replace(config, to="ddranking")
    with pytest.raises(PydreamError, match=r"parquet holds images .* leave out --observer"):
        dataclasses.replace(config, to="parquet", observer="weights.pt")
    with pytest.raises(PydreamError, match="leave out --observer"):
        dataclasses.replace(config, to="rded", observer="weights.pt")
    with pytest.raises(PydreamError, match="rded keeps images as they are: leave out --quality"):
        dataclasses.replace(config, to="rded", quality=90)
    with pytest.raises(PydreamError, match="quality must be 1 to 100, got 101"):
        dataclasses.replace(config, to="patches", quality=101)


def test_the_command(
    tmp_path: Path,
    digits_set: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tyro", reason="the command line needs tyro")
    from pydream.cli import main

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["pydream", "export", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    out = tmp_path / "out"
    assert run(digits_set, "--to", "rded", "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 50
    assert run(digits_set, "--to", "tensors", "--out", tmp_path / "other") == 0
    assert "other: 50 images for tensors" in capsys.readouterr().out
    for arguments, message in (
        ((digits_set, "--to", "rded", "--out", out), "exists and is not overwritten"),
        ((tmp_path / "none", "--to", "rded", "--out", tmp_path / "x"), "no distilled set here"),
        ((digits_set, "--to", "ddranking", "--out", tmp_path / "x"), "--observer"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("pydream: ")
        assert error.count("\n") == 1
        assert message in error


def test_what_a_killed_export_left_is_removed_by_the_next(digits_set: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        ended = process.pid
    out = digits_set.with_name("out")
    left = out.with_name(f".out.{platform.node()}-{ended}.beside")
    left.mkdir()
    (left / "images.pt").touch()
    export_set(ExportConfig(set=digits_set, to="tensors", out=out))
    assert {path.name for path in digits_set.parent.iterdir()} == {"out", "set"}
