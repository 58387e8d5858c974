"""Pages, terminals and hosts: what a stranger's texts, links and addresses do not reach.

docs/security.md says what is promised here.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rded_runs import CLASSES, settings, write_pictures, write_random_observer

from pydream.data import open_source
from pydream.data.remote import RemotePath, located
from pydream.errors import ImageError, PydreamError
from pydream.progress import say
from pydream.rded import distill
from pydream.report import render_report
from pydream.report.plots import feature_maps
from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.opening import open_real
from pydream.sets.writer import png

MakeSet = Callable[..., DistilledSet]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
# Names as a stranger gives them to classes, images and settings.
SCRIPT = "</h3></script><script>document.title='ran'</script><img src=x onerror=alert(1)>"
PNG = png(torch.full((3, 1, 1), 255, dtype=torch.uint8))


# The page


def hostile_set(make_set: MakeSet) -> DistilledSet:
    """A set whose every text is a script."""
    distilled = make_set([SCRIPT, "bee"], skipped=[{"key": SCRIPT, "reason": SCRIPT}])
    file = distilled.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["method"] = manifest["source"]["description"] = manifest["source"]["split"] = SCRIPT
    manifest["observer"]["arch"] = manifest["image_format"] = manifest["package"]["name"] = SCRIPT
    file.write_text(json.dumps(manifest))
    return load_set(distilled.path)


def test_texts_of_a_set_are_no_markup(make_set: MakeSet, measures: Any) -> None:
    page = render_report(hostile_set(make_set), measures)
    assert page.count(SCRIPT.partition("<script>")[2][:8]) >= 5
    assert not re.search(r"<script|<img src=x|</h3></", page, re.IGNORECASE)
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert page.index(policy[0]) < page.index("<title>")


def change(path: Path, **entries: Any) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize(
    "entries",
    [
        {"side": "32px; background: url(http://127.0.0.1)"},
        {"class_names": ["ant", {"a": 1}]},
        {"images_per_class": [3, "3"]},
        {"method": ["rded"]},
        {"source": {"description": 7}},
    ],
)
def test_an_entry_of_another_type_is_refused(make_set: MakeSet, entries: dict[str, Any]) -> None:
    path = make_set().path
    change(path, **entries)
    with pytest.raises(PydreamError, match="not a manifest of a distilled set"):
        load_set(path)


def test_a_manifest_without_end_is_refused(make_set: MakeSet) -> None:
    path = make_set().path
    (path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(PydreamError, match="not a manifest of a distilled set"):
        load_set(path)


def test_a_name_does_not_command_the_terminal(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pydream.cli import main

    path = make_set(["ant\x1b[2J", "bee"]).path
    change(path, source={"description": "ant\x1b[2J", "split": "train", "fingerprint": "f"})
    monkeypatch.setattr(sys, "argv", ["pydream", "inspect", str(path)])
    main()
    assert "ant\\x1b[2J" in (shown := capsys.readouterr().out)
    (path / "images" / "00000" / "00000.png").unlink()
    with pytest.raises(SystemExit):
        main()
    assert "ant\\x1b[2J" in (told := capsys.readouterr().err)
    say("ant\x1b[2J")
    assert "\x1b" not in shown + told + capsys.readouterr().err


def test_a_class_name_is_no_formula_and_no_markup_in_a_plot() -> None:
    points = {"chosen": [[0.0, 1.0]], "others": [[1.0, 0.0]]}
    drawn = feature_maps({"$\\bad{$": points, "<script>": points})
    assert "$\\bad{$" in drawn
    assert "<script" not in drawn


@pytest.fixture
def requested() -> Iterator[tuple[str, list[str]]]:
    """A server on the loopback: its address, and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", paths
        server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on PATH")
def test_the_policy_stops_what_escapes_would_let_through(
    make_set: MakeSet, tmp_path: Path, requested: tuple[str, list[str]]
) -> None:
    """In a browser: the page with markup put in by hand, and the same without its policy."""
    address, paths = requested
    page = render_report(make_set())
    meta = re.search(r"<meta http-equiv=\"Content-Security-Policy\".*?>", page)
    assert meta is not None

    def harmed(number: int) -> str:
        return (
            f'<img src="{address}/{number}/image"><iframe src="{address}/{number}/frame"></iframe>'
            f'<link rel="stylesheet" href="{address}/{number}/style">'
            f'<script>new Image().src = "{address}/{number}/script"</script></body>'
        )

    for number, text in enumerate((page, page.replace(meta[0], ""))):
        file = tmp_path / f"{number}.html"
        file.write_text(text.replace("</body>", harmed(number)), encoding="utf-8")
    frames = "".join(f'<iframe src="{number}.html"></iframe>' for number in range(2))
    (tmp_path / "both.html").write_text(frames)
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    where = (tmp_path / "both.html").as_uri()
    subprocess.run(
        [BROWSER, *options, "--dump-dom", where], capture_output=True, timeout=300, check=True
    )
    assert sorted({*paths}) == ["/1/frame", "/1/image", "/1/script", "/1/style"]


# The network


def test_a_host_that_only_the_manifest_names_is_not_asked(
    make_set: MakeSet, requested: tuple[str, list[str]]
) -> None:
    address, paths = requested
    distilled = make_set()
    assert distilled.manifest.source is not None
    for url in (f"{address}/photos.zip", f"simplecache::{address}/photos.zip", "s3://bucket/x"):
        distilled.manifest.source["description"] = url
        with pytest.raises(PydreamError, match=r"only hosts that you name are asked.*--source"):
            open_real(None, distilled, "test")
    assert not paths


def test_the_path_of_an_image_in_a_table_is_not_opened(
    tmp_path: Path, requested: tuple[str, list[str]]
) -> None:
    address, paths = requested
    (tmp_path / "secret.png").write_bytes(PNG)
    links = (str(tmp_path / "secret.png"), f"{address}/a.png", "../secret.png")
    images = [{"bytes": None, "path": link} for link in links]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": ["ant"] * len(links)})
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set" / "train.parquet")
    source = open_source(str(tmp_path / "set"))
    for index in range(len(links)):
        with pytest.raises(ImageError, match="the row has no image"):
            source.read(index)
    assert not paths


class Misleading(BaseHTTPRequestHandler):
    """Redirects ``/away/…`` to another name of its host, ``/here/…`` to ``/…``; lists a folder."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, _, port = self.headers["Host"].partition(":")
        self.asked.append(name)
        start, _, rest = self.path[1:].partition("/")
        body = PNG
        if start == "photos":
            links = ("ant/", "..%2f..%2fsecret/", "%2e%2e/", "http://localhost/bee/")
            body = "".join(f'<a href="{link}">x</a>' for link in links).encode()
        self.send_response(302 if start in ("away", "here") else 200)
        if start in ("away", "here"):
            host = "localhost" if start == "away" else "127.0.0.1"
            self.send_header("Location", f"http://{host}:{port}/{rest}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def misleading() -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="needs pydream-distill[http]")
    Misleading.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Misleading) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_redirect_to_another_host_is_refused(misleading: str) -> None:
    assert located(f"{misleading}/here/a.png").read_text("latin-1").encode("latin-1") == PNG
    for url in (f"{misleading}/away/a.zip", f"simplecache::{misleading}/away/a.zip"):
        with pytest.raises(PydreamError, match=r"sends on to localhost.*only hosts that you name"):
            open_source(url)
    assert {*Misleading.asked} == {"127.0.0.1"}


def test_a_listing_names_nothing_outside_of_its_folder(misleading: str) -> None:
    path = located(f"{misleading}/photos")
    assert isinstance(path, RemotePath)
    folders, files = path.list()
    assert {*folders, *files} <= {"ant", "bee"}
    assert "ant" in (*folders, *files)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Refuse connections and look-ups of names, and list them."""
    tried: list[object] = []

    def refuse(*arguments: object, **options: object) -> None:
        tried.append(arguments)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def test_the_guard_sees_a_connection(no_network: list[object]) -> None:
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("127.0.0.1", 9))
    with pytest.raises(OSError, match="no network"):
        socket.socket().connect(("127.0.0.1", 9))
    assert len(no_network) == 2


def test_commands_on_local_files_connect_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[object]
) -> None:
    from pydream.cli import main

    real = write_pictures(tmp_path / "real" / "train").parent
    write_pictures(real / "test")
    observer = write_random_observer(tmp_path / "observer.safetensors")
    distill(settings(real, observer, tmp_path / "set", ipc=1))
    own = tmp_path / "set"
    for arguments in (
        ("inspect", own, "--observer", observer, "--source", real, "--report", tmp_path / "a.html"),
        ("export", own, "--to", "parquet", "--out", tmp_path / "hub"),
        ("evaluate", own, "--observer", observer, "--students", "convnet2-w16", "--epochs", 1),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["pydream", *map(str, arguments)])
        main()
    assert open_source(str(tmp_path / "hub")).class_names == CLASSES
    assert not no_network
