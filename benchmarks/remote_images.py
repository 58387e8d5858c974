"""Photographs read and decoded from an S3 server with latency, beside the same from the disk.

    python -m benchmarks.remote_images --data DIR

The server is a process of its own on the loopback, and waits before each answer. The photographs
lie as class folders, a zip, WebDataset's shards and parquet in the folder that it serves. They are
decoded in the order of the classes, as RDED reads them, and those of a zip and of shards also in a
shuffled order. Server and reader share the machine's processors, so by default one is left to the
server. A record also has the processor time of the reader and of the server.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.pipeline_cuda import SAMPLE, repeat_photographs
from benchmarks.records import RESULTS, write_record
from benchmarks.timing import report, table, timing
from pydream.data import decode_ahead, open_source

FILES, PER_CLASS, ROUNDS = 800, 100, 5
LATENCY_MS = 20.0
TARGET = 0.8  # of the speed from the disk
BUDGET = 256 << 20
BUCKET = "set"
KINDS = {"class folders": "classes", "zip": "set.zip", "shards": "shards", "parquet": "set.parquet"}
SHUFFLED = ("zip", "shards")
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server(folder: Path, latency_ms: float) -> Iterator[str]:
    """Run the server in a process of its own; gives its URL."""
    command = [sys.executable, "-m", "benchmarks.s3_server", str(folder)]
    process = subprocess.Popen(
        [*command, "--latency-ms", str(latency_ms)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def pack(folder: Path, place: Path) -> None:
    """Write the images of class folders as a zip, shards and parquet."""
    files = sorted(folder.rglob("*.JPEG"))
    names = [file.relative_to(folder).as_posix() for file in files]
    with zipfile.ZipFile(place / KINDS["zip"], "w") as archive:
        for file, name in zip(files, names, strict=True):
            archive.write(file, name)
    (place / KINDS["shards"]).mkdir()
    for number in range(4):
        shard_file = place / KINDS["shards"] / f"{number}.tar"
        with tarfile.open(shard_file, "w", dereference=True) as shard:  # no links to repeated ones
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


class Round(NamedTuple):
    """Seconds of one decoding of all images, and those of processors."""

    seconds: float
    reader: float
    server: float


def server_seconds(endpoint: str) -> float:
    with urllib.request.urlopen(f"{endpoint}/?seconds") as answer:
        return float(answer.read())


def decode(name: str, order: Sequence[int], threads: int, endpoint: str) -> Round:
    """Open a source, which is not counted, and decode it."""
    source = open_source(name)  # anew, so that no row groups are in memory
    assert len(source) == len(order)
    server, reader, begun = server_seconds(endpoint), time.process_time(), time.perf_counter()
    for image in decode_ahead(source, order, workers=threads, budget=BUDGET):
        assert isinstance(image, torch.Tensor)
    return Round(
        time.perf_counter() - begun,
        time.process_time() - reader,
        server_seconds(endpoint) - server,
    )


def measure(place: Path, rounds: int, threads: int, endpoint: str) -> dict[str, Any]:
    """Compare disk and server for every kind of source, in turns, after a round not counted."""
    results: dict[str, Any] = {}
    in_order = list(range(FILES))
    shuffled = random.Random(0).sample(in_order, FILES)
    cases = [(kind, name, in_order) for kind, name in KINDS.items()]
    cases += [(f"{kind}, shuffled", KINDS[kind], shuffled) for kind in SHUFFLED]
    for kind, name, order in cases:
        names = {"S3": f"s3://{BUCKET}/{name}", "disk": str(place / name)}
        taken: dict[str, list[Round]] = {rival: [] for rival in names}
        for number in range(-1, rounds):
            for rival in sorted(names, reverse=number % 2 == 0):
                one = decode(names[rival], order, threads, endpoint)
                if number >= 0:
                    taken[rival].append(one)
        results[kind] = result_of(taken)
        print(table(kind, results[kind]))
        share = results[kind]["of_the_speed_from_disk"]
        print(f"  {share:.2f} of the speed from disk; target {TARGET}", flush=True)
    return results


def result_of(taken: dict[str, list[Round]]) -> dict[str, Any]:
    timed = {rival: timing([one.seconds for one in rounds]) for rival, rounds in taken.items()}
    result = report(timed, ours="S3", items=FILES, unit="photograph")
    result["of_the_speed_from_disk"] = round(timed["disk"].median / timed["S3"].median, 3)
    processors = {rival: [one.reader for one in rounds] for rival, rounds in taken.items()}
    processors["server"] = [one.server for one in taken["S3"]]
    result["processor_seconds"] = {
        name: round(statistics.median(seconds), 3) for name, seconds in processors.items()
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {SAMPLE}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--latency-ms", type=float, default=LATENCY_MS)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / BUCKET
        place.mkdir()
        os.environ.update(ACCOUNT, XDG_CACHE_HOME=str(Path(folder) / "cache"))
        repeat_photographs(arguments.data / SAMPLE, place, FILES, PER_CLASS)
        pack(place / KINDS["class folders"], place)
        with s3_server(Path(folder), arguments.latency_ms) as endpoint:
            os.environ["AWS_ENDPOINT_URL_S3"] = endpoint
            results = measure(place, arguments.rounds, arguments.threads, endpoint)
    about = {
        "latency_ms": arguments.latency_ms,
        "threads": arguments.threads,
        "target": TARGET,
        "load_before": round(
            load, 2
        ),  # by others: a loaded machine favours the side of more threads
    }
    print(write_record("remote-images", {**about, **results}, arguments.out))


if __name__ == "__main__":
    main()
