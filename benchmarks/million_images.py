"""A source of the size of ImageNet-1K: time and memory to open it and to begin a run of RDED.

    python -m benchmarks.million_images --data DIR --work FOLDER

Two sources of 1,281,000 images in 1000 classes: a tree of class folders, whose files are hard links
to the 200 photographs of imagenet-sample-200.zip, and parquet files. The rows of these hold 16
bytes in place of a photograph, because opening reads no images, and whole ones would take 140 GB.
Every measurement runs in a process of its own, after one that is not counted, so directories and
footers are in memory: it opens the source as `pydream rded` does, pre-selects 300 images a class,
hashes contents and settings, and reports its peak memory, that of imports included. FOLDER keeps
the sources for the next run (4 GB, and 1,281,000 names in its file system).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.pipeline import print_run, run_in_turns
from benchmarks.pipeline_cuda import SAMPLE
from benchmarks.records import RESULTS, write_record
from benchmarks.timing import timing
from pydream.allocator import peak_host_bytes

CLASSES, PER_CLASS = 1000, 1281
FILES_OF_PARQUET = 294  # as ImageNet-1K has on the Hugging Face Hub
ROWS_OF_GROUP = 100  # as `datasets` writes images
PRESELECT = 300
# What each source should need at most: seconds to open it and to begin, and GiB in all.
TARGETS = {
    "class folders": {"open": 10.0, "begin": 8.0, "gib": 1.2},
    "parquet": {"open": 3.0, "begin": 8.0, "gib": 0.6},
}


def wnid(label: int) -> str:
    """Name a class, with as many characters as those of ImageNet."""
    return f"n{label:08d}"


def image_name(label: int, number: int) -> str:
    return f"{wnid(label)}_{number}.JPEG"


def make_tree(archive: Path, work: Path) -> Path:
    """Make the tree of class folders, unless a run before has finished it."""
    root, photographs, made = work / "train", work / "photographs", work / "tree.made"
    if made.exists():
        return root
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if not name.endswith("/"))
        opened.extractall(photographs, names)
    for label in range(CLASSES):
        folder = root / wnid(label)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(PER_CLASS):
            link = folder / image_name(label, number)
            if not link.exists():
                os.link(photographs / names[(label * PER_CLASS + number) % len(names)], link)
    made.touch()
    return root


def make_parquet(work: Path) -> Path:
    """Write the parquet files, whose rows are shuffled, unless a run before has finished them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, made = work / "parquet", work / "parquet.made"
    if made.exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    names = [wnid(label) for label in range(CLASSES)]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": names, "_type": "ClassLabel"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    order = np.random.default_rng(0).permutation(CLASSES * PER_CLASS)
    for part, rows in enumerate(np.array_split(order, FILES_OF_PARQUET)):
        labels = rows // PER_CLASS
        images = [
            {"bytes": int(row).to_bytes(16, "little"), "path": image_name(label, row % PER_CLASS)}
            for row, label in zip(rows.tolist(), labels.tolist(), strict=True)
        ]
        table = pa.Table.from_arrays([pa.array(images, image), pa.array(labels)], schema=schema)
        file = root / f"train-{part:05d}-of-{FILES_OF_PARQUET:05d}.parquet"
        pq.write_table(table, file, row_group_size=ROWS_OF_GROUP)
    made.touch()
    return root


def begin(place: Path) -> dict[str, Any]:
    """Open a source and begin a run of RDED, in this process: seconds of each part."""
    from pydream.rded.class_counts import class_counts, ipc_identity
    from pydream.rded.config import RdedConfig
    from pydream.rded.opening import check_sizes, open_images
    from pydream.rded.patches import preselect

    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        begun, before = time.perf_counter(), time.process_time()
        yield
        seconds[part] = time.perf_counter() - begun
        cpu[part] = time.process_time() - before

    imports_mib = peak_host_bytes() / 2**20
    config = RdedConfig(source=str(place), observer="unused", preselect=PRESELECT)
    with timed("open"):
        source = open_images(config, None)
    open_mib = peak_host_bytes() / 2**20
    with timed("pre-select"):
        counts = class_counts(config.ipc, source)
        check_sizes(source, config, counts, 2, 224)
        selection = preselect(source, config.preselect, config.seed)
    with timed("fingerprint and identity"):
        fingerprint = source.fingerprint(selection.indices.tolist())
        identity = {
            **config.identity(),
            "ipc": ipc_identity(counts, source.class_names),
            "source_fingerprint": fingerprint,
        }
        json.dumps(identity)
    return {
        "seconds": sum(seconds.values()),
        "parts": seconds,
        "cpu_seconds": cpu,
        "imports_mib": imports_mib,
        "open_mib": open_mib,
        "images": len(source),
        "pre-selected": len(selection.indices),
        "fingerprint": fingerprint,
    }


def summed_up(name: str, runs: list[dict[str, Any]], place: Path) -> dict[str, Any]:
    """Sum up the runs of a source, and set its medians beside the targets."""
    opening = [run["parts"]["open"] for run in runs]
    beginning = [run["seconds"] - run["parts"]["open"] for run in runs]
    gib = max(run["peak_mib"] for run in runs) / 1024
    return {
        "images": runs[0]["images"],
        "classes": CLASSES,
        "mean_bytes_of_files": mean_size(place),
        "cache": "warm",
        "open_seconds": asdict(timing(opening)),
        "begin_seconds": asdict(timing(beginning)),
        "peak_gib": gib,
        "targets": TARGETS[name],
        "runs": runs,
    }


def mean_size(place: Path) -> float:
    """Return the mean size in bytes of some of the files of a source, as many as parquet has."""
    files = itertools.islice(
        (file for file in place.rglob("*") if file.is_file()), FILES_OF_PARQUET
    )
    return statistics.mean(file.stat().st_size for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {SAMPLE}")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the sources")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    places = {
        "class folders": make_tree(arguments.data / SAMPLE, arguments.work),
        "parquet": make_parquet(arguments.work),
    }
    if arguments.run is not None:
        print_run(begin(places[arguments.run]))
        return
    given = ["--data", str(arguments.data), "--work", str(arguments.work)]
    runs = run_in_turns("benchmarks.million_images", places, given, arguments.rounds + 1)
    results = {name: summed_up(name, of[1:], places[name]) for name, of in runs.items()}
    for name, found in results.items():
        opening, beginning = found["open_seconds"]["median"], found["begin_seconds"]["median"]
        most = found["targets"]
        print(
            f"{name:14s} open {opening:.2f} s (at most {most['open']:g}), "
            f"begin {beginning:.2f} s ({most['begin']:g}), "
            f"peak {found['peak_gib']:.2f} GiB ({most['gib']:g})"
        )
    print(write_record("million-images", results, arguments.out))


if __name__ == "__main__":
    main()
