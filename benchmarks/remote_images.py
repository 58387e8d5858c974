"""Photographs read and decoded from an S3 server with latency, beside the same from the disk.

    python -m benchmarks.remote_images --data DIR

The server is moto's, in a process of its own on the loopback, and waits before each answer. The
photographs lie on it, and on the disk, as class folders, a zip, WebDataset's shards and parquet.
All are decoded in the order of the classes, as RDED reads them. Server and reader share the
machine's processors, so by default one is left to the server.
"""

from __future__ import annotations

import argparse
import io
import logging
import multiprocessing
import os
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.pipeline_cuda import SAMPLE, repeat_photographs
from benchmarks.records import RESULTS, write_record
from benchmarks.timing import report, table, timing
from pydream.data import decode_ahead, open_source

FILES, PER_CLASS, ROUNDS = 800, 100, 5
LATENCY_MS = 20.0
CONNECTIONS = 64
TARGET = 0.8  # of the speed from the disk
BUDGET = 256 << 20
KINDS = {"class folders": "classes", "zip": "set.zip", "shards": "shards", "parquet": "set.parquet"}
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def serve(latency: float, told: Connection) -> None:
    """Serve S3 until the process is ended, and tell the port."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from waitress.server import create_server  # connections stay, as those of S3 do

    logging.getLogger("waitress").setLevel(logging.ERROR)
    answer = DomainDispatcherApplication(create_backend_app)

    def late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(latency)
        found: Iterable[bytes] = answer(environ, start_response)
        return found

    server = create_server(late, host="127.0.0.1", port=0, threads=CONNECTIONS)
    told.send(server.effective_port)
    server.run()


@contextmanager
def s3_server(latency: float) -> Iterator[str]:
    """Run the server in a process of its own; gives its URL."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(latency, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def pack(folder: Path, place: Path) -> None:
    """Write the images of class folders as a zip, shards and parquet."""
    files = sorted(folder.rglob("*.JPEG"))
    names = [file.relative_to(folder).as_posix() for file in files]
    with zipfile.ZipFile(place / KINDS["zip"], "w") as archive:
        for file, name in zip(files, names, strict=True):
            archive.write(file, name)
    (place / KINDS["shards"]).mkdir()
    for number in range(4):
        with tarfile.open(place / KINDS["shards"] / f"{number}.tar", "w") as shard:
            for file, name in list(zip(files, names, strict=True))[number::4]:
                shard.add(file, name)
                label = str(int(file.parent.name)).encode()
                member = tarfile.TarInfo(f"{name.removesuffix(file.suffix)}.cls")
                member.size = len(label)
                shard.addfile(member, io.BytesIO(label))
    images = [
        {"bytes": file.read_bytes(), "path": name} for file, name in zip(files, names, strict=True)
    ]
    labels = [file.parent.name for file in files]
    rows = pa.table({"image": images, "label": labels})
    pq.write_table(rows, place / KINDS["parquet"], row_group_size=PER_CLASS)


def upload(place: Path, endpoint: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="set")
    for kind in KINDS.values():
        for file in [place / kind] if (place / kind).is_file() else (place / kind).rglob("*.*"):
            client.upload_file(str(file), "set", file.relative_to(place).as_posix())


def decode(name: str, threads: int) -> float:
    """Open a source, which is not counted, and decode it; seconds."""
    source = open_source(name)  # anew, so that no row groups are in memory
    begun = time.perf_counter()
    for image in decode_ahead(source, range(len(source)), workers=threads, budget=BUDGET):
        assert isinstance(image, torch.Tensor)
    return time.perf_counter() - begun


def measure(place: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Compare disk and server for every kind of source, in turns, after a round not counted."""
    results: dict[str, Any] = {}
    for kind, name in KINDS.items():
        names = {"S3": f"s3://set/{name}", "disk": str(place / name)}
        seconds: dict[str, list[float]] = {rival: [] for rival in names}
        for number in range(-1, rounds):
            for rival in sorted(names, reverse=number % 2 == 0):
                taken = decode(names[rival], threads)
                if number >= 0:
                    seconds[rival].append(taken)
        timed = {rival: timing(of_rival) for rival, of_rival in seconds.items()}
        result = report(timed, ours="S3", items=FILES, unit="photograph")
        result["of_the_speed_from_disk"] = round(timed["disk"].median / timed["S3"].median, 3)
        results[kind] = result
        print(table(kind, result))
        print(f"  {result['of_the_speed_from_disk']:.2f} of the speed from disk; target {TARGET}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {SAMPLE}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--latency-ms", type=float, default=LATENCY_MS)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ.update(ACCOUNT, XDG_CACHE_HOME=str(place / "cache"))
        repeat_photographs(arguments.data / SAMPLE, place, FILES, PER_CLASS)
        pack(place / KINDS["class folders"], place)
        with s3_server(arguments.latency_ms / 1000) as endpoint:
            os.environ["AWS_ENDPOINT_URL_S3"] = endpoint
            upload(place, endpoint)
            results = measure(place, arguments.rounds, arguments.threads)
    about = {"latency_ms": arguments.latency_ms, "threads": arguments.threads, "target": TARGET}
    print(write_record("remote-images", {**about, **results}, arguments.out))


if __name__ == "__main__":
    main()
