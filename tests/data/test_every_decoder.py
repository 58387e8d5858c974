"""Odd and broken images: the same pixels or the same words from every source and every decoder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import decode_with_pillow, encode, encode_png16, make_pixels
from PIL import Image
from trees import pack

from pydream.data import ImageError, Source, decode, device_jpeg, open_source
from pydream.data.decode import decode_image
from pydream.data.device_jpeg import decode_on
from pydream.data.prefetch import decode_ahead, read_ahead

CPU = torch.device("cpu")
# Pillow and torchvision come with builds of libjpeg-turbo of their own: one step each.
JPEG_STEPS = 2


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The places in shards go to a cache of the test, not to the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def odd_images() -> dict[str, tuple[bytes, np.ndarray]]:
    """Images that are rare but whole, by file name: with their pixels by Pillow or arithmetic."""
    colours = Image.fromarray(make_pixels(20, 31))
    samples = np.random.default_rng(0).integers(0, 65536, (7, 13, 3), dtype=np.uint16)
    grey = np.linspace(0, 65535, 91).astype(np.uint16).reshape(7, 13)
    files = {
        "cmyk.jpg": encode(colours.convert("CMYK"), "JPEG"),
        "grey.jpg": encode(colours.convert("L"), "JPEG"),
        "plain.jpg": encode(colours, "JPEG"),
        "progressive.jpg": encode(colours, "JPEG", progressive=True),
        "tiny-jpeg.jpg": encode(make_pixels(1, 1), "JPEG"),
        "palette.png": encode(colours.quantize(16), "PNG"),
        "tiny-png.png": encode(make_pixels(1, 1), "PNG"),
        "png-in-name-only.png": encode(colours, "JPEG"),
        "still.webp": encode(colours, "WEBP", lossless=True),
    }
    found = {name: (data, decode_with_pillow(data)) for name, data in files.items()}
    high = (samples // 256).astype(np.uint8)
    found["deep.png"] = encode_png16(samples, 2), high
    high = (grey // 256).astype(np.uint8)[..., None]
    found["deep-grey.png"] = encode(grey, "PNG"), np.repeat(high, 3, axis=2)
    return found


def broken_images() -> dict[str, tuple[bytes, str]]:
    """Images that cannot be decoded, with words of the reason, by file name."""
    jpeg, png = encode(make_pixels(64, 48), "JPEG"), encode(make_pixels(64, 48), "PNG")
    huge = bytearray(jpeg)
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    flat = bytearray(jpeg)
    flat[frame + 5 : frame + 7] = b"\0\0"
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0x55
    floats = encode(np.linspace(0, 1, 91, dtype=np.float32).reshape(7, 13), "TIFF")
    return {
        "cut-jpeg.jpg": (jpeg[: len(jpeg) // 2], "damaged JPEG: Image is incomplete or truncated"),
        "cut-in-header.jpg": (jpeg[:20], "damaged JPEG: cut off or without a frame header"),
        "cut-png.png": (png[: len(png) // 2], "damaged PNG: cut off"),
        "flat.jpg": (bytes(flat), "image of 48×0 pixels"),
        "flipped.png": (bytes(flipped), "damaged PNG: wrong checksum in chunk IDAT"),
        "huge.jpg": (bytes(huge), "65535×65535 = 4,294,836,225 pixels, above the limit"),
        "page.jpg": (b"<!doctype html><p>Not found", "not an image but a web page"),
        "floats.tiff": (floats, "TIFF of 32-bit samples"),
    }


ODD, BROKEN = odd_images(), broken_images()
FILES = {name: data for name, (data, _) in [*ODD.items(), *BROKEN.items()]}


def as_folder(root: Path) -> Path:
    for name, data in FILES.items():
        (root / "ant").mkdir(parents=True, exist_ok=True)
        (root / "ant" / name).write_bytes(data)
    return root


def as_parquet(root: Path) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": data, "path": name} for name, data in FILES.items()]
    labels = pa.array(["ant"] * len(images))
    root.mkdir()
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), root / "a.parquet")
    return root


def as_shard(root: Path) -> Path:
    root.mkdir()
    with tarfile.open(root / "train-000.tar", "w") as archive:
        for name, data in FILES.items():
            for member, content in ((name, data), (f"{name.partition('.')[0]}.cls", b"0")):
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return root


SOURCES: dict[str, Callable[[Path], Path]] = {
    "folder": as_folder,
    "zip": lambda root: pack(as_folder(root), "zip"),
    "tar": lambda root: pack(as_folder(root), "tar"),
    "parquet": as_parquet,
    "shard": as_shard,
}

Found = torch.Tensor | str


def each_alone(source: Source) -> list[Found]:
    def one(index: int) -> Found:
        try:
            return source.image(index)
        except ImageError as error:
            return str(error)

    return [one(index) for index in range(len(source))]


def in_threads(source: Source) -> list[Found]:
    found = decode_ahead(source, range(len(source)), workers=2, budget=1 << 20)
    return [str(image) if isinstance(image, ImageError) else image for image in found]


def on_device(source: Source) -> list[Found]:
    """JPEGs that a GPU would decode go to its decoder, which the CPU's plays."""
    read = [*read_ahead(source, range(len(source)), workers=2, budget=1 << 20)]
    whole = [index for index, image in enumerate(read) if not isinstance(image, ImageError)]
    images, errors = decode_on(CPU, [image for image in read if not isinstance(image, ImageError)])
    found: list[Found] = [str(image) for image in read]
    for place, index in enumerate(whole):
        found[index] = errors.get(place, images[place])
    return found


def played(data: Sequence[torch.Tensor], mode: int, device: torch.device) -> list[torch.Tensor]:
    return [torch.ops.image.decode_jpeg(jpeg, mode, False) for jpeg in data]


class _Stream:
    def synchronize(self) -> None:
        pass


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: _Stream())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(device_jpeg, "_decode_jpegs", played)


def compare(source: Source, found: Sequence[Found]) -> None:
    assert len(found) == len(FILES)
    for key, image in zip(source.keys, found, strict=True):
        name = key.rpartition("/")[2]
        if name in BROKEN:
            assert isinstance(image, str), name
            assert BROKEN[name][1] in image
        else:
            assert isinstance(image, torch.Tensor), (name, image)
            data, expected = ODD[name]
            steps = JPEG_STEPS if data.startswith(b"\xff\xd8") else 0
            assert image.shape == expected.shape, name
            assert np.abs(image.numpy().astype(int) - expected).max() <= steps, name
            if decode._torchvision_jpeg is not None:
                assert torch.equal(image, decode_image(data)), name


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("read", [each_alone, in_threads, on_device], ids=lambda f: f.__name__)
def test_every_source(tmp_path: Path, kind: str, read: Callable[[Source], list[Found]]) -> None:
    source = open_source(str(SOURCES[kind](tmp_path / "set")))
    compare(source, read(source))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("read", [each_alone, in_threads, on_device], ids=lambda f: f.__name__)
def test_without_torchvisions_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Source], list[Found]]
) -> None:
    monkeypatch.setattr(decode, "_torchvision_jpeg", None)
    source = open_source(str(as_folder(tmp_path / "set")))
    compare(source, read(source))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("driver", [None, "no driver"])
def test_a_gpu_that_cannot_decode_leaves_all_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str | None
) -> None:
    def refuse(*_: object) -> list[torch.Tensor]:
        raise RuntimeError("nvjpegCreateSimple failed: the driver is too old")

    monkeypatch.setattr(device_jpeg, "_decode_jpegs", driver and refuse)
    source = open_source(str(as_folder(tmp_path / "set")))
    compare(source, on_device(source))
