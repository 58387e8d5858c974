"""Files of strangers: each attack by the smallest file that carries it out.

docs/security.md says what is promised here.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pydream.data import archives, cache, open_source, parquet_access
from pydream.data.decode import decode_image
from pydream.data.layout import MOST_BYTES
from pydream.errors import ImageError, PydreamError
from pydream.models import build_model, load_observer, save_weights
from pydream.models.checkpoint import read_weights
from pydream.sets import ExportConfig, export_set
from pydream.sets.config import Layout
from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.imported import open_distilled

MakeSet = Callable[..., DistilledSet]

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\2\0\0\0\x90wS\xde\0\0\0\x0cIDATx\x9cc\xf8"
    b"\xff\xff?\0\5\xfe\2\xfe\r\xefF\xb8\0\0\0\0IEND\xaeB`\x82"
)


class Payload:
    """An object that writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


# Code in pickles


def test_the_payload_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def torch_file(path: Path, content: Any, *, old: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.mark.parametrize("old", [False, True])
def test_no_pickle_runs_code(tmp_path: Path, old: bool) -> None:
    mark = tmp_path / "ran"
    weights = torch_file(tmp_path / "weights.pt", {"state_dict": Payload(mark)}, old=old)
    with pytest.raises(PydreamError, match=r"refused.*any code"):
        read_weights(weights)
    images = torch_file(tmp_path / "images.pt", [Payload(mark), torch.arange(2)], old=old)
    with pytest.raises(PydreamError, match="objects that could run code"):
        open_distilled(images)
    torch.save(torch.rand(2, 3, 8, 8), tmp_path / "images_best.pt")
    torch_file(tmp_path / "labels_best.pt", Payload(mark), old=old)
    with pytest.raises(PydreamError, match="objects that could run code"):
        open_distilled(tmp_path / "images_best.pt")
    folder = tmp_path / "imagenet"
    (folder / "train" / "n01440764").mkdir(parents=True)
    (folder / "train" / "n01440764" / "a.png").write_bytes(PNG)
    (folder / "val").mkdir()
    (folder / "val" / "ILSVRC2012_val_00000001.png").write_bytes(PNG)
    torch_file(folder / "meta.bin", Payload(mark), old=old)
    with pytest.raises(PydreamError, match=r"meta\.bin"):
        open_source(str(folder), "test")
    assert not mark.exists()


def test_a_pickle_of_cifar_is_the_published_one(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(PydreamError, match="missing or damaged"):
        open_source(f"cifar10:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_no_array_is_unpickled(tmp_path: Path) -> None:
    objects = np.array([Payload(tmp_path / "ran")] * 2, dtype=object)
    for name in ("images", "labels", "class_names"):
        arrays: dict[str, Any] = {
            "images": np.zeros((2, 4, 4), np.uint8),
            "labels": np.arange(2),
            name: objects,
        }
        np.savez(tmp_path / "arrays.npz", **arrays)
        with pytest.raises(PydreamError, match=name):
            open_source(str(tmp_path / "arrays.npz"))
    assert not (tmp_path / "ran").exists()


# Sizes in memory and on disk


def compressed_again(file: Path) -> None:
    """Deflate the parts of a zip."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("how", ["deflated", "repeated", "without values"])
def test_a_torch_file_is_no_larger_in_memory(tmp_path: Path, how: str) -> None:
    images = torch.zeros(2, 3, 64, 64)
    if how == "repeated":
        images = torch.zeros(1).expand(10**9, 3, 64, 64)
    if how == "without values":
        images = torch.zeros(2, 3, 64, 64, device="meta")
    file = torch_file(tmp_path / "images.pt", [images, torch.arange(2)], old=False)
    if how == "deflated":
        compressed_again(file)
    with pytest.raises(PydreamError, match="is refused: "):
        open_distilled(file)
    torch_file(tmp_path / "weights.pt", {"state_dict": {"weight": images}}, old=False)
    if how == "deflated":
        compressed_again(tmp_path / "weights.pt")
    with pytest.raises(PydreamError, match="is refused: "):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        (
            {"arch": "convnet2-w1000000", "side": "32"},
            "does not hold weights for convnet2-w1000000",
        ),
        ({"arch": "convnet2-w64", "side": "9999"}, "9999×9999 images"),
        ({"arch": "convnet2-w16", "side": "1" * 5000}, "has the image side"),
    ],
)
def test_a_checkpoint_names_no_network_much_larger_than_itself(
    tmp_path: Path, named: dict[str, str], reason: str
) -> None:
    save_weights(build_model("convnet2-w16", num_classes=4, side=32), tmp_path / "a", named)
    with pytest.raises(PydreamError, match=reason):
        load_observer(tmp_path / "a")


def test_an_npz_is_refused_that_memory_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "arrays.npz"
    np.savez_compressed(file, images=np.zeros((100, 64, 64), np.uint8), labels=np.arange(100))
    assert len(open_source(str(file))) == 100
    monkeypatch.setattr("pydream.data.arrays.usable_memory", lambda: 100_000)
    with pytest.raises(PydreamError, match=r"this process may use 97\.7 KiB"):
        open_source(str(file))


def zip_of(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_a_member_of_a_zip_grows_to_no_more_than_it_tells_and_no_more_than_the_limit(
    tmp_path: Path,
) -> None:
    file = zip_of(tmp_path / "a.zip", {"ant/a.png": PNG, "ant/b.png": bytes(10**6)})
    data = bytearray(file.read_bytes())
    entry = data.rindex(b"ant/b.png") - 46  # in the directory
    for told, reason in ((1000, "differs"), (MOST_BYTES + 1, "above the limit")):
        struct.pack_into("<I", data, entry + 24, told)
        file.write_bytes(data)
        source = open_source(str(file))
        assert isinstance(source.read(0), bytes)
        with pytest.raises(ImageError, match=reason):
            source.read(1)


def tar_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    header = bytearray(member.tobuf())
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[124] = 0xFF if size < 0 else 0x80  # in base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def test_a_negative_size_in_a_tar_is_no_endless_loop(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(tar_header("ant/a.png", -1024) + bytes(1024))
    with pytest.raises(PydreamError, match=r"size below 0|negative"):
        open_source(str(file))


def sparse_tar(file: Path, members: dict[str, int]) -> Path:
    """Write a tar of files that are holes of so many bytes, in the format of GNU tar 1.28."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, size in members.items():
            member = tarfile.TarInfo(name)
            member.pax_headers = {
                "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": name,
                "GNU.sparse.size": str(size), "GNU.sparse.map": f"{size},0",
            }  # fmt: skip
            archive.addfile(member)
    return file


def test_a_hole_in_a_tar_takes_no_memory(tmp_path: Path) -> None:
    file = sparse_tar(tmp_path / "a.tar", {"ant/a.png": 1 << 40, "bee/a.png": 1})
    with pytest.raises(ImageError, match="above the limit"):
        open_source(str(file)).read(0)
    shard = sparse_tar(tmp_path / "b.tar", {"a.cls": 1 << 40, "a.png": 1})
    with pytest.raises(PydreamError, match="sparse or too large"):
        open_source(str(shard))


def test_a_compressed_tar_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_FREELY", 1 << 20)
    monkeypatch.setattr(cache, "_AT_ONCE", 1 << 18)
    for mode in ("gz", "bz2", "xz"):
        file = tmp_path / f"a.tar.{mode}"
        with tarfile.open(file, f"w:{mode}") as archive:  # type: ignore[call-overload]
            member = tarfile.TarInfo("ant/a.png")
            member.size = 8 << 20
            archive.addfile(member, io.BytesIO(bytes(member.size)))
        with pytest.raises(PydreamError, match="more than 100 times its size"):
            open_source(str(file))
    assert not [*(tmp_path / "cache").rglob("*.*")]


def test_the_development_kit_is_unpacked_within_a_limit(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet"
    for name in ("train/n01440764/a.png", "val/ILSVRC2012_val_00000001.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("ILSVRC2012_devkit_t12/data/meta.mat")
        member.size = 1 << 27
        archive.addfile(member, open("/dev/zero", "rb"))  # noqa: SIM115
    with pytest.raises(PydreamError, match="when decompressed"):
        open_source(str(folder), "test")


def test_names_of_a_thousand_folders_are_left_out(tmp_path: Path) -> None:
    deep = "/".join("a" * 20_000)
    for file in (
        zip_of(tmp_path / "a.zip", {"ant/a.png": PNG, f"{deep}/b.png": PNG}),
        tmp_path / "a.tar",
    ):
        if file.suffix == ".tar":
            with tarfile.open(file, "w") as archive:
                for name in ("ant/a.png", f"{deep}/b.png"):
                    member = tarfile.TarInfo(name)
                    member.size = len(PNG)
                    archive.addfile(member, io.BytesIO(PNG))
        source = open_source(str(file))
        assert [*source.keys] == ["ant/a.png"]
        assert source.ignored_kinds == {f"names of more than {archives._DEEPEST} folders": 1}


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_value_of_a_parquet_file_is_not_repeated_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """A dictionary holds the value once, and every row its number."""
    monkeypatch.setattr(parquet_access, "_FREELY", 1 << 20)
    rows, long = 3000, "x" * (1 << 16)
    values = {"image": PNG, "label": "ant"} | {column: long.encode() if column == "image" else long}
    zeros = pa.array([0] * rows, pa.int32())
    table = {
        name: pa.DictionaryArray.from_arrays(zeros, pa.array([value]))
        for name, value in values.items()
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet", store_schema=False, compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 5000
    with pytest.raises(PydreamError, match="more than 10 times its size"):
        open_source(str(tmp_path / "a.parquet")).read(0)


def test_the_provenance_of_a_set_does_not_grow(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_set().path
    monkeypatch.setattr(parquet_access, "_FREELY", 8 << 20)
    source = pa.array(["x" * (1 << 20)] * 20)
    pq.write_table(pa.table({"source": source}), path / "provenance.parquet", compression="zstd")
    with pytest.raises(PydreamError, match="more than 10 times its size"):
        load_set(path)


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_whose_rows_are_too_uneven_is_not_read(kind: str, tmp_path: Path) -> None:
    """20,000 rows of one cell would take 3 GB if all were as wide as the first."""
    for name in ("cat/0.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(PNG)
    first, row = "x" + "," * 20_000, "a"
    if kind == "jsonl":
        first, row = json.dumps({str(number): 0 for number in range(20_001)}), '{"0": 1}'
    (tmp_path / f"labels.{kind}").write_text("\n".join([first, *[row] * 20_000]))
    tracemalloc.start()
    try:
        assert open_source(tmp_path).class_names == ("cat", "dog")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(PydreamError, match=rf"labels\.{kind} has rows of 1 to 20,001 cells and"):
        open_source(tmp_path / f"labels.{kind}")


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_a_chunk_of_a_png_does_not_grow(kind: bytes) -> None:
    zeros = zlib.compress(bytes(100 << 20), 9)
    header = {b"iCCP": b"name\0\0", b"zTXt": b"name\0\0", b"iTXt": b"name\0\1\0\0\0"}[kind]
    bomb = PNG[:33] + chunk(kind, header + zeros) + PNG[33:]
    with pytest.raises(ImageError, match="too large"):
        decode_image(bomb)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif"])
def test_an_image_of_too_many_pixels_is_refused_by_its_header(suffix: str) -> None:
    side = 60_000
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bitmap = struct.pack("<IIiiHHIIiiII", 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    screen = struct.pack("<HH", side, side)
    image = {
        "png": PNG[:8] + ihdr + PNG[33:],
        "bmp": b"BM" + bytes(8) + bitmap,
        "gif": b"GIF89a" + screen + b"\0\0\0,\0\0\0\0" + screen + b"\0\2\2D\1\0;",
    }[suffix]
    with pytest.raises(ImageError, match="limit"):
        decode_image(image)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    with (tmp_path / "ant" / "a.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # a hole
    with pytest.raises(ImageError, match="above the limit"):
        open_source(str(tmp_path)).read(0)


def test_a_progressive_jpeg_has_not_any_number_of_scans() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG", progressive=True)
    image = stream.getvalue()
    assert decode_image(image).shape == (16, 16, 3)
    last = image[image.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="more than 200 scans"):
        decode_image(image[:-2] + last * 200 + image[-2:])


# Places on the disk


def test_members_and_links_of_archives_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    names = ("../secret.png", "ant/../../secret.png", "ant\\..\\..\\secret.png")
    file = zip_of(tmp_path / "a.zip", {"ant/a.png": PNG, **dict.fromkeys(names, PNG)})
    assert [*open_source(str(file)).keys] == ["ant/a.png"]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("ant/a.png")
        member.size = len(PNG)
        archive.addfile(member, io.BytesIO(PNG))
        for number, target in enumerate((str(tmp_path / "secret.png"), "../../secret.png")):
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                link = tarfile.TarInfo(f"ant/{number}{kind.decode()}.png")
                link.type, link.linkname = kind, target
                archive.addfile(link)
    assert [*open_source(str(tmp_path / "a.tar")).keys] == ["ant/a.png"]


@pytest.mark.parametrize("what", ["images", "images/00000", "images/00000/00000.png"])
@pytest.mark.parametrize("to", ["rded", "parquet", "webdataset"])
def test_an_export_copies_nothing_from_outside_of_the_set(
    make_set: MakeSet, tmp_path: Path, what: str, to: Layout
) -> None:
    path = make_set().path
    (path / what).rename(tmp_path / "elsewhere")
    (path / what).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PydreamError, match=f"{what}: links out of the set"):
        export_set(ExportConfig(set=path, to=to, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_links_inside_a_set_and_to_a_set_are_followed(make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set().path
    (path / "images").rename(path / "own")
    (path / "images").symlink_to("own")
    (tmp_path / "link").symlink_to(path)
    assert len(load_set(tmp_path / "link").images) == 6


def test_a_link_to_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "a.png").write_bytes(PNG)
    (tmp_path / "ant" / "b.png").symlink_to("/dev/zero")
    assert [*open_source(str(tmp_path)).keys] == ["ant/a.png"]
