"""Archives as people of the field have them: compressed, nested, linked, named in any encoding."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import io
import lzma
import os
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow
import pytest
import scipy.io
from pictures import encode, make_pixels, write_class_folders

from pydream.data import cache, has_split, open_source
from pydream.data.archives import open_archive
from pydream.errors import ImageError, PydreamError

CLASSES = {"ant": 2, "bee": 3}


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pydream"


def zstd(data: bytes) -> bytes:
    compressed: bytes = pyarrow.compress(data, "zstd", asbytes=True)
    return compressed


def tar_of(files: dict[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def contents(path: Path, split: str = "train") -> dict[str, Any]:
    source = open_source(path, split)
    return {key: source.read(index) for index, key in enumerate(source.keys)}


def refusal(path: Path) -> str:
    with pytest.raises(PydreamError) as caught:
        open_source(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("set.tar.gz", gzip.compress),
        ("50%off.tar.gz", gzip.compress),
        ("set.tgz", gzip.compress),
        ("set.tar.bz2", bz2.compress),
        ("set.tar.xz", lzma.compress),
        ("set.tar.zst", zstd),
        ("SET.TAR", gzip.compress),
    ],
)
def test_a_compressed_tar_is_decompressed_once_and_said(
    name: str,
    compress: Callable[[bytes], bytes],
    tmp_path: Path,
    cache_home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = write_class_folders(tmp_path / "root", CLASSES)
    (tmp_path / name).write_bytes(compress(tar_of(written)))
    assert contents(tmp_path / name) == written
    [place] = cache_home.iterdir()
    assert f"{tmp_path / name}: decompressing it once, to {place}" in capsys.readouterr().err
    before = place.stat()
    again = cache.decompressed(tmp_path / name, (tmp_path / name).read_bytes()[:3])
    assert again == place
    assert place.stat() == before
    assert "decompressing" not in capsys.readouterr().err
    (tmp_path / name).write_bytes(
        compress(tar_of({**written, "cat/1.png": written["ant/000.png"]}))
    )
    os.utime(tmp_path / name, ns=(1, 1))
    assert "cat/1.png" in contents(tmp_path / name)


def test_a_compressed_tar_that_is_cut_off_leaves_nothing_in_the_cache(
    tmp_path: Path, cache_home: Path
) -> None:
    whole = gzip.compress(tar_of(write_class_folders(tmp_path / "root", CLASSES)))
    for name, content in (("cut.tar.gz", whole[: len(whole) // 2]), ("bad.tgz", whole[:20] * 9)):
        (tmp_path / name).write_bytes(content)
        assert "damaged or cut off" in refusal(tmp_path / name)
    assert list(cache_home.iterdir()) == []
    (tmp_path / "text.tar.gz").write_bytes(gzip.compress(b"no tar" * 999))
    assert f"{tmp_path / 'text.tar.gz'}: not a readable tar" in refusal(tmp_path / "text.tar.gz")


def test_a_cache_that_cannot_be_written_is_named_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set.tgz").write_bytes(gzip.compress(tar_of({"a/1.png": b"", "b/1.png": b""})))
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "set XDG_CACHE_HOME to a folder with enough room" in refusal(tmp_path / "set.tgz")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "file" / "home")
    assert str(tmp_path / "file" / "home" / ".cache") in refusal(tmp_path / "set.tgz")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_decompress", full)
    assert "No space left on device; set XDG_CACHE_HOME" in refusal(tmp_path / "set.tgz")
    assert list((tmp_path / "cache" / "pydream").iterdir()) == []


def test_runs_at_once_decompress_one_tar_once(
    tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tar_of(write_class_folders(tmp_path / "root", CLASSES))
    (tmp_path / "set.tgz").write_bytes(gzip.compress(plain))
    places: list[bytes] = []
    begun: list[Path] = []
    decompress = cache._decompress

    def counted(path: Path, magic: bytes, target: IO[bytes]) -> None:
        begun.append(path)
        decompress(path, magic, target)

    monkeypatch.setattr(cache, "_decompress", counted)

    def run() -> None:
        places.append(cache.decompressed(tmp_path / "set.tgz", b"\x1f\x8b").read_bytes())

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places == [plain] * 6
    assert begun == [tmp_path / "set.tgz"]
    assert len(list(cache_home.iterdir())) == 1


def shipped(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """ILSVRC 2012 as image-net.org ships it, of two classes."""
    folder.mkdir()
    wnids = ("n01440764", "n01443537")
    train = {
        f"{wnid}/{wnid}_{number}.JPEG": encode(make_pixels(9, 8, seed=number), "JPEG")
        for wnid in wnids
        for number in range(3)
    }
    classes = {
        f"{wnid}.tar": tar_of(
            {key.split("/")[1]: data for key, data in train.items() if key.startswith(wnid)}
        )
        for wnid in wnids
    }
    val = {
        f"ILSVRC2012_val_{number:08d}.JPEG": encode(make_pixels(7, 8, seed=9 + number), "JPEG")
        for number in (1, 2, 3)
    }
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of(classes))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val))
    meta = io.BytesIO()
    synsets = np.zeros(2, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    for row, wnid in enumerate(reversed(wnids)):
        synsets[row] = (row + 1, wnid, 0)
    scipy.io.savemat(meta, {"synsets": synsets})
    devkit = {
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n1\n",
    }
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(tar_of(devkit)))
    return train, val


@pytest.mark.parametrize("named", ["", "ILSVRC2012_img_train.tar"])
def test_the_tars_of_ilsvrc_are_read_in_place(named: str, tmp_path: Path) -> None:
    train, val = shipped(tmp_path / "imagenet")
    path = tmp_path / "imagenet" / named
    assert contents(path) == train
    assert open_source(path).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert has_split(path, "test")
    test = open_source(path, "test")
    assert contents(path, "test") == val
    assert test.class_names == ("n01440764", "n01443537")
    by_key = dict(zip(test.keys, test.labels.tolist(), strict=True))
    assert [by_key[f"ILSVRC2012_val_0000000{number}.JPEG"] for number in (1, 2, 3)] == [1, 0, 1]


def test_a_tar_of_tars_gives_the_keys_of_the_same_folders(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "root", {"ant": 20, "bee": 20})
    inner = {
        f"{name}.tar": tar_of({k.split("/")[1]: v for k, v in written.items() if k[:3] == name})
        for name in ("ant", "bee")
    }
    (tmp_path / "set.tar").write_bytes(tar_of(inner))
    packed, folder = open_source(tmp_path / "set.tar"), open_source(tmp_path / "root")
    assert list(packed.keys) == list(folder.keys)
    assert packed.fingerprint() == folder.fingerprint()
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(i for i, key in enumerate(packed.keys) if packed.read(i) != written[key])

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    mixed = {**inner, "cat/1.png": b"", "cow/1.png": b""}
    (tmp_path / "mixed.tar").write_bytes(tar_of(mixed))
    source = open_source(tmp_path / "mixed.tar")
    assert list(source.keys) == ["cat/1.png", "cow/1.png"]


def test_a_tar_of_tars_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    inner = tar_of({"1.png": bytes(3000), "2.png": bytes(3000)})
    whole = tar_of({"ant.tar": inner, "bee.tar": inner})
    (tmp_path / "set.tar").write_bytes(whole[: whole.index(b"bee.tar") + 4000])
    assert "not a readable tar archive" in refusal(tmp_path / "set.tar")


def test_archives_inside_of_archives_that_are_not_read_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("data/images.zip", b"PK")
    (tmp_path / "set.tar").write_bytes(tar_of({"ant.tar.gz": b"", "bee.tar.gz": b""}))
    assert "holds no image but archives (data/images.zip)" in refusal(tmp_path / "set.zip")
    assert "holds no image but archives (ant.tar.gz)" in refusal(tmp_path / "set.tar")


def test_a_member_that_says_it_is_empty_is_not_inflated_without_end(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1.png", "b/1.png"):
            archive.writestr(name, bytes(32 << 20))
    content = bytearray((tmp_path / "set.zip").read_bytes())
    place = content.find(b"PK\1\2")
    content[place + 16 : place + 20] = content[place + 24 : place + 28] = bytes(4)  # CRC and size
    (tmp_path / "set.zip").write_bytes(content)
    source = open_source(tmp_path / "set.zip")
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="differs from the checksum"):
            source.read(0)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert len(source.read(1)) == 32 << 20


@pytest.mark.parametrize("record", ["GNU.sparse.map=1,x", "GNU.sparse.size=q", None])
def test_tars_by_which_the_library_fails_are_not_readable(
    tmp_path: Path, record: str | None
) -> None:
    """Numbers that are none; and headers of long names, each of which calls the next."""
    if record is None:
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
        content = 1200 * (header.tobuf() + b"a".ljust(tarfile.BLOCKSIZE, b"\0"))
        content += tar_of({"a/1.png": b"", "b/1.png": b""})
    else:
        key, _, value = record.partition("=")
        with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("a/1.png")
            member.pax_headers = {key: value}
            archive.addfile(member)
        content = (tmp_path / "pax.tar").read_bytes()
    (tmp_path / "set.tar").write_bytes(content)
    assert "not a readable tar archive" in refusal(tmp_path / "set.tar")
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "train-000000.tar").write_bytes(content)
    assert "not a readable tar archive" in refusal(folder / "train-{000000..000000}.tar")


def test_the_kind_of_an_archive_goes_by_its_content(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "root", CLASSES)
    with zipfile.ZipFile(tmp_path / "zip.tar", "w") as archive:
        for key, content in written.items():
            archive.writestr(key, content)
    assert contents(tmp_path / "zip.tar") == written
    (tmp_path / "rar.zip").write_bytes(b"Rar!\x1a\x07\x01\x00")
    (tmp_path / "seven.tar").write_bytes(b"7z\xbc\xaf\x27\x1c")
    assert "rar archives are not read; unpack it" in refusal(tmp_path / "rar.zip")
    assert "7z archives are not read; unpack it" in refusal(tmp_path / "seven.tar")


def test_links_inside_a_tar_are_followed_and_others_counted(tmp_path: Path) -> None:
    content = encode(make_pixels(3, 3), "PNG")
    links = {
        "a/hard.png": (tarfile.LNKTYPE, "./a/1.png"),
        "a/soft.png": (tarfile.SYMTYPE, "1.png"),
        "b/up.png": (tarfile.SYMTYPE, "../a/1.png"),
        "b/chain.png": (tarfile.SYMTYPE, "up.png"),
        "b/broken.png": (tarfile.SYMTYPE, "none.png"),
        "b/abroad.png": (tarfile.SYMTYPE, "/home/me/1.png"),
        "b/outside.png": (tarfile.SYMTYPE, "../../1.png"),
        "b/loop.png": (tarfile.SYMTYPE, "loop.png"),
        "c": (tarfile.SYMTYPE, "a"),
        "b/pipe.png": (tarfile.FIFOTYPE, ""),
    }
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        member = tarfile.TarInfo("a/1.png")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        for name, (kind, target) in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    read = contents(tmp_path / "set.tar")
    assert list(read) == ["a/1.png", "a/hard.png", "a/soft.png", "b/chain.png", "b/up.png"]
    assert {*read.values()} == {content}
    assert open_source(tmp_path / "set.tar").ignored_kinds == {
        "links that lead to no file in the archive": 5,
        "devices and pipes": 1,
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_last_member_of_a_name_counts_also_among_links(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for kind, target, content in (
            (tarfile.REGTYPE, "", b"first"),
            (tarfile.SYMTYPE, "2.png", b""),
            (tarfile.REGTYPE, "", b"last"),
        ):
            member = tarfile.TarInfo("a/1.png")
            member.type, member.linkname, member.size = kind, target, len(content)
            archive.addfile(member, io.BytesIO(content))
        member = tarfile.TarInfo("b/1.png")
        archive.addfile(member)
    assert contents(tmp_path / "set.tar") == {"a/1.png": b"last", "b/1.png": b""}


def test_sparse_files_in_a_tar(tmp_path: Path) -> None:
    """By GNU tar's old format, written by hand: two pieces of data in a file of 3000 bytes."""
    member = tarfile.TarInfo("a/1.png")
    member.size = 300
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    for place, number in ((386, 1000), (398, 100), (410, 2500), (422, 200)):
        header[place : place + 12] = b"%011o\0" % number
    header[483:495] = b"%011o\0" % 3000
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = b"x" * 100 + b"y" * 200
    other = tar_of({"b/2.png": b"dense"})
    (tmp_path / "set.tar").write_bytes(bytes(header) + data.ljust(512, b"\0") + other)
    sparse = bytes(1000) + b"x" * 100 + bytes(1400) + b"y" * 200 + bytes(300)
    assert contents(tmp_path / "set.tar") == {"a/1.png": sparse, "b/2.png": b"dense"}


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_in_a_tar_are_read_in_either_encoding(
    tar_format: int, encoding: str, tmp_path: Path
) -> None:
    files = {"Käfer/é.png": b"1", "ant/1.png": b"2"}
    packed = tar_of(files, format=tar_format, encoding=encoding)
    (tmp_path / "set.tar").write_bytes(packed)
    assert contents(tmp_path / "set.tar") == files


def test_names_in_a_zip_are_read_in_either_encoding(tmp_path: Path) -> None:
    """Without the flag for UTF-8 a name is in code page 437, as the specification of zip says."""
    for flag, raw in ((True, "Käfer".encode()), (False, "Käfer".encode("cp437"))):
        name = raw.decode("latin-1")
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for key in ("x" * len(raw) + "/1.png", "ant/1.png"):
                archive.writestr(key, b"content")
        content = (tmp_path / "set.zip").read_bytes().replace(b"x" * len(raw), raw)
        if flag:
            for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
                place = content.index(signature) + at
                content = content[:place] + b"\x00\x08" + content[place + 2 :]
        (tmp_path / "set.zip").write_bytes(content)
        os.utime(tmp_path / "set.zip", ns=(len(raw), len(raw)))
        assert open_source(tmp_path / "set.zip").class_names == ("Käfer", "ant"), name


def test_a_zip_of_more_than_4_gib_is_read_by_its_larger_fields(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for key in ("a/1.png", "b/1.png"):
            with archive.open(key, "w", force_zip64=True) as file:
                file.write(key.encode())
    assert contents(tmp_path / "set.zip") == {"a/1.png": b"a/1.png", "b/1.png": b"b/1.png"}


def test_a_part_of_a_split_or_cut_zip_is_told_how_to_join_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/1.png", bytes(999))
    (tmp_path / "part.zip").write_bytes((tmp_path / "set.zip").read_bytes()[:500])
    message = refusal(tmp_path / "part.zip")
    assert "not a readable zip archive" in message
    assert "zip -s 0" in message


def test_an_archive_is_indexed_once_for_both_splits(tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(tar_of({"train/a/1.png": b"", "test/a/1.png": b""}))
    assert open_archive(tmp_path / "set.tar") is open_archive(tmp_path / "set.tar")


def classes_of_tars(tmp_path: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files of three classes by key, and the tar of each class by name."""
    written = write_class_folders(tmp_path / "root", {"n1": 2, "n2": 2, "n3": 3})
    inner = {
        f"{name}.tar": tar_of({k.split("/")[1]: v for k, v in written.items() if k[:2] == name})
        for name in ("n1", "n2", "n3")
    }
    return written, inner


def test_a_tar_in_a_tar_that_is_none_does_not_vanish(tmp_path: Path) -> None:
    _, inner = classes_of_tars(tmp_path)
    for content, words in (
        (b"<html>not found</html>" * 99, "n2.tar inside it is not a tar archive"),
        (b"", "class folder 'n2' holds no image"),
    ):
        (tmp_path / "set.tar").write_bytes(tar_of({**inner, "n2.tar": content}))
        assert words in refusal(tmp_path / "set.tar")


def test_a_damaged_header_does_not_end_a_tar_early(tmp_path: Path) -> None:
    written, inner = classes_of_tars(tmp_path)
    for whole, member, words in (
        (tar_of(written), b"n2/001.png", "damaged after 'n2/000.png'"),
        (tar_of(inner), b"n3.tar", "damaged after 'n2.tar'"),
        (tar_of(inner), b"002.png", "damaged after 'n3/001.png'"),
    ):
        damaged = bytearray(whole)
        damaged[whole.index(member) + 101] ^= 1  # in the mode, which only the checksum covers
        (tmp_path / "set.tar").write_bytes(damaged)
        assert words in refusal(tmp_path / "set.tar")
    header = tarfile.TarInfo.frombuf(inner["n2.tar"][:512], "utf-8", "strict")
    header.name, header.size = "long.png", 10_000
    longer = header.tobuf() + bytes(600)  # its data would reach into the next class
    (tmp_path / "set.tar").write_bytes(tar_of({**inner, "n2.tar": longer}))
    assert "its member 'n2/long.png' is cut off" in refusal(tmp_path / "set.tar")


@pytest.mark.parametrize("ending", ["no end", "not padded", "one zero block", "much zeros"])
def test_a_whole_tar_is_read_however_it_ends(ending: str, tmp_path: Path) -> None:
    """As real tools end them: without zeros, without padding, and with more than two blocks."""

    def ended(packed: bytes, last: bytes) -> bytes:
        whole = packed[: packed.rindex(last) + len(last)]
        padded = whole.ljust(-(-len(whole) // 512) * 512, b"\0")
        return {
            "no end": padded,
            "not padded": whole,
            "one zero block": padded + bytes(512),
            "much zeros": padded + bytes(3 << 20),
        }[ending]

    written, inner = classes_of_tars(tmp_path)
    inner = {
        name: ended(packed, written[max(key for key in written if key.startswith(name[:2]))])
        for name, packed in inner.items()
    }
    (tmp_path / "flat.tar").write_bytes(ended(tar_of(written), written["n3/002.png"]))
    (tmp_path / "nested.tar").write_bytes(ended(tar_of(inner), inner["n3.tar"]))
    assert contents(tmp_path / "flat.tar") == written
    assert contents(tmp_path / "nested.tar") == written


def test_tars_put_one_behind_the_other_are_read_and_other_bytes_counted(tmp_path: Path) -> None:
    written, _ = classes_of_tars(tmp_path)
    parts = [
        tar_of({key: data for key, data in written.items() if key.startswith(name)})
        for name in ("n1", "n2", "n3")
    ]
    (tmp_path / "set.tar").write_bytes(b"".join(parts) + b"signature" * 3)
    assert contents(tmp_path / "set.tar") == written
    assert open_source(tmp_path / "set.tar").ignored_kinds == {
        "bytes behind the end of the tar": 27
    }


def test_a_cache_is_begun_anew_where_a_run_was_killed(tmp_path: Path, cache_home: Path) -> None:
    """What that run has written stays under one name, which the next one writes over."""
    plain = tar_of(write_class_folders(tmp_path / "root", CLASSES))
    (tmp_path / "set.tgz").write_bytes(gzip.compress(plain))
    place = cache.decompressed(tmp_path / "set.tgz", b"\x1f\x8b")
    place.unlink()
    place.with_name(f"{place.name}.part").write_bytes(b"left" * len(plain))
    assert cache.decompressed(tmp_path / "set.tgz", b"\x1f\x8b") == place
    assert place.read_bytes() == plain
    assert list(cache_home.iterdir()) == [place]


def test_a_file_system_without_locks_gives_each_run_a_file_of_its_own(
    tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    plain = tar_of(write_class_folders(tmp_path / "root", CLASSES))
    (tmp_path / "set.tgz").write_bytes(gzip.compress(plain))
    monkeypatch.setattr(fcntl, "flock", unknown)
    place = cache.decompressed(tmp_path / "set.tgz", b"\x1f\x8b")
    assert place.read_bytes() == plain
    assert list(cache_home.iterdir()) == [place]


def test_what_both_tars_of_ilsvrc_leave_out_is_added_up(tmp_path: Path) -> None:
    shipped(tmp_path / "set")
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        with tarfile.open(tmp_path / "set" / name, "a") as archive:
            pipe = tarfile.TarInfo("pipe")
            pipe.type = tarfile.FIFOTYPE
            archive.addfile(pipe)
    assert open_source(tmp_path / "set").ignored_kinds["devices and pipes"] == 2
