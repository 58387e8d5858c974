"""Sources in object stores and on the web, beside the same images on the disk."""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from faulty_servers import Proxy, WebServer, s3_server
from fsspec.implementations.memory import MemoryFileSystem
from rded_runs import CLASSES, PER_CLASS, settings, write_pictures, write_random_observer

from pydream import rded
from pydream.cli import main
from pydream.data import Source, archives, decode_ahead, has_split, open_source, remote, stores
from pydream.errors import PydreamError
from pydream.files import name_after
from pydream.urls import is_url, without_secrets

ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, and the same images as a zip, shards and parquet, in one folder each."""
    root = tmp_path_factory.mktemp("set")
    folder = write_pictures(root / "photos")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    names = [file.relative_to(folder).as_posix() for file in files]
    for number, part in enumerate((slice(0, 20), slice(20, None))):
        (root / "shards").mkdir(exist_ok=True)
        with tarfile.open(root / f"shards/a-{number:02d}.tar", "w") as shard:
            for name, file in list(zip(names, files, strict=True))[part]:
                shard.add(file, name)
                label = str(CLASSES.index(file.parent.name)).encode()
                member = tarfile.TarInfo(f"{name[:-4]}.cls")
                member.size = len(label)
                shard.addfile(member, io.BytesIO(label))
        table = pa.table(
            {
                "image": [
                    {"bytes": file.read_bytes(), "path": name}
                    for name, file in list(zip(names, files, strict=True))[part]
                ],
                "label": [file.parent.name for file in files[part]],
            }
        )
        (root / "parquet").mkdir(exist_ok=True)
        pq.write_table(table, root / f"parquet/train-{number}.parquet", row_group_size=7)
    (root / "shards/classnames.txt").write_text("\n".join(CLASSES))
    return root


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def _uploaded(port: int, photos: Path) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_bucket(Bucket="set", ACL="public-read")
    for file in photos.rglob("*"):
        if file.is_file():
            key = file.relative_to(photos).as_posix()
            body = file.read_bytes()
            client.put_object(Bucket="set", Key=key, Body=body, ACL="public-read")


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "_WAITS", (0.01, 0.02))
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    remote._listed_tree.cache_clear()
    archives._open.cache_clear()
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def point_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, port: int, _uploaded: None) -> str:
    point_to(monkeypatch, port)
    return "s3://set"


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, port: int, s3: str) -> Iterator[Proxy]:
    proxy = Proxy(port)
    point_to(monkeypatch, proxy.port)
    yield proxy
    proxy.close()


@pytest.fixture
def web(photos: Path) -> Iterator[WebServer]:
    server = WebServer(photos)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def memory(photos: Path) -> Any:
    system = fsspec.filesystem("memory")
    system.put(str(photos), "/set", recursive=True)
    return system


def assert_same(found: Source, expected: Source) -> None:
    assert found.class_names == expected.class_names
    assert list(found.keys) == list(expected.keys)
    assert found.labels.tolist() == expected.labels.tolist()
    some = range(0, len(found), 4)
    decoded = decode_ahead(found, some, workers=2, budget=1 << 30)
    for index, image in zip(some, decoded, strict=True):
        assert isinstance(image, torch.Tensor)
        torch.testing.assert_close(image, expected.image(index), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["photos", "photos/", "photos.zip", "shards", "parquet"])
def test_a_bucket_holds_the_same_images_as_the_disk(s3: str, photos: Path, name: str) -> None:
    found = open_source(f"{s3}/{name}")
    assert found.remote
    assert_same(found, open_source(photos / "photos"))
    assert not has_split(f"{s3}/{name}", "test")
    if name == "photos":
        assert found.fingerprint() == open_source(photos / "photos").fingerprint()


@pytest.mark.parametrize("anonymous", [False, True])
def test_objects_of_s3_are_read_without_s3fs(
    s3: str, photos: Path, monkeypatch: pytest.MonkeyPatch, anonymous: bool
) -> None:
    import s3fs

    async def used(*arguments: Any, **options: Any) -> bytes:
        raise AssertionError("s3fs reads")

    if anonymous:
        monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", used)
    monkeypatch.setattr(stores, "_PART", 500)  # so that images are read in parts
    assert_same(open_source(f"{s3}/photos"), open_source(photos / "photos"))


def test_objects_of_s3_have_any_name(s3: str) -> None:
    store, _ = stores.open_store(s3)
    system = store._system
    names = "a b", "a%20b", "a+b", "a#b", "a?b", "é/ü", "a//b", "a/../b", "a/./b", 'a"b\\[~]'
    system.mkdir("odd")
    for name in names:
        system.pipe_file(f"odd/{name}", name.encode())
    for name in names:
        content = name.encode()
        assert store.read(f"odd/{name}", name, 0, len(content) + 1) == content


def test_a_bucket_that_cannot_be_read_directly_is_left_to_s3fs(
    s3: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def refuse(*arguments: Any, **options: Any) -> None:
        opened.append(arguments)
        raise ValueError("of no kind that is known")

    monkeypatch.setattr("obstore.store.S3Store", refuse)
    found, expected = open_source(f"{s3}/photos"), open_source(photos / "photos")
    assert [found.read(n) for n in range(3)] == [expected.read(n) for n in range(3)]
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["photos", "photos.zip", "shards"])
def test_scattered_images_are_read_at_once(
    memory: Any, photos: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    together, read = threading.Barrier(4, timeout=20), stores.Store.read

    def late(*arguments: Any) -> bytes:
        together.wait()  # breaks unless four read at once
        return read(*arguments)

    found, some = open_source(f"memory://set/{name}"), [7, 20, 0, 13]
    monkeypatch.setattr(remote, "_GAP", 0)
    monkeypatch.setattr(stores.Store, "read", late)
    expected = open_source(photos / "photos")
    assert list(found.read_many(some)) == [expected.read(n) for n in some]


@pytest.mark.parametrize("name", ["photos", "photos.zip", "shards/a-{00..01}.tar", "parquet"])
def test_any_file_system_of_fsspec_does(memory: Any, photos: Path, name: str) -> None:
    assert_same(open_source(f"memory://set/{name}"), open_source(photos / "photos"))


@pytest.mark.parametrize("name", ["photos/", "photos.zip", "shards/a-{00..01}.tar", "parquet/"])
def test_a_web_server_does(web: WebServer, photos: Path, name: str) -> None:
    assert_same(open_source(web.url(name)), open_source(photos / "photos"))


@pytest.mark.parametrize("end", ["", "/"])
def test_the_root_of_a_web_server_is_a_folder(photos: Path, end: str) -> None:
    """Also where the host's name ends as that of a file would: 127.0.0.1:8000."""
    server = WebServer(photos / "photos")
    try:
        found = open_source(server.url("").rstrip("/") + end)
        assert_same(found, open_source(photos / "photos"))
    finally:
        server.shutdown()
        server.server_close()


def test_files_of_the_disk_have_urls(photos: Path) -> None:
    found = open_source(f"file://{photos}/photos")
    assert not found.remote
    assert_same(found, open_source(photos / "photos"))


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    class Hub(MemoryFileSystem):  # type: ignore[misc]  # for the Hub, which tests cannot reach
        protocol = "hf"

        @classmethod
        def _strip_protocol(cls, path: str) -> Any:
            return super()._strip_protocol(path.removeprefix("hf://"))

    pytest.importorskip("huggingface_hub")
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", Hub)
    Hub().put(str(photos / "parquet"), "/datasets/somebody/photos/data", recursive=True)
    found = open_source("hf://datasets/somebody/photos")
    assert_same(found, open_source(photos / "photos"))


def test_rded_makes_the_same_set(s3: str, photos: Path, tmp_path: Path) -> None:
    observer = write_random_observer(tmp_path / "observer.safetensors")
    sums = set()
    for number, source in enumerate((photos / "photos", f"{s3}/photos")):
        config = settings(Path(), observer, tmp_path / f"{number}", source=str(source))
        sums.add(rded.distill(config).manifest.images_sha256)
    assert len(sums) == 1


def test_only_parts_of_a_zip_are_read_and_its_directory_once(web: WebServer, photos: Path) -> None:
    open_source(web.url("photos.zip"))
    archives._open.cache_clear()
    web.served.clear()
    source = open_source(web.url("photos.zip"))
    assert sum(web.served) <= 16  # by which the kind of the archive is told
    web.served.clear()
    content = source.read(5)
    assert content == open_source(photos / "photos").read(5)
    assert len(web.served) == 1
    assert web.served[0] < len(content) + 200


def test_shards_are_indexed_once(memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    open_source("memory://set/shards")
    assert "indexing it once" in capsys.readouterr().err
    open_source("memory://set/shards")
    assert "indexing" not in capsys.readouterr().err
    with memory.open("/set/shards/a-00.tar", "rb") as file:
        content = file.read()
    memory.pipe_file("/set/shards/a-00.tar", content)  # written again, at another time
    open_source("memory://set/shards")
    assert "indexing it once" in capsys.readouterr().err


def test_parquet_reads_no_images_to_open(web: WebServer, tmp_path: Path) -> None:
    images = [{"bytes": bytes(200_000), "path": f"{n}.png"} for n in range(20)]
    folder = Path(web.RequestHandlerClass.keywords["directory"])  # type: ignore[attr-defined]
    table = pa.table({"image": images, "label": [n % 2 for n in range(20)]})
    file = folder / "big.parquet"
    pq.write_table(table, file, row_group_size=5, compression="none", use_dictionary=False)
    try:
        source = open_source(web.url("big.parquet"))
        assert sum(web.served) < 500_000
        assert source.read(3) == bytes(200_000)
        assert sum(web.served) < 3_500_000
    finally:
        file.unlink()


@pytest.mark.parametrize("name", ["photos", "photos.zip", "shards", "parquet"])
def test_cut_and_refused_reads_are_tried_again(faulty: Proxy, photos: Path, name: str) -> None:
    source = open_source(f"s3://set/{name}")
    faulty.cuts, faulty.refusals = 1, 1
    expected = open_source(photos / "photos")
    assert [source.read(n) for n in range(4)] == [expected.read(n) for n in range(4)]
    assert (faulty.cuts, faulty.refusals) == (0, 0)


@pytest.mark.parametrize(
    ("name", "named"),
    [("photos", "photos/ant/00.jpg"), ("photos.zip", "photos.zip"), ("shards", "shards/a-00.tar")],
)
def test_reads_that_never_succeed_name_the_object(faulty: Proxy, name: str, named: str) -> None:
    source = open_source(f"s3://set/{name}")
    faulty.refusals = 1000
    with pytest.raises(PydreamError, match=f"^s3://set/{named}: .*, after 3 tries$"):
        next(decode_ahead(source, [0], workers=1, budget=1 << 20))


def test_a_slow_server_is_given_up(faulty: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("s3://set/photos")
    monkeypatch.setattr(stores, "_PATIENCE", 0.2)
    monkeypatch.setattr(stores, "_WAITS", ())
    faulty.delay = 1.0
    with pytest.raises(PydreamError, match=r"ant/00\.jpg: no answer within 0\.2 s"):
        source.read(0)


def test_objects_that_changed_are_no_images_of_the_source(memory: Any) -> None:
    folder, archive = open_source("memory://set/photos"), open_source("memory://set/photos.zip")
    memory.pipe_file("/set/photos/ant/00.jpg", b"longer" * 1000)
    memory.pipe_file("/set/photos/ant/01.png", b"short")
    memory.rm("/set/photos/ant/02.jpg")
    memory.pipe_file("/set/photos.zip", b"PK")
    for index in range(3):
        with pytest.raises(PydreamError, match=r"ant/0.* has changed since it was listed"):
            folder.read(index)
    with pytest.raises(PydreamError, match=r"photos\.zip: has changed since it was listed"):
        archive.read(0)


def test_a_large_file_is_checked_while_it_is_read(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source("memory://set/shards")
    with memory.open("/set/shards/a-01.tar", "rb") as file:
        content = file.read()
    memory.pipe_file("/set/shards/a-00.tar", content)
    monkeypatch.setattr(remote, "_TRUSTED_SECONDS", 0)
    with pytest.raises(PydreamError, match=r"a-00\.tar: has changed since it was listed"):
        source.read(0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("s3://nowhere/photos", "there is no such bucket, folder or object"),
        ("s3://set/nothing", "there is no such bucket, folder or object"),
        ("s3://set/nothing.zip", "there is no such bucket, folder or object"),
        ("s3://set/a-{0..1}.tar", "2 of 2 shards are missing"),
        ("s3://set/shards/classnames.txt", "has no column that names images"),
        ("nowhere://set/photos", "Protocol not known: nowhere"),
        ("http://127.0.0.1:9/photos.zip", "after 3 tries"),
    ],
)
def test_names_of_nothing(s3: str, name: str, reason: str) -> None:
    with pytest.raises(PydreamError, match=reason) as caught:
        open_source(name)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


def test_without_credentials(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "argv", ["pydream", "observer", f"{s3}/photos.zip"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "s3://set/photos.zip: there are no credentials for it" in error


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> Any:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("fsspec.core.get_filesystem_class", missing)
    monkeypatch.setattr("fsspec.core.filesystem", missing, raising=False)
    with pytest.raises(PydreamError, match=r"pip install 'pydream-distill\[gs\]'"):
        open_source("gs://bucket/photos")


def test_a_server_without_parts(photos: Path) -> None:
    server = WebServer(photos, parts=False)
    with pytest.raises(PydreamError, match=r"photos\.zip: the server sends no parts of a file"):
        open_source(server.url("photos.zip"))
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("store", ["web", "s3"])
def test_files_that_end_beside_the_end_of_a_part_are_read(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """One byte more is asked for, to see that they have not grown: a part may not begin there."""
    monkeypatch.setattr(stores, "_PART", 500)
    contents = {
        f"{name}/{size:04d}.png": bytes(size)
        for name in ("ant", "bee")
        for size in (1, 499, 500, 501, 999, 1000, 1001)
    }
    if store == "web":
        for name, content in contents.items():
            (tmp_path / "parts" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "parts" / name).write_bytes(content)
        server = WebServer(tmp_path)
        request.addfinalizer(server.server_close)
        request.addfinalizer(server.shutdown)
        root = server.url("parts")
    else:
        root = request.getfixturevalue("s3") + "/parts"
        for name, content in contents.items():
            fsspec.filesystem("s3").pipe(f"{root}/{name}", content)
    source = open_source(root)
    assert {key: source.read(index) for index, key in enumerate(source.keys)} == contents


def test_secrets_are_written_nowhere(
    web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = web.url("photos.zip").replace("//", "//me:secret@") + "?signature=secret"
    source = open_source(f"{url}:classes=0:2")
    assert source.description == web.url("photos.zip:classes=0:2")
    assert len(source) == 2 * PER_CLASS
    with pytest.raises(PydreamError) as caught:
        open_source(url.replace("photos", "nothing"))
    written = [file.name for file in (tmp_path / "cache").rglob("*")]
    assert written
    assert not any("secret" in text for text in (str(caught.value), *written))
    assert "secret" not in "".join(capsys.readouterr()).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("text", "shown", "after"),
    [
        ("s3://bucket/some/photos/", "s3://bucket/some/photos/", "photos"),
        ("https://a:b@c.org/d.zip?x=1:2", "https://c.org/d.zip", "d"),
        ("https://token@c.org/d.tar.gz", "https://c.org/d.tar.gz", "d"),
        ("abfs://part@account.net/e.zip", "abfs://part@account.net/e.zip", "e"),
        ("hf://datasets/a/b@~parquet", "hf://datasets/a/b@~parquet", "b@~parquet"),
        ("simplecache::s3://bucket/f.zip", "simplecache::s3://bucket/f.zip", "f"),
    ],
)
def test_urls_are_shown_without_secrets(text: str, shown: str, after: str) -> None:
    assert is_url(text)
    assert without_secrets(text) == shown
    assert without_secrets(f"{text}:classes=0:2") == f"{shown}:classes=0:2"
    assert name_after(text) == after


@pytest.mark.parametrize("text", ["cifar10:/data", "C:\\photos", "photos//a", "/data/s3:/x"])
def test_paths_are_no_urls(text: str) -> None:
    assert not is_url(text)
    assert without_secrets(text) == text


def test_many_reads_are_in_flight_and_few_images_decoded() -> None:
    together = threading.Barrier(stores.AT_ONCE, timeout=20)

    class Slow(Source):
        remote = True

        def read(self, index: int) -> bytes | np.ndarray:
            together.wait()  # breaks unless so many read at once
            return np.full((2, 2, 3), index, np.uint8)

        def fingerprint(self, indices: Any = None) -> str:
            return ""

    count = 2 * stores.AT_ONCE
    keys = [f"a/{n:03d}" for n in range(count)]
    source = Slow(
        description="slow", split="train", class_names=["a"], keys=keys,
        labels=np.zeros(count, np.int64),
    )  # fmt: skip
    images = list(decode_ahead(source, range(count), workers=1, budget=1 << 20))
    assert [int(image[0, 0, 0]) for image in images if isinstance(image, torch.Tensor)] == [
        *range(count)
    ]


def test_doctor_knows_what_each_source_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydream.doctor import diagnose

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "pydream.doctor.find_spec", lambda name: None if name == "gcsfs" else real(name)
    )
    sources = diagnose().sources
    assert sources["gs://"] == ["pydream-distill[gs]"]
    assert sources["s3://"] == []


def test_a_remote_file_is_read_like_one_of_the_disk(memory: Any) -> None:
    content = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    memory.pipe_file("/set/bytes.zip", content)
    place = remote.located("memory://set/bytes.zip")
    with place.open("rb", 64) as file, io.BytesIO(content) as expected:
        for offset, whence, size in [
            (0, 0, 10),
            (5, 1, 100),
            (-7, 2, 50),
            (3000, 0, 5),
            (9, 0, -1),
        ]:
            assert file.seek(offset, whence) == expected.seek(offset, whence)
            assert file.read(size) == expected.read(size)
