"""Servers on the loopback: S3, files over HTTP, and a proxy that cuts, refuses and waits."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Proxy:
    """Passes connections on to a server, with faults that tests ask for.

    Attributes
    ----------
    cuts
        Number of answers, of more than a kilobyte, to cut in the middle.
    refusals
        Number of requests to answer with status 503.
    delay
        Seconds before each answer.
    """

    def __init__(self, port: int) -> None:
        self.cuts, self.refusals, self.delay = 0, 0, 0.0
        self._target = port
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for work in (self._requests, self._answers):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _takes(self, fault: str) -> bool:
        with self._lock:
            left: int = getattr(self, fault)
            setattr(self, fault, max(0, left - 1))
            return left > 0

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if self._takes("refusals"):
                    client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
                else:
                    server.sendall(data)
        self._close(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                time.sleep(self.delay)
                if len(data) > 1000 and self._takes("cuts"):
                    client.sendall(data[: len(data) - 500])
                    break
                client.sendall(data)
        self._close(client, server)

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def s3_server() -> Iterator[int]:
    """Run moto's S3 in a thread; gives its port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


class _Files(SimpleHTTPRequestHandler):
    """Files of a folder, also parts of them."""

    protocol_version = "HTTP/1.1"
    serves_parts = True

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        span = self.headers.get("Range")
        if span is None or not path.is_file() or not self.serves_parts:
            self._count(path.stat().st_size if path.is_file() else 0)
            super().do_GET()
            return
        content = path.read_bytes()
        first, _, last = span.removeprefix("bytes=").partition("-")
        if int(first) >= len(content):
            self.send_error(416)
            return
        part = content[int(first) : int(last) + 1]
        self._count(len(part))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def _count(self, size: int) -> None:
        served: list[int] = self.server.served  # type: ignore[attr-defined]
        served.append(size)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class WebServer(ThreadingHTTPServer):
    """Serves a folder; `served` has the bytes of every answer."""

    def __init__(self, folder: Path, parts: bool = True) -> None:
        handler = type("Files", (_Files,), {"serves_parts": parts})
        super().__init__(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        self.served: list[int] = []
        self.daemon_threads = True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"
